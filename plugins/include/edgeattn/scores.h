/*!
 * \file
 * \brief Scores in registers: Q·Kᵀ with bias and mask, of some tiles of 16 queries and 16 keys.
 *
 * A lane holds the scores of its queries g and g + 8 of a tile with the keys 2c, 2c + 1, 8 + 2c and
 * 9 + 2c, where lane = 4g + c: the C fragments of two mma.
 *
 * In dot-product attention the accumulators begin with the bias, which the table holds in the units
 * of q·k; so it costs no arithmetic. In cosine attention q·k is first multiplied by the lengths'
 * inverses.
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include "edgeattn/bias_table.h"
#include "edgeattn/intrinsics.h"
#include "edgeattn/query_tile.h"
#include "edgeattn/row_tile.h"
#include "edgeattn/token_rows.h"

namespace edgeattn {

/*! \brief Keys in shared memory that are attended to at once. */
struct KeyChunk {
  Shared<unsigned char> keys;     //!< [16 * tiles] rows of a RowTile
  Shared<unsigned char> values;   //!< the same
  Shared<float> inverse_lengths;  //!< [16 * tiles], cosine attention
  Shared<int32_t> bias;           //!< [16 * tiles], KeyRow::bias
  Shared<int32_t> codes;          //!< [16 * tiles], KeyRow::code
  int32_t tiles;                  //!< of 16 keys
  int32_t first_masked;           //!< tile from which on keys may be hidden
  float mask_value;               //!< added to the scores of hidden keys, if they are keys at all
};

/*! \brief Scores of kRowTiles * 16 queries with kKeyTiles * 16 keys. */
template <int kRowTiles, int kKeyTiles>
struct Scores {
  float tile[kRowTiles][kKeyTiles][2][4];  //!< [..][..][keys 0-7, 8-15][g: 2c, 2c+1; g+8: 2c, 2c+1]
};

/*! \brief scores[row tile] += Q · (8 keys)ᵀ.
 *  \param key  this lane's first chunk of key g. */
template <typename T, int kHeadDim, int kRowTiles>
EDGEATTN_DEVICE void multiply_keys(QueryTile<kHeadDim, kRowTiles> const& query,
                                   Shared<unsigned char> (&key)[kHeadDim / 32], int32_t offset,
                                   float (&scores)[kRowTiles][4]) {
  EDGEATTN_UNROLL
  for (int32_t block = 0; block < kHeadDim / 32; ++block) {
    Vec16 const chunk = load((key[block] + offset).template as<Vec16>());
    EDGEATTN_UNROLL
    for (int32_t step = 0; step < 2; ++step) {
      uint32_t const b[2] = {chunk.word[2 * step], chunk.word[2 * step + 1]};
      EDGEATTN_UNROLL
      for (int32_t r = 0; r < kRowTiles; ++r) {
        uint32_t a[4];
        query_operand(query.fragment[r], block, step, a);
        mma_m16n8k16<Math<T>>(scores[r], a, b);
      }
    }
  }
}

/*! \brief Add the mask to the scores of 8 keys: -inf to keys that are none, mask_value to keys that
 *  only the shift brought together with a query. */
template <int kHeadDim, int kRowTiles>
EDGEATTN_DEVICE void mask_scores(QueryTile<kHeadDim, kRowTiles> const& query, Shared<int32_t> codes,
                                 float mask_value, float (&scores)[kRowTiles][4]) {
  Vec8 const code = load((codes + 2 * (lane_index() % 4)).as<Vec8>());
  EDGEATTN_UNROLL
  for (int32_t row = 0; row < 2 * kRowTiles; ++row) {
    // Only now: in most tiles nothing is masked, and these would take up registers.
    Vec16 const query_row = load((query.rows + (lane_index() / 4 + 8 * row)).template as<Vec16>());
    EDGEATTN_UNROLL
    for (int32_t i = 0; i < 2; ++i) {
      int32_t const key = static_cast<int32_t>(code.word[i]);
      float const addend = key == kNoKey ? -INFINITY : mask_value;
      float& score = scores[row / 2][2 * (row % 2) + i];
      if (is_outside(key, static_cast<int32_t>(query_row.word[2]),
                     static_cast<int32_t>(query_row.word[3]))) {
        score += addend;
      }
    }
  }
}

/*! \brief Compute the scores of a chunk; those past its tiles are left as they are. */
template <typename T, bool kMayBeGlobal, int kHeadDim, int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void compute_scores(AttentionParams const& params, Bias const& bias,
                                    QueryTile<kHeadDim, kRowTiles> const& query,
                                    KeyChunk const& chunk, Scores<kRowTiles, kKeyTiles>& scores) {
  using Tile = RowTile<kHeadDim>;
  int32_t const g = lane_index() / 4;
  int32_t const c = lane_index() % 4;
  Shared<unsigned char> key[kHeadDim / 32];
  EDGEATTN_UNROLL
  for (int32_t block = 0; block < kHeadDim / 32; ++block) {
    key[block] = chunk.keys + Tile::offset(g, 4 * block + c);
  }

  EDGEATTN_UNROLL
  for (int32_t t = 0; t < kKeyTiles; ++t) {
    if (t < chunk.tiles) {
      EDGEATTN_UNROLL
      for (int32_t n = 0; n < 2; ++n) {
        int32_t const first_key = 16 * t + 8 * n;
        int32_t const lane_key = first_key + 2 * c;
        float score[kRowTiles][4] = {};
        float addend[2 * kRowTiles][2] = {};
        if (bias.exists()) bias.look_up<kMayBeGlobal>(query.bias, chunk.bias, lane_key, addend);
        if (!params.cosine) {
          EDGEATTN_UNROLL
          for (int32_t i = 0; i < 4 * kRowTiles; ++i) score[i / 4][i % 4] = addend[i / 2][i % 2];
        }
        multiply_keys<T>(query, key, first_key * Tile::kRowBytes, score);
        if (params.cosine) {
          Vec8 const inverse = load((chunk.inverse_lengths + lane_key).template as<Vec8>());
          EDGEATTN_UNROLL
          for (int32_t i = 0; i < 4 * kRowTiles; ++i) {
            float const cosine = score[i / 4][i % 4] * uint_as_float(inverse.word[i % 2]);
            score[i / 4][i % 4] = cosine * query.cosine_factor[i / 2] + addend[i / 2][i % 2];
          }
        }
        if (t >= chunk.first_masked) {
          mask_scores(query, chunk.codes + first_key, chunk.mask_value, score);
        }
        EDGEATTN_UNROLL
        for (int32_t i = 0; i < 4 * kRowTiles; ++i) {
          scores.tile[i / 4][t][n][i % 4] = score[i / 4][i % 4];
        }
      }
    }
  }
}

}  // namespace edgeattn
