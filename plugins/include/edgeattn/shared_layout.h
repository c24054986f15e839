/*!
 * \file
 * \brief What lies where in a CTA's shared memory. Offsets are in bytes, multiples of 16.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/bias_layout.h"
#include "edgeattn/params.h"
#include "edgeattn/platform.h"

namespace edgeattn {

EDGEATTN_HOST_DEVICE int32_t round_up(int32_t n, int32_t to) { return ceil_div(n, to) * to; }

// Resident

constexpr int32_t kQueryRowBytes = 16;
constexpr int32_t kTileJobBytes = 32;

/*! Steps whose rows are known at a time: one worked on, one on its way, one being worked out. */
constexpr int32_t kRowStages = 3;

/*! \brief Bytes of the factors of cosine attention, [warp][query of its tile] floats. They come
 *  first, so that they are found without arithmetic. */
EDGEATTN_HOST_DEVICE constexpr int32_t cosine_factor_bytes(int32_t tile_queries) {
  return kWarps * tile_queries * 4;
}

/*! \brief Shared memory of the resident kernel, after the factors of cosine attention. */
struct ResidentLayout {
  int32_t window_keys;     //!< keys of a window, padded to tiles of 16
  int32_t window_queries;  //!< queries of a window, padded to those of a warp's tile
  int32_t tiles;           //!< one or two stages of K and V, each for a step:
  int32_t stage_bytes;     //!<   [head][K, V][window][key] rows
  int32_t bias;            //!< [head] tables, floats
  int32_t key_bias;        //!< [key of a window] KeyRow::bias
  int32_t lengths;         //!< [head][window][key] inverse lengths, floats; cosine attention
  int32_t jobs;            //!< [tile of a step] TileJob
  int32_t rows;            //!< stages of what belongs to the rows of a step:
  int32_t tokens;          //!<   in a stage, after [window][query] QueryRow: [window][key] tokens
  int32_t codes;           //!<   [window][key] KeyRow::code
  int32_t masks;           //!<   [window] WindowMask
  int32_t row_stage_bytes;
  int32_t bytes;
};

/*! \param row_bytes     of K or V.
 *  \param tile_queries  queries that a warp takes at a time. */
EDGEATTN_HOST_DEVICE ResidentLayout resident_layout(HeadGroup const& group, int32_t row_bytes,
                                                    int32_t tile_queries, bool cosine) {
  ResidentLayout layout;
  layout.window_keys = round_up(group.rows.keys * group.cols.keys, 16);
  layout.window_queries = round_up(group.rows.queries * group.cols.queries, tile_queries);
  int32_t const keys = group.step_windows * layout.window_keys;
  int32_t const queries = group.step_windows * layout.window_queries;
  layout.tiles = cosine_factor_bytes(tile_queries);
  layout.stage_bytes = 2 * group.item_heads * keys * row_bytes;
  layout.bias = layout.tiles + (group.item_steps > 1 ? 2 : 1) * layout.stage_bytes;
  layout.key_bias = layout.bias + group.item_heads * shared_bias_floats(group) * 4;
  layout.lengths = layout.key_bias + layout.window_keys * 4;
  layout.jobs = layout.lengths + (cosine ? group.item_heads * keys * 4 : 0);
  layout.rows = layout.jobs + group.item_heads * (queries / tile_queries) * kTileJobBytes;
  layout.tokens = queries * kQueryRowBytes;
  layout.codes = layout.tokens + keys * 4;
  layout.masks = layout.codes + keys * 4;
  layout.row_stage_bytes = layout.masks + round_up(group.step_windows * 4, 16);
  int32_t const row_stages = group.item_steps < kRowStages ? group.item_steps : kRowStages;
  layout.bytes = layout.rows + row_stages * layout.row_stage_bytes;
  return layout;
}

// Streamed

/*! \brief Shared memory of the streamed kernel, after the factors of cosine attention. */
struct StreamedLayout {
  int32_t tiles;    //!< two stages of [K, V][key of a chunk] rows
  int32_t bias;     //!< table, floats
  int32_t lengths;  //!< [key of a chunk] inverse lengths, floats; cosine attention
  int32_t queries;  //!< [query] QueryRow
  int32_t rows;     //!< kRowStages stages of [KeyRow::token, bias, code][key of a chunk]
  int32_t bytes;
};

/*! \param block_queries  queries of a CTA.
 *  \param chunk_keys     keys of a chunk. */
EDGEATTN_HOST_DEVICE StreamedLayout streamed_layout(HeadGroup const& group, int32_t row_bytes,
                                                    int32_t block_queries, int32_t chunk_keys,
                                                    bool cosine) {
  StreamedLayout layout;
  layout.tiles = cosine_factor_bytes(block_queries / kWarps);
  layout.bias = layout.tiles + 2 * 2 * chunk_keys * row_bytes;
  layout.lengths = layout.bias + shared_bias_floats(group) * 4;
  layout.queries = layout.lengths + (cosine ? chunk_keys * 4 : 0);
  layout.rows = layout.queries + block_queries * kQueryRowBytes;
  layout.bytes = layout.rows + kRowStages * 3 * chunk_keys * 4;
  return layout;
}

// Plain

constexpr int32_t kPlainWarpQueries = 4;
constexpr int32_t kPlainBlockQueries = kWarps * kPlainWarpQueries;
constexpr int32_t kPlainChunkKeys = 32;

/*! \brief Shared memory of the plain kernel: floats, offsets in floats. */
struct PlainLayout {
  int32_t pitch;    //!< of K: odd, so that lanes that read a column each meet another bank
  int32_t values;   //!< [kPlainChunkKeys][head_dim]; K comes first, [kPlainChunkKeys][pitch]
  int32_t queries;  //!< [kPlainBlockQueries][head_dim]
  int32_t floats;
};

EDGEATTN_HOST_DEVICE PlainLayout plain_layout(int32_t head_dim) {
  PlainLayout layout;
  layout.pitch = head_dim | 1;
  layout.values = kPlainChunkKeys * layout.pitch;
  layout.queries = layout.values + kPlainChunkKeys * head_dim;
  layout.floats = layout.queries + kPlainBlockQueries * head_dim;
  return layout;
}

}  // namespace edgeattn
