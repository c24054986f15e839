/*!
 * \file
 * \brief What lies where in a CTA's shared memory.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/bias_layout.h"
#include "edgeattn/params.h"
#include "edgeattn/platform.h"

namespace edgeattn {

EDGEATTN_HOST_DEVICE int32_t round_up(int32_t n, int32_t to) { return ceil_div(n, to) * to; }

constexpr int32_t kTileJobBytes = 32;

/*! \brief Byte offsets; each a multiple of 16. */
struct SharedLayout {
  int32_t bias;             //!< [head] tables, floats
  int32_t inverse_lengths;  //!< [head][key], floats; cosine attention
  int32_t cosine_factors;   //!< [warp][query of its tile], floats; cosine attention
  int32_t queries;          //!< [query] QueryRow
  int32_t key_tokens;       //!< [key] KeyRow::token
  int32_t key_rows;         //!< [window][KeyRow::bias, KeyRow::code][key]
  int32_t jobs;             //!< [tile of queries] TileJob
  int32_t bytes;
};

/*! \param tile_bytes     of K and V, which come first.
 *  \param bias_heads     heads with a table.
 *  \param length_keys    keys whose length is kept, of all heads; a multiple of 4.
 *  \param tile_queries   queries that a warp takes at a time.
 *  \param queries, keys  rows with an entry; multiples of 4.
 *  \param jobs           TileJobs. */
EDGEATTN_HOST_DEVICE SharedLayout shared_layout(HeadGroup const& group, int32_t tile_bytes,
                                                int32_t bias_heads, int32_t length_keys,
                                                int32_t tile_queries, int32_t queries, int32_t keys,
                                                int32_t jobs) {
  SharedLayout layout;
  layout.bias = tile_bytes;
  layout.inverse_lengths = layout.bias + bias_heads * shared_bias_floats(group) * 4;
  layout.cosine_factors = layout.inverse_lengths + length_keys * 4;
  layout.queries = layout.cosine_factors + (length_keys > 0 ? kWarps * tile_queries * 4 : 0);
  layout.key_tokens = layout.queries + queries * 16;
  layout.key_rows = layout.key_tokens + keys * 4;
  layout.jobs = layout.key_rows + keys * 8;
  layout.bytes = layout.jobs + jobs * kTileJobBytes;
  return layout;
}

// Resident

/*! \brief Rows of a window in shared memory: keys in tiles of 16, queries in those of a warp. */
EDGEATTN_HOST_DEVICE int32_t window_keys(HeadGroup const& group) {
  return round_up(group.rows.keys * group.cols.keys, 16);
}
EDGEATTN_HOST_DEVICE int32_t window_queries(HeadGroup const& group, int32_t tile_queries) {
  return round_up(group.rows.queries * group.cols.queries, tile_queries);
}

/*! \param tile_queries  queries that a warp takes at a time. */
EDGEATTN_HOST_DEVICE SharedLayout resident_layout(HeadGroup const& group, int32_t row_bytes,
                                                  int32_t tile_queries, bool cosine) {
  int32_t const keys = group.item_windows * window_keys(group);
  int32_t const queries = group.item_windows * window_queries(group, tile_queries);
  return shared_layout(group, 2 * group.item_heads * keys * row_bytes, group.item_heads,
                       cosine ? group.item_heads * keys : 0, tile_queries, queries, keys,
                       group.item_heads * (queries / tile_queries));
}

// Streamed

/*! Chunks whose rows are known at a time: one attended to, one on its way, one being worked out. */
constexpr int32_t kRowStages = 3;

/*! \param block_queries  queries of a CTA.
 *  \param chunk_keys     keys of a chunk. */
EDGEATTN_HOST_DEVICE SharedLayout streamed_layout(HeadGroup const& group, int32_t row_bytes,
                                                  int32_t block_queries, int32_t chunk_keys,
                                                  bool cosine) {
  int32_t const tile_bytes = 2 * 2 * chunk_keys * row_bytes;  // two stages of K and V
  return shared_layout(group, tile_bytes, 1, cosine ? chunk_keys : 0, block_queries / kWarps,
                       block_queries, kRowStages * chunk_keys, 0);
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
