/*!
 * \file
 * \brief The kernels that compete for a problem: TensorRT calls them tactics.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/edgeattn.h"

namespace edgeattn {

/*! \brief Ids of `edgeattn_variants`; part of TensorRT's timing cache, so never reused. */
enum VariantId : int32_t {
  kNoVariant = 0,
  kPlain = 1,       //!< FP32
  kSmallTiles = 2,  //!< K and V resident; a warp has the scores of 16 queries and 64 keys
  kWideTiles = 3,   //!< resident; 32 queries and 64 keys: it uses each fragment of K and V twice
  kOnePass = 4,     //!< resident; 16 queries and 256 keys: no second chunk of keys
  kStreamed = 5,    //!< K and V streamed: windows of any size
};

/*! \brief How a variant cuts up its work. */
struct Variant {
  VariantId id;
  int32_t row_tiles;  //!< tiles of 16 queries that a warp takes at a time
  int32_t key_tiles;  //!< tiles of 16 keys with scores in registers
  bool chunked;       //!< windows may have more keys than these, in several chunks
  int32_t min_ctas;   //!< that are to share an SM, which limits the registers
};

/*! \brief The variant of the fused kernels for a head_dim; its id is kNoVariant where there is
 * none.
 *
 * Heads of more than 64 channels leave registers for 16 queries and 64 keys only, in chunks. Others
 * have a kernel for windows up to 64 keys apart from the one for chunks: it has registers left to
 * load the next queries early, and takes several windows, one after the other.
 *  \param head_dim  32, 64, 96 or 128.
 *  \param one_chunk  no window has more than 64 keys. */
constexpr Variant fused_variant(VariantId id, int32_t head_dim, bool one_chunk) {
  bool const deep = head_dim > 64;
  switch (id) {
    case kSmallTiles:
      if (deep) return {id, 1, 4, true, head_dim == 96 ? 3 : 2};
      return {one_chunk ? id : kNoVariant, 1, 4, false, 4};
    case kWideTiles:
      return {deep ? kNoVariant : id, 2, 4, !one_chunk, head_dim == 32 ? 3 : 2};
    case kOnePass:
      return {deep ? kNoVariant : id, 1, 16, false, 2};
    case kStreamed:
      return {id, deep ? 1 : 2, 4, true, 2};
    default:
      return {kNoVariant, 0, 0, false, 0};
  }
}

/*! \brief Channels that the kernels for `head_dim` are made for. */
constexpr int32_t padded_head_dim(int32_t head_dim) { return (head_dim + 31) / 32 * 32; }

/*! \brief The variant of any kernel for a type and head_dim. */
constexpr Variant find_variant(int32_t id, int32_t in_type, int32_t head_dim, bool one_chunk) {
  if (in_type == EDGEATTN_FLOAT32) return {id == kPlain ? kPlain : kNoVariant, 0, 0, false, 0};
  return fused_variant(static_cast<VariantId>(id), padded_head_dim(head_dim), one_chunk);
}

}  // namespace edgeattn
