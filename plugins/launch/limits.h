/*!
 * \file
 * \brief The sizes that the kernels were written for.
 */
#pragma once

#include <stdint.h>

#include <algorithm>

#include "edgeattn/device_size.h"
#include "edgeattn/params.h"

namespace edgeattn {

constexpr int32_t kMaxHeadDim = 128;       //!< of the fused kernels
constexpr int32_t kMaxPlainHeadDim = 256;  //!< of the FP32 kernel
constexpr int32_t kMaxHeads = INT16_MAX;

/*! Tokens of a window, or keys of a tile of queries. */
constexpr int32_t kMaxWindowTokens = 1 << 24;

/*! Keys of a window that the resident kernels for one chunk take, but for kOnePass. */
constexpr int32_t kOneChunkKeys = 64;

/*! Query tiles that each warp gets of a step of the resident kernel, at most. */
constexpr int32_t kMaxWarpTiles = 2;

/*! The bias is divided by softmax_scale, and by the square of INT8's scale. */
constexpr float kMinSoftmaxScale = 1e-12f;
constexpr float kMaxSoftmaxScale = 1e12f;

/*! The output, at most 128 steps of qkv, is rounded as an integer of 22 bits. */
constexpr float kMaxQuantScaleRatio = 16384.0f;

/*! Shared memory that the system takes from each CTA. */
constexpr int32_t kSystemSharedBytes = 1 << 10;

/*! Dynamic shared memory of a CTA, of which two share an SM of Orin (sm_87, 164 KiB); sm_86, 89 and
 *  120 have 99 KiB for a CTA. */
constexpr int32_t kMaxSharedBytes = 81 << 10;

/*! \brief The same on larger GPUs: what leaves room for two CTAs. */
inline int32_t max_shared_bytes(DeviceSize const& device) {
  int32_t const half = device.shared_bytes / 2 - kSystemSharedBytes;
  return std::min(std::max(half, kMaxSharedBytes), device.cta_shared_bytes);
}

}  // namespace edgeattn
