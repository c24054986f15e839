/*!
 * \file
 * \brief The sizes that the kernels were written for.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/params.h"

namespace edgeattn {

constexpr int32_t kMaxHeadDim = 128;       //!< of the fused kernels
constexpr int32_t kMaxPlainHeadDim = 256;  //!< of the FP32 kernel
constexpr int32_t kMaxHeads = INT16_MAX;

/*! Tokens of a window, or keys of a tile of queries. */
constexpr int32_t kMaxWindowTokens = 1 << 24;

/*! Keys of a window that the resident kernels for one chunk take, but for kOnePass. */
constexpr int32_t kOneChunkKeys = 64;

/*! Query tiles of a step of the resident kernel. */
constexpr int32_t kMaxStepTiles = 16;

/*! The bias is divided by softmax_scale, and by the square of INT8's scale. */
constexpr float kMinSoftmaxScale = 1e-12f;
constexpr float kMaxSoftmaxScale = 1e12f;

/*! Dynamic shared memory of a CTA: with the 1 KiB that the system takes from each CTA, two of them
 *  share the 164 KiB of an SM of Orin (sm_87); sm_86, 89 and 120 have 99 KiB for a CTA. */
constexpr int32_t kMaxSharedBytes = 81 << 10;

}  // namespace edgeattn
