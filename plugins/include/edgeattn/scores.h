/*!
 * \file
 * \brief Scores in registers: Q·Kᵀ with bias and mask, of some tiles of 16 queries and 16 keys.
 *
 * A lane holds the scores of its queries g and g + 8 of a tile with the keys 2c, 2c + 1, 8 + 2c and
 * 9 + 2c, where lane = 4g + c: the C fragments of two mma.
 *
 * The accumulators begin with the bias, which the table in shared memory holds in the units of q·k;
 * so it costs no arithmetic. What is rare is done afterwards, in passes over the registers: cosine
 * attention, a bias table in global memory, and the mask.
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
  int32_t existing;               //!< keys; rows past them are padding of the last tile
  bool is_mixed;                  //!< keys are hidden from some queries: the codes say which
};

/*! \brief What belongs to the rows of a tile of queries, in shared memory. */
struct QueryRows {
  Shared<QueryRow> rows;         //!< [16 * row tiles]
  Shared<float> cosine_factors;  //!< [16 * row tiles], logit_scale / length; cosine attention
};

/*! \brief Scores of kRowTiles * 16 queries with kKeyTiles * 16 keys. */
template <int kRowTiles, int kKeyTiles>
struct Scores {
  float tile[kRowTiles][kKeyTiles][2][4];  //!< [..][..][keys 0-7, 8-15][g: 2c, 2c+1; g+8: 2c, 2c+1]
};

/*! \brief Let the scores of a tile of keys begin with the bias from shared memory, or with 0.
 *  \param bias_rows  rows of the bias table that belong to the queries g, g + 8, …
 *  \param key_bias   KeyRow::bias from this lane's first key of the tile on. */
template <BiasSource kSource, int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void begin_scores(Shared<float> const (&bias_rows)[2 * kRowTiles],
                                  Shared<int32_t> key_bias, int32_t tile,
                                  Scores<kRowTiles, kKeyTiles>& scores) {
  EDGEATTN_UNROLL
  for (int32_t n = 0; n < 2; ++n) {
    float bias[2 * kRowTiles][2] = {};
    if constexpr (kSource != kNoBias) look_up_bias<kSource>(bias_rows, key_bias, 8 * n, bias);
    EDGEATTN_UNROLL
    for (int32_t i = 0; i < 4 * kRowTiles; ++i) {
      scores.tile[i / 4][tile][n][i % 4] = bias[i / 2][i % 2];
    }
  }
}

/*! \brief Add Q·Kᵀ to the scores of a tile of keys.
 *  \param key  this lane's chunk of key g of the tile, of each 32 channels. */
template <typename T, int kHeadDim, int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void multiply_keys(QueryTile<kHeadDim, kRowTiles> const& query,
                                   Shared<unsigned char> const (&key)[kHeadDim / 32], int32_t tile,
                                   Scores<kRowTiles, kKeyTiles>& scores) {
  EDGEATTN_UNROLL
  for (int32_t n = 0; n < 2; ++n) {
    int32_t const offset = (16 * tile + 8 * n) * RowTile<kHeadDim>::kRowBytes;
    EDGEATTN_UNROLL
    for (int32_t block = 0; block < kHeadDim / 32; ++block) {
      Vec16 const words = load((key[block] + offset).template as<Vec16>());
      EDGEATTN_UNROLL
      for (int32_t step = 0; step < 2; ++step) {
        uint32_t const b[2] = {words.word[2 * step], words.word[2 * step + 1]};
        EDGEATTN_UNROLL
        for (int32_t r = 0; r < kRowTiles; ++r) {
          mma_m16n8k16<Math<T>>(scores.tile[r][tile][n], query.operand[r][2 * block + step], b);
        }
      }
    }
  }
}

/*! \brief Q·Kᵀ plus the bias from shared memory. The bias of a tile is on its way while the tile
 *  before is multiplied. */
template <typename T, BiasSource kSource, int kHeadDim, int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void multiply_chunk(QueryTile<kHeadDim, kRowTiles> const& query,
                                    Shared<float> bias_table, Shared<QueryRow> rows,
                                    KeyChunk const& chunk, Scores<kRowTiles, kKeyTiles>& scores) {
  int32_t const g = lane_index() / 4;
  int32_t const c = lane_index() % 4;
  Shared<float> bias_rows[2 * kRowTiles];
  if constexpr (kSource != kNoBias) {
    EDGEATTN_UNROLL
    for (int32_t row = 0; row < 2 * kRowTiles; ++row) {
      bias_rows[row] = bias_table + load((rows + (g + 8 * row)).as<int32_t>() + 1);
    }
  }
  Shared<int32_t> const key_bias = chunk.bias + 2 * c;
  begin_scores<kSource>(bias_rows, key_bias, 0, scores);

  Shared<unsigned char> key[kHeadDim / 32];
  EDGEATTN_UNROLL
  for (int32_t block = 0; block < kHeadDim / 32; ++block) {
    key[block] = chunk.keys + RowTile<kHeadDim>::offset(g, 4 * block + c);
  }
  EDGEATTN_UNROLL
  for (int32_t t = 0; t < kKeyTiles; ++t) {
    if (t + 1 < kKeyTiles) {
      if (t + 1 < chunk.tiles) {
        begin_scores<kSource>(bias_rows, key_bias + 16 * (t + 1), t + 1, scores);
      } else {  // some value: else registers of unknown content would be kept all the time
        begin_scores<kNoBias>(bias_rows, key_bias, t + 1, scores);
      }
    }
    if (t < chunk.tiles) multiply_keys<T>(query, key, t, scores);
  }
}

