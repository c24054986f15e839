/*!
 * \file
 * \brief From the state of a row tile to rows of the output.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/elements.h"
#include "edgeattn/intrinsics.h"
#include "edgeattn/params.h"
#include "edgeattn/quad_transpose.h"
#include "edgeattn/row_tile.h"
#include "edgeattn/softmax.h"
#include "edgeattn/token_rows.h"

namespace edgeattn {

/*! \brief This lane's chunk of 32 channels of a row, in 16 bits.
 *  \param row     0: query g, 1: g + 8.
 *  \param factor  multiplies the output. */
template <typename Out, int kHeadDim>
EDGEATTN_DEVICE Vec16 output_chunk(RowState<kHeadDim> const& state, int32_t block, int32_t row,
                                   float factor) {
  uint32_t word[4];
  EDGEATTN_UNROLL
  for (int32_t t = 0; t < 4; ++t) {
    float const* const pair = &state.out[4 * block + t][2 * row];
    word[t] = pack2<Out>(pair[0] * factor, pair[1] * factor);
  }
  transpose_quad(word);
  return {{word[0], word[1], word[2], word[3]}};
}

/*! \brief The same in 8 bits. */
template <int kHeadDim>
EDGEATTN_DEVICE Vec8 output_chunk_int8(RowState<kHeadDim> const& state, int32_t block, int32_t row,
                                       float factor) {
  uint32_t word[2];
  EDGEATTN_UNROLL
  for (int32_t t = 0; t < 2; ++t) {
    float const* const first = &state.out[4 * block + 2 * t][2 * row];
    float const* const second = &state.out[4 * block + 2 * t + 1][2 * row];
    word[t] = pack_int8(rounded_product(first[0], factor), rounded_product(first[1], factor),
                        rounded_product(second[0], factor), rounded_product(second[1], factor));
  }
  transpose_quad(word);
  return {{word[0], word[1]}};
}

/*! \brief Divide by the sums of the weights and store the rows that are tokens.
 *  \param rows      the 16 queries.
 *  \param out_head  in the output. */
template <typename T, int kHeadDim>
EDGEATTN_DEVICE void store_output(AttentionParams const& params, RowState<kHeadDim> const& state,
                                  Shared<QueryRow> rows, int32_t out_head) {
  int32_t const g = lane_index() / 4;
  int32_t const c = lane_index() % 4;
  EDGEATTN_UNROLL
  for (int32_t row = 0; row < 2; ++row) {
    int32_t const token = load((rows + (g + 8 * row)).as<int32_t>());
    int64_t const first = static_cast<int64_t>(token) * params.out_token_stride +
                          out_head * params.head_dim + c * kChunkChannels;
    float factor = reciprocal_approx(state.sum[2 * row]);
    if constexpr (sizeof(T) == 1) factor *= params.out_scale;
    EDGEATTN_UNROLL
    for (int32_t block = 0; block < kHeadDim / 32; ++block) {
      bool const is_channel = 32 * block + c * kChunkChannels < params.head_dim;
      int64_t const element = first + 32 * block;
      if (sizeof(T) == 1 && params.out_is_int8) {
        Vec8 const chunk = output_chunk_int8(state, block, row, factor);
        Global<int8_t> const out(static_cast<int8_t*>(params.out));
        if (token >= 0 && is_channel) store((out + element).template as<Vec8>(), chunk);
      } else {
        Vec16 const chunk = output_chunk<Math<T>>(state, block, row, factor);
        Global<Math<T>> const out(static_cast<Math<T>*>(params.out));
        if (token >= 0 && is_channel) store((out + element).template as<Vec16>(), chunk);
      }
    }
  }
}

}  // namespace edgeattn
