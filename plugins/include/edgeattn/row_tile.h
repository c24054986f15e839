/*!
 * \file
 * \brief How rows of K and V lie in shared memory.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/intrinsics.h"

namespace edgeattn {

/*! Channels of a chunk: 16 bytes in shared memory. */
constexpr int32_t kChunkChannels = 8;

/*! \brief Rows of kHeadDim 16-bit channels, in chunks that are swapped about within their row.
 *
 * Eight accesses of 16 bytes make one pass over the 32 banks. The chunks are placed so that a pass
 * meets no bank twice
 *   - when ldmatrix reads the same chunk of 8 consecutive rows (V), and
 *   - when lanes read 4 consecutive chunks of 2 consecutive rows (K).
 * Where a row is half a pass or 3/2 of one, bit 0 of the row already tells two halves apart. */
template <int kHeadDim>
struct RowTile {
  static_assert(kHeadDim % 32 == 0, "lanes read K in blocks of 32 channels");
  static constexpr int32_t kChunks = kHeadDim / kChunkChannels;
  static constexpr int32_t kRowBytes = kHeadDim * 2;

  /*! \brief Where a chunk of a row begins, in bytes from the tile's begin. */
  static EDGEATTN_HOST_DEVICE int32_t offset(int32_t row, int32_t chunk) {
    int32_t const half = kChunks % 8 == 0 ? (row & 1) << 2 : 0;
    int32_t const swizzle = half | ((row >> 1) & 3);
    return row * kRowBytes + (chunk ^ swizzle) * 16;
  }
};

}  // namespace edgeattn