/*! \brief What the accumulators could not begin with: the factors of cosine attention, and then the
 *  bias. */
template <bool kMayBeGlobal, int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void finish_scores(bool cosine, BiasTable const& bias, QueryRows const& queries,
                                   KeyChunk const& chunk, Scores<kRowTiles, kKeyTiles>& scores) {
  int32_t const g = lane_index() / 4;
  int32_t const c = lane_index() % 4;
  EDGEATTN_UNROLL
  for (int32_t row = 0; row < 2 * kRowTiles; ++row) {
    int32_t const query_bias = load((queries.rows + (g + 8 * row)).as<int32_t>() + 1);
    float const query_factor = cosine ? load(queries.cosine_factors + (g + 8 * row)) : 1.0f;
    EDGEATTN_UNROLL
    for (int32_t n = 0; n < 2 * kKeyTiles; ++n) {
      if (n / 2 >= chunk.tiles) break;
      EDGEATTN_UNROLL
      for (int32_t i = 0; i < 2; ++i) {
        int32_t const key = 8 * n + 2 * c + i;
        float const factor = cosine ? query_factor * load(chunk.inverse_lengths + key) : 1.0f;
        float& score = scores.tile[row / 2][n / 2][n % 2][2 * (row % 2) + i];
        score =
            score * factor + look_up_bias<kMayBeGlobal>(bias, query_bias, load(chunk.bias + key));
      }
    }
    sync_warp();  // one row after the other: the keys' terms of all tiles would take up registers
  }
}

/*! \brief Hide the keys past the existing ones. */
template <int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void mask_absent_keys(KeyChunk const& chunk, Scores<kRowTiles, kKeyTiles>& scores) {
  int32_t const c = lane_index() % 4;
  EDGEATTN_UNROLL
  for (int32_t n = 0; n < 2 * kKeyTiles; ++n) {
    if (n / 2 >= chunk.tiles) break;
    if (8 * (n + 1) <= chunk.existing) continue;
    EDGEATTN_UNROLL
    for (int32_t i = 0; i < 2; ++i) {
      bool const is_absent = 8 * n + 2 * c + i >= chunk.existing;
      EDGEATTN_UNROLL
      for (int32_t row = 0; row < 2 * kRowTiles; ++row) {
        float& score = scores.tile[row / 2][n / 2][n % 2][2 * (row % 2) + i];
        score = is_absent ? -INFINITY : score;
      }
    }
  }
}

/*! \brief Add the mask: -inf to keys that are none, mask_value to keys that a query does not see.
 *  \param rows  the queries. */
template <int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void mask_scores(Shared<QueryRow> rows, float mask_value, KeyChunk const& chunk,
                                 Scores<kRowTiles, kKeyTiles>& scores) {
  Shared<QueryRow> const of_lane = rows + lane_index() / 4;
  Shared<int32_t> const codes_of_lane = chunk.codes + 2 * (lane_index() % 4);
  EDGEATTN_UNROLL
  for (int32_t n = 0; n < 2 * kKeyTiles; ++n) {
    if (n / 2 >= chunk.tiles) break;
    Vec8 const codes = load((codes_of_lane + 8 * n).as<Vec8>());
    EDGEATTN_UNROLL
    for (int32_t row = 0; row < 2 * kRowTiles; ++row) {
      Vec8 const interval = load((of_lane + 8 * row).as<Vec8>() + 1);
      EDGEATTN_UNROLL
      for (int32_t i = 0; i < 2; ++i) {
        int32_t const code = static_cast<int32_t>(codes.word[i]);
        float const addend = code == kNoKey ? -INFINITY : mask_value;
        float& score = scores.tile[row / 2][n / 2][n % 2][2 * (row % 2) + i];
        if (is_outside(code, static_cast<int32_t>(interval.word[0]),
                       static_cast<int32_t>(interval.word[1]))) {
          score += addend;
        }
      }
    }
  }
}

/*! \brief Compute the scores of a chunk; those past its tiles mean nothing.
 *  \param mask_value  what is added where a query does not see a key. */
template <typename T, bool kMayBeGlobal, int kHeadDim, int kRowTiles, int kKeyTiles>
EDGEATTN_DEVICE void compute_scores(bool cosine, float mask_value, BiasTable const& bias,
                                    QueryTile<kHeadDim, kRowTiles> const& query,
                                    QueryRows const& queries, KeyChunk const& chunk,
                                    Scores<kRowTiles, kKeyTiles>& scores) {
  if (!cosine && bias.source == kSharedBiasPairs) {
    multiply_chunk<T, kSharedBiasPairs>(query, bias.shared, queries.rows, chunk, scores);
  } else if (!cosine && bias.source == kSharedBias) {
    multiply_chunk<T, kSharedBias>(query, bias.shared, queries.rows, chunk, scores);
  } else {
    multiply_chunk<T, kNoBias>(query, bias.shared, queries.rows, chunk, scores);
    if (cosine || (kMayBeGlobal && bias.source == kGlobalBias)) {
      finish_scores<kMayBeGlobal>(cosine, bias, queries, chunk, scores);
    }
  }
  if (chunk.is_mixed) {
    mask_scores(queries.rows, mask_value, chunk, scores);
  } else if (chunk.existing < 16 * chunk.tiles) {
    mask_absent_keys(chunk, scores);
  }
}

}  // namespace edgeattn
