#include "fused_kernel.h"

namespace edgeattn {

template AttentionKernel fused_kernel<bf16_t, 128>(VariantId id, bool one_chunk);

}  // namespace edgeattn
