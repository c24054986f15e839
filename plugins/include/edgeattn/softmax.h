/*!
 * \file
 * \brief Softmax over scores in registers, and its product with V.
 *
 * Keys may come in several chunks: what is kept of those before is, for each query, their largest
 * score m, and relative to it the sum of the weights and the weighted sum of the values (Milakov
 * and Gimelshein, arXiv:1805.02867).
 *
 * The weights exp2(score_scale * (s - m)) lie in [0, 1] and are rounded to 16 bits for the tensor
 * cores, which also add them up: V has a column of ones, so to speak. So numerator and denominator
 * are made of the same weights.
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include <type_traits>

#include "edgeattn/elements.h"
#include "edgeattn/intrinsics.h"
#include "edgeattn/row_tile.h"
#include "edgeattn/scores.h"

namespace edgeattn {

/*! \brief Softmax and output of 16 queries; fragments as in scores.h, with channels for keys. */
template <int kHeadDim>
struct RowState {
  float largest[2];            //!< score of the queries g and g + 8
  float sum[4];                //!< of the weights; [0] and [1] of query g, [2] and [3] of g + 8
  float out[kHeadDim / 8][4];  //!< [8 channels][..], not yet divided by sum
};

template <int kHeadDim>
EDGEATTN_DEVICE void reset(RowState<kHeadDim>& state) {
  state.largest[0] = -INFINITY;
  state.largest[1] = -INFINITY;
  EDGEATTN_UNROLL
  for (int32_t i = 0; i < 4; ++i) {
    state.sum[i] = 0.0f;
    EDGEATTN_UNROLL
    for (int32_t n = 0; n < kHeadDim / 8; ++n) state.out[n][i] = 0.0f;
  }
}

/*! \brief Largest of a value over the four lanes that share a row. */
EDGEATTN_DEVICE float max_of_quad(float value) {
  value = fmaxf(value, shuffle_xor(value, 1));
  return fmaxf(value, shuffle_xor(value, 2));
}

/*! \brief Take the chunk's scores into `largest` and scale what has been summed up so far.
 *  \param is_first  nothing has been summed up yet.
 *  \param offset    [2], what the exponents of the queries' weights are reduced by. */
template <bool kFull, int kHeadDim, int kKeyTiles>
EDGEATTN_DEVICE void raise_largest(RowState<kHeadDim>& state,
                                   float const (&scores)[kKeyTiles][2][4], int32_t tiles,
                                   float score_scale, bool is_first, float (&offset)[2]) {
  float largest[2] = {state.largest[0], state.largest[1]};
  EDGEATTN_UNROLL
  for (int32_t t = 0; t < kKeyTiles; ++t) {
    if (!kFull && t >= tiles) break;
    EDGEATTN_UNROLL
    for (int32_t i = 0; i < 8; ++i) {
      float& row = largest[i % 4 / 2];
      row = fmaxf(row, scores[t][i / 4][i % 4]);
    }
  }
  EDGEATTN_UNROLL
  for (int32_t row = 0; row < 2; ++row) {
    largest[row] = max_of_quad(largest[row]);
    // A query that has seen no key yet: all its weights are 0, and -inf - (-inf) would be NaN.
    offset[row] = largest[row] == -INFINITY ? 0.0f : largest[row] * score_scale;
  }
  if (!is_first) {
    EDGEATTN_UNROLL
    for (int32_t row = 0; row < 2; ++row) {
      float const factor = exp2_approx(fmaf(state.largest[row], score_scale, -offset[row]));
      EDGEATTN_UNROLL
      for (int32_t i = 2 * row; i < 2 * row + 2; ++i) {
        state.sum[i] *= factor;
        EDGEATTN_UNROLL
        for (int32_t n = 0; n < kHeadDim / 8; ++n) state.out[n][i] *= factor;
      }
    }
  }
  state.largest[0] = largest[0];
  state.largest[1] = largest[1];
}

