#include "fused_kernel.h"

namespace edgeattn {

template AttentionKernel fused_kernel<int8_t, 32>(VariantId id, bool one_chunk);

}  // namespace edgeattn
