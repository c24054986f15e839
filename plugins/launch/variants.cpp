#include "variants.h"

namespace edgeattn {

Variant find_variant(int32_t id, int32_t in_type, int32_t head_dim) {
  if (in_type == EDGEATTN_FLOAT32) {
    return {id == kPlain ? kPlain : kNoVariant, 0, 0, 0};
  }
  return fused_variant(static_cast<VariantId>(id), padded_head_dim(head_dim));
}

}  // namespace edgeattn
