/*!
 * \file
 * \brief The compiled kernels: one source file for each type and head_dim.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/params.h"
#include "variants.h"

namespace edgeattn {

using AttentionKernel = void (*)(AttentionParams);

/*! \brief A fused kernel; NULL where there is no such variant.
 *  \tparam T         half_t, bf16_t or int8_t.
 *  \tparam kHeadDim  32, 64, 96 or 128.
 *  \param one_chunk  no window has more than 64 keys. */
template <typename T, int kHeadDim>
AttentionKernel fused_kernel(VariantId id, bool one_chunk);

/*! \brief The FP32 kernel for head_dim up to 256. */
AttentionKernel plain_kernel(int32_t head_dim);

}  // namespace edgeattn
