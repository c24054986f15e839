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

/*! \brief This lane's part of 16 queries. */
template <int kHeadDim>
struct QueryFragment {
  uint32_t word[kHeadDim / 32][2][4];  //!< [block of 32 channels][row g, g + 8][two channels each]
};

/*! \brief The A operand of mma number `step` of a block of 32 channels. */
template <int kHeadDim>
EDGEATTN_DEVICE void query_operand(QueryFragment<kHeadDim> const& query, int32_t block,
                                   int32_t step, uint32_t (&a)[4]) {
  a[0] = query.word[block][0][2 * step];
  a[1] = query.word[block][1][2 * step];
  a[2] = query.word[block][0][2 * step + 1];
  a[3] = query.word[block][1][2 * step + 1];
}

/*! \brief Start loading 16 queries of a head; zeros for queries that are no tokens. They may be
 * used after `widen_queries`: what that does would have to wait for the memory if done here.
 *  \param rows  the 16 queries.
 *  \param head  in qkv. */
template <typename T, int kHeadDim>
EDGEATTN_DEVICE void load_queries(AttentionParams const& params, Shared<QueryRow> rows,
                                  int32_t head, QueryFragment<kHeadDim>& query) {
  int32_t const g = lane_index() / 4;
  int32_t const c = lane_index() % 4;
  Global<T const> const of_head =
      Global<T const>(static_cast<T const*>(params.qkv)) +
      (static_cast<int64_t>(head) * params.head_stride + c * kChunkChannels);
  EDGEATTN_UNROLL
  for (int32_t half = 0; half < 2; ++half) {
    int32_t const token = load((rows + (g + 8 * half)).as<int32_t>());
    Global<T const> const from =
        of_head + static_cast<int64_t>(token < 0 ? 0 : token) * params.token_stride;
    EDGEATTN_UNROLL
    for (int32_t block = 0; block < kHeadDim / 32; ++block) {
      using Chunk = std::conditional_t<sizeof(T) == 1, Vec8, Vec16>;
      Chunk chunk{};
      if (token >= 0 && 32 * block + c * kChunkChannels < params.head_dim) {
        chunk = load((from + 32 * block).template as<Chunk const>());
      }
      EDGEATTN_UNROLL
      for (int32_t w = 0; w < static_cast<int32_t>(sizeof(Chunk) / 4); ++w) {
        query.word[block][half][w] = chunk.word[w];
      }
    }
  }
}

/*! \brief Widen INT8 to FP16. */
template <typename T, int kHeadDim>
EDGEATTN_DEVICE void widen_queries(QueryFragment<kHeadDim>& query) {
  if constexpr (sizeof(T) == 1) {
    EDGEATTN_UNROLL
    for (int32_t block = 0; block < kHeadDim / 32; ++block) {
      EDGEATTN_UNROLL
      for (int32_t half = 0; half < 2; ++half) {
        uint32_t (&word)[4] = query.word[block][half];
        Vec16 const chunk = half_from_int8(word[0], word[1]);
        EDGEATTN_UNROLL
        for (int32_t w = 0; w < 4; ++w) word[w] = chunk.word[w];
      }
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
EDGEATTN_DEVICE float inverse_length(float square) { return 1.0f / fmaxf(sqrt_rn(square), 1e-12f); }

/*! \brief 1 / length of the queries g and g + 8. */
template <typename T, int kHeadDim>
EDGEATTN_DEVICE void inverse_lengths(QueryFragment<kHeadDim> const& query, float (&inverse)[2]) {
  EDGEATTN_UNROLL
  for (int32_t half = 0; half < 2; ++half) {
    float square = 0.0f;
    EDGEATTN_UNROLL
    for (int32_t block = 0; block < kHeadDim / 32; ++block) {
      EDGEATTN_UNROLL
      for (int32_t w = 0; w < 4; ++w) square += sum_of_squares<Math<T>>(query.word[block][half][w]);
    }
    inverse[half] = inverse_length(sum_of_quad(square));
  }
}

}  // namespace edgeattn
