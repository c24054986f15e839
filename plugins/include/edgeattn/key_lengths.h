/*!
 * \file
 * \brief The lengths of keys, for cosine attention.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/key_value_loader.h"
#include "edgeattn/query_tile.h"
#include "edgeattn/row_tile.h"

namespace edgeattn {

/*! \brief 1 / length of all keys in shared memory.
 *  \param to  [head][row] */
template <typename T, int kHeadDim>
EDGEATTN_DEVICE void build_inverse_lengths(KeyValueTiles const& tiles, Shared<float> to) {
  using Tile = RowTile<kHeadDim>;
  for (int32_t head = 0; head < tiles.num_heads; ++head) {
    Shared<unsigned char> const keys = tiles.begin + 2 * head * tiles.rows * Tile::kRowBytes;
    for (int32_t row = thread_index(); row < tiles.rows; row += kThreads) {
      float square = 0.0f;
      EDGEATTN_UNROLL
      for (int32_t chunk = 0; chunk < Tile::kChunks; ++chunk) {
        Vec16 const channels = load((keys + Tile::offset(row, chunk)).template as<Vec16>());
        EDGEATTN_UNROLL
        for (int32_t w = 0; w < 4; ++w) square += sum_of_squares<Math<T>>(channels.word[w]);
      }
      store(to + (head * tiles.rows + row), inverse_length(square));
    }
  }
}

}  // namespace edgeattn