/*! \brief The weights of a tile of scores as the A operand of the product with V. */
template <typename T>
EDGEATTN_DEVICE void weights_operand(float const (&scores)[2][4], float score_scale,
                                     float const (&offset)[2], uint32_t (&a)[4]) {
  EDGEATTN_UNROLL
  for (int32_t i = 0; i < 4; ++i) {  // g: keys 0-7; g + 8: keys 0-7; g: keys 8-15; g + 8: keys 8-15
    float const* const pair = &scores[i / 2][2 * (i % 2)];
    a[i] = pack2<T>(exp2_approx(fmaf(pair[0], score_scale, -offset[i % 2])),
                    exp2_approx(fmaf(pair[1], score_scale, -offset[i % 2])));
  }
}

/*! \brief Add a chunk's weights and weighted values to the state of each row tile. kFull: as in
 *  multiply_keys. */
template <typename T, bool kFull, int kHeadDim, int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void add_chunk(Scores<kRowTiles, kKeyTiles> const& scores, KeyChunk const& chunk,
                               float score_scale, bool is_first,
                               RowState<kHeadDim> (&state)[kRowTiles]) {
  using Tile = RowTile<kHeadDim>;
  constexpr uint32_t kOnes = std::is_same_v<T, half_t> ? 0x3c003c00u : 0x3f803f80u;
  float offset[kRowTiles][2];
  EDGEATTN_UNROLL
  for (int32_t r = 0; r < kRowTiles; ++r) {
    raise_largest<kFull>(state[r], scores.tile[r], chunk.tiles, score_scale, is_first, offset[r]);
  }

  // Lane 8i + j reads key j (i = 0, 2) or 8 + j (i = 1, 3), chunk 2p (i < 2) or 2p + 1.
  Shared<unsigned char> value[kHeadDim / 16];
  EDGEATTN_UNROLL
  for (int32_t p = 0; p < kHeadDim / 16; ++p) {
    value[p] = chunk.values + Tile::offset(lane_index() % 16, 2 * p + lane_index() / 16);
  }
  EDGEATTN_UNROLL
  for (int32_t t = 0; t < kKeyTiles; ++t) {
    if (!kFull && t >= chunk.tiles) break;
    uint32_t a[kRowTiles][4];
    EDGEATTN_UNROLL
    for (int32_t r = 0; r < kRowTiles; ++r) {
      weights_operand<T>(scores.tile[r][t], score_scale, offset[r], a[r]);
      uint32_t const ones[2] = {kOnes, kOnes};
      mma_m16n8k16<T>(state[r].sum, a[r], ones);
    }
    EDGEATTN_UNROLL
    for (int32_t p = 0; p < kHeadDim / 16; ++p) {
      uint32_t channels[4];
      ldmatrix_x4_trans(channels, value[p] + 16 * t * Tile::kRowBytes);
      uint32_t const low[2] = {channels[0], channels[1]};
      uint32_t const high[2] = {channels[2], channels[3]};
      EDGEATTN_UNROLL
      for (int32_t r = 0; r < kRowTiles; ++r) {
        mma_m16n8k16<T>(state[r].out[2 * p], a[r], low);
        mma_m16n8k16<T>(state[r].out[2 * p + 1], a[r], high);
      }
    }
  }
}

/*! \brief Take a chunk of keys into the state of each row tile.
 *  \param is_first  nothing has been taken in yet. */
template <typename T, int kHeadDim, int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void accumulate(Scores<kRowTiles, kKeyTiles> const& scores, KeyChunk const& chunk,
                                float score_scale, bool is_first,
                                RowState<kHeadDim> (&state)[kRowTiles]) {
  if (chunk.tiles == kKeyTiles) {
    add_chunk<T, true>(scores, chunk, score_scale, is_first, state);
  } else {
    add_chunk<T, false>(scores, chunk, score_scale, is_first, state);
  }
}

}  // namespace edgeattn
