#include "edgeattn/window_attention_plain.h"
#include "kernels.h"

namespace edgeattn {

AttentionKernel plain_kernel(int32_t head_dim) {
  if (head_dim <= 32) return window_attention_plain_kernel<1>;
  if (head_dim <= 64) return window_attention_plain_kernel<2>;
  if (head_dim <= 128) return window_attention_plain_kernel<4>;
  return window_attention_plain_kernel<8>;
}

}  // namespace edgeattn
