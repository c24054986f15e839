/*!
 * \file
 * \brief The kernel for windows whose keys and values fit into shared memory.
 *
 * A CTA takes some heads of some windows, loads all of their K and V once, and then each warp works
 * through its share of the query tiles on its own.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/epilogue.h"
#include "edgeattn/key_lengths.h"
#include "edgeattn/key_value_loader.h"
#include "edgeattn/scores.h"
#include "edgeattn/shared_layout.h"
#include "edgeattn/softmax.h"
#include "edgeattn/work_item.h"

namespace edgeattn {

/*! \brief Work out the rows of all windows of an item. */
EDGEATTN_DEVICE void build_rows(AttentionParams const& params, WorkItem const& item,
                                SharedLayout const& layout, int32_t tile_queries) {
  HeadGroup const& group = item.group;
  Shared<unsigned char> const shared = shared_memory();
  int32_t const keys = window_keys(group);
  int32_t const queries = window_queries(group, tile_queries);
  int32_t const rows = queries > keys ? queries : keys;
  int32_t window = 0;
  for (int32_t row = thread_index();; row += kThreads) {
    for (; row >= rows; row -= rows) ++window;
    if (window >= item.windows) break;
    WindowPlace const place = window_place(group, item.first_window + window);
    if (row < keys) {
      KeyRow const key = key_row(params, group, place, row);
      int32_t const at = window * keys + row;
      store((shared + layout.key_tokens).as<int32_t>() + at, key.token);
      store((shared + layout.key_bias).as<int32_t>() + at, key.bias);
      store((shared + layout.key_codes).as<int32_t>() + at, key.code);
    }
    if (row < queries) {
      store((shared + layout.queries).as<QueryRow>() + (window * queries + row),
            query_row(params, group, place, row));
    }
    if (row == 0) {
      int32_t const unmasked = group.rows.keys * group.cols.keys / 16;
      store((shared + layout.first_masked).as<int32_t>() + window,
            window_is_mixed(params, group, place) ? 0 : unmasked);
    }
  }
}

/*! \brief A tile of queries of an item. */
struct TilePosition {
  int32_t head;
  int32_t window;
  int32_t tile;  //!< of the window

  EDGEATTN_DEVICE void advance(int32_t steps, int32_t tiles, int32_t windows) {
    tile += steps;
    for (; tile >= tiles; tile -= tiles) {
      if (++window == windows) {
        window = 0;
        ++head;
      }
    }
  }
};

/*! \brief Attention of windows that are resident in shared memory.
 *
 * Scores of kRowTiles * 16 queries with kKeyTiles * 16 keys are in registers at a time; larger
 * windows take several chunks of keys. */
template <typename T, int kHeadDim, int kRowTiles, int kKeyTiles, int kMinCtas>
EDGEATTN_KERNEL void EDGEATTN_LAUNCH_BOUNDS(kThreads, kMinCtas)
    window_attention_resident_kernel(EDGEATTN_GRID_CONSTANT AttentionParams const params) {
  using Tile = RowTile<kHeadDim>;
  constexpr int32_t kTileQueries = 16 * kRowTiles;
  WorkItem const item = find_work_item(params, 0);
  HeadGroup const& group = item.group;
  int32_t const keys = window_keys(group);
  int32_t const queries = window_queries(group, kTileQueries);
  Shared<unsigned char> const shared = shared_memory();
  SharedLayout const layout = resident_layout(group, Tile::kRowBytes, kTileQueries, params.cosine);
  KeyValueTiles const tiles{shared, item.windows * keys, item.heads};

  build_rows(params, item, layout, kTileQueries);
  sync_cta();  // the rows are known: loads follow them

  KeyValueLoader<T, kHeadDim> const loader(params, group.head_offset + item.first_head);
  loader.start(tiles, (shared + layout.key_tokens).as<int32_t>());

  int32_t const query_tiles = queries / kTileQueries;
  TilePosition position{0, 0, 0};
  position.advance(warp_index(), query_tiles, item.windows);
  QueryTile<kHeadDim, kRowTiles> query;
  auto const start_position = [&] {
    int32_t const row = position.window * queries + position.tile * kTileQueries;
    start_queries<T>(params, (shared + layout.queries).as<QueryRow>() + row,
                     group.head_offset + item.first_head + position.head, query);
  };
  if (position.head < item.heads) start_position();
  if (group.bias == kSharedBias || group.bias == kSharedBiasPairs) {
    load_bias_tables(params, group, item.first_head, item.heads,
                     (shared + layout.bias).as<float>());
  }

  copy_async_wait<0>();
  loader.finish(tiles);
  sync_cta();  // K, V and bias tables of all threads are there
  if (params.cosine) {
    build_inverse_lengths<T, kHeadDim>(tiles, (shared + layout.inverse_lengths).as<float>());
    sync_cta();  // the lengths of all threads are there
  }

  int32_t const key_tiles = keys / 16;
  int32_t const chunks = ceil_div(key_tiles, kKeyTiles);
  int32_t const chunk_tiles = ceil_div(key_tiles, chunks);
  while (position.head < item.heads) {
    int32_t const head = item.first_head + position.head;
    finish_queries<T>(params, group.head_offset + head, query);
    Shared<QueryRow> const rows = query.rows;
    Bias const bias(params, group, head,
                    (shared + layout.bias).as<float>() + position.head * shared_bias_floats(group));
    int32_t const window_row = position.window * keys;
    int32_t const first_masked =
        load((shared + layout.first_masked).as<int32_t>() + position.window);
    Shared<unsigned char> const window_tile =
        tiles.begin + (2 * position.head * tiles.rows + window_row) * Tile::kRowBytes;
    Shared<float> const lengths =
        (shared + layout.inverse_lengths).as<float>() + (position.head * tiles.rows + window_row);

    RowState<kHeadDim> state[kRowTiles];
    EDGEATTN_UNROLL
    for (int32_t r = 0; r < kRowTiles; ++r) reset(state[r]);
    position.advance(kWarps, query_tiles, item.windows);
    for (int32_t first = 0; first < key_tiles; first += chunk_tiles) {
      KeyChunk const chunk{window_tile + 16 * first * Tile::kRowBytes,
                           window_tile + (tiles.rows + 16 * first) * Tile::kRowBytes,
                           lengths + 16 * first,
                           (shared + layout.key_bias).as<int32_t>() + (window_row + 16 * first),
                           (shared + layout.key_codes).as<int32_t>() + (window_row + 16 * first),
                           key_tiles - first < chunk_tiles ? key_tiles - first : chunk_tiles,
                           first_masked - first,
                           outside_value(params, group)};
      Scores<kRowTiles, kKeyTiles> scores;
      compute_scores<T, false>(params, bias, query, chunk, scores);
      // The registers of these queries are free: load the next ones while the softmax is on.
      if (first + chunk_tiles >= key_tiles && position.head < item.heads) start_position();
      accumulate<Math<T>>(scores, chunk, params.score_scale, first == 0, state);
    }
    EDGEATTN_UNROLL
    for (int32_t r = 0; r < kRowTiles; ++r) {
      store_output<T>(params, state[r], rows + 16 * r, group.out_head + head);
    }
  }
}

}  // namespace edgeattn
