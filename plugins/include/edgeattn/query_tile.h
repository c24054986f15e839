/*!
 * \file
 * \brief Queries in registers: the A operand of Q·Kᵀ, straight from global memory.
 *
 * An mma sums over 16 channels, and it does not matter which: it is enough that the fragments of Q
 * and K agree. So lane 4g + c holds chunk c (8 consecutive channels) of every block of 32 channels
 * of the rows g and g + 8, which it reads as one word from global memory; of K, it reads the same
 * chunk of key g as one word from shared memory. Words 0 and 1 of a chunk feed the first of two
 * mma, words 2 and 3 the second.
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include <type_traits>

#include "edgeattn/elements.h"
#include "edgeattn/intrinsics.h"
#include "edgeattn/params.h"
#include "edgeattn/row_tile.h"
#include "edgeattn/token_rows.h"

namespace edgeattn {

/*! \brief A chunk of a row of qkv: 8 channels. */
template <typename T>
using Chunk = std::conditional_t<sizeof(T) == 1, Vec8, Vec16>;

/*! \brief Queries on their way from memory: those of the rows g, g + 8, g + 16, … of this lane. */
template <typename T, int kHeadDim, int kRowTiles>
struct LoadedQueries {
  Chunk<T> chunk[2 * kRowTiles][kHeadDim / 32];
};

/*! \brief kRowTiles * 16 queries of one head: A operands of the mma over 16 channels each. */
template <int kHeadDim, int kRowTiles>
struct QueryTile {
  uint32_t operand[kRowTiles][kHeadDim / 16][4];
};

/*! \brief Start loading queries; those that are no tokens are left as they are.
 *  \param head  in qkv. */
template <typename T, int kHeadDim, int kRowTiles>
EDGEATTN_DEVICE void start_queries(AttentionParams const& params, Shared<QueryRow> rows,
                                   int32_t head, LoadedQueries<T, kHeadDim, kRowTiles>& loaded) {
  int32_t const channel = lane_index() % 4 * kChunkChannels;
  Global<T const> const of_head = Global<T const>(static_cast<T const*>(params.qkv)) +
                                  static_cast<int64_t>(head) * params.head_stride;
  EDGEATTN_UNROLL
  for (int32_t row = 0; row < 2 * kRowTiles; ++row) {
    int32_t const token = load((rows + (lane_index() / 4 + 8 * row)).as<int32_t>());
    if (token < 0) continue;
    Global<T const> const from = of_head + static_cast<int64_t>(token) * params.token_stride;
    EDGEATTN_UNROLL
    for (int32_t block = 0; block < kHeadDim / 32; ++block) {
      int32_t const first = 32 * block + channel;
      if (first >= params.head_dim) continue;
      loaded.chunk[row][block] = load((from + first).template as<Chunk<T> const>());
    }
  }
}

/*! \brief Sum over the four lanes that share a row. */
EDGEATTN_DEVICE float sum_of_quad(float value) {
  value += shuffle_xor(value, 1);
  value += shuffle_xor(value, 2);
  return value;
}

/*! \brief 1 / max(length, 1e-12) from the square of a vector's length. */
EDGEATTN_DEVICE float inverse_length(float square) {
  return reciprocal_approx(fmaxf(sqrt_rn(square), 1e-12f));
}

/*! \brief Make loaded queries ready for use. */
template <typename T, int kHeadDim, int kRowTiles>
EDGEATTN_DEVICE void finish_queries(int32_t head_dim,
                                    LoadedQueries<T, kHeadDim, kRowTiles> const& loaded,
                                    QueryTile<kHeadDim, kRowTiles>& query) {
  int32_t const channel = lane_index() % 4 * kChunkChannels;
  EDGEATTN_UNROLL
  for (int32_t row = 0; row < 2 * kRowTiles; ++row) {
    EDGEATTN_UNROLL
    for (int32_t block = 0; block < kHeadDim / 32; ++block) {
      Vec16 words;
      if constexpr (sizeof(T) == 1) {
        words = half_from_int8(loaded.chunk[row][block].word[0], loaded.chunk[row][block].word[1]);
      } else {
        words = loaded.chunk[row][block];
      }
      bool const is_channel = 32 * block + channel < head_dim;
      EDGEATTN_UNROLL
      for (int32_t w = 0; w < 4; ++w) {
        // An A operand is rows g and g + 8 of channel pair 0, then both rows of pair 1.
        query.operand[row / 2][2 * block + w / 2][row % 2 + 2 * (w % 2)] =
            is_channel ? words.word[w] : 0;
      }
    }
  }
}

/*! \brief Cosine attention: write down logit_scale / length of each query.
 *  \param head  in qkv.
 *  \param to    [16 * kRowTiles], this warp's own. */
template <typename T, int kHeadDim, int kRowTiles>
EDGEATTN_DEVICE void build_cosine_factors(AttentionParams const& params, int32_t head,
                                          QueryTile<kHeadDim, kRowTiles> const& query,
                                          Shared<float> to) {
  float const scale = load(Global<float const>(params.logit_scale) + head);
  sync_warp();  // no lane reads the factors of the queries before any more
  EDGEATTN_UNROLL
  for (int32_t row = 0; row < 2 * kRowTiles; ++row) {
    float square = 0.0f;
    EDGEATTN_UNROLL
    for (int32_t step = 0; step < kHeadDim / 16; ++step) {
      uint32_t const(&a)[4] = query.operand[row / 2][step];
      square += sum_of_squares<T>(a[row % 2]) + sum_of_squares<T>(a[row % 2 + 2]);
    }
    float const factor = scale * inverse_length(sum_of_quad(square));
    if (lane_index() % 4 == 0) store(to + (lane_index() / 4 + 8 * row), factor);
  }
  sync_warp();  // the factors of all rows are there
}

}  // namespace edgeattn
