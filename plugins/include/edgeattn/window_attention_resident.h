/*!
 * \file
 * \brief The kernel for windows whose keys and values fit into shared memory.
 *
 * A CTA takes some heads of some windows, loads all of their K and V once, and then each warp works
 * through its share of the query tiles on its own.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/bias_table.h"
#include "edgeattn/epilogue.h"
#include "edgeattn/key_lengths.h"
#include "edgeattn/key_value_loader.h"
#include "edgeattn/query_tile.h"
#include "edgeattn/scores.h"
#include "edgeattn/shared_layout.h"
#include "edgeattn/softmax.h"
#include "edgeattn/tile_job.h"
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
      Shared<int32_t> const key_rows = (shared + layout.key_rows).as<int32_t>();
      store((shared + layout.key_tokens).as<int32_t>() + (window * keys + row), key.token);
      store(key_rows + (2 * window * keys + row), key.bias);
      store(key_rows + ((2 * window + 1) * keys + row), key.code);
    }
    if (row < queries) {
      store((shared + layout.queries).as<QueryRow>() + (window * queries + row),
            query_row(params, group, place, row));
    }
  }
}

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
  Shared<unsigned char> const shared = shared_memory();
  SharedLayout const layout = resident_layout(group, Tile::kRowBytes, kTileQueries, params.cosine);
  KeyValueTiles const tiles{shared, item.windows * window_keys(group), item.heads};
  int32_t const first_head = group.head_offset + item.first_head;

  build_rows(params, item, layout, kTileQueries);
  build_tile_jobs(params, item, layout, Tile::kRowBytes, kTileQueries);
  sync_cta();  // the rows are known: loads follow them

  KeyValueLoader<T, kHeadDim> const loader(params, first_head);
  loader.start(tiles, (shared + layout.key_tokens).as<int32_t>());
  Shared<TileJob> const jobs = (shared + layout.jobs).as<TileJob>();
  int32_t const num_jobs = num_tile_jobs(item, kTileQueries);
  int32_t job = warp_index();
  LoadedQueries<T, kHeadDim, kRowTiles> loaded;
  auto const start_job = [&](int32_t number) {
    QueryJob const queries = load((jobs + number).as<QueryJob>());
    start_queries(params, (shared + queries.rows).as<QueryRow>(), group.head_offset + queries.head,
                  loaded);
  };
  if (job < num_jobs) start_job(job);
  if (group.bias != kNoBias) {
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

  int32_t const keys = window_keys(group);
  while (job < num_jobs) {
    QueryTile<kHeadDim, kRowTiles> query;
    finish_queries(params.head_dim, loaded, query);
    Shared<float> const cosine_factors =
        (shared + layout.cosine_factors).as<float>() + warp_index() * kTileQueries;
    if (params.cosine) {
      int32_t const head = load((jobs + job).as<QueryJob>()).head;
      build_cosine_factors<Math<T>>(params, group.head_offset + head, query, cosine_factors);
    }
    RowState<kHeadDim> state[kRowTiles];
    EDGEATTN_UNROLL
    for (int32_t r = 0; r < kRowTiles; ++r) reset(state[r]);

    for (int32_t first = 0; first < keys; first += 16 * kKeyTiles) {
      sync_warp();  // no hazard: the job is to be read again, not to be kept in registers
      QueryJob const of_queries = load((jobs + job).as<QueryJob>());
      KeyJob const of_keys = load((jobs + job).as<KeyJob>() + 1);
      BiasTable const bias{static_cast<BiasSource>(group.bias),
                           (shared + of_queries.bias).as<float>(), Global<float const>(nullptr), 0,
                           0.0f};
      QueryRows const queries{(shared + of_queries.rows).as<QueryRow>(), cosine_factors};
      int32_t const tiles_left = (keys - first) / 16;
      KeyChunk const chunk{shared + (of_keys.keys + first * Tile::kRowBytes),
                           shared + (of_keys.values + first * Tile::kRowBytes),
                           (shared + of_keys.lengths).as<float>() + first,
                           (shared + of_keys.rows).as<int32_t>() + first,
                           (shared + of_keys.rows).as<int32_t>() + (keys + first),
                           tiles_left < kKeyTiles ? tiles_left : kKeyTiles,
                           of_queries.first_masked - first / 16};
      Scores<kRowTiles, kKeyTiles> scores;
      compute_scores<T, false>(params.cosine, outside_value(params, group), bias, query, queries,
                               chunk, scores);
      accumulate<Math<T>>(scores, chunk, params.score_scale, first == 0, state);
    }
    QueryJob const of_queries = load((jobs + job).as<QueryJob>());
    EDGEATTN_UNROLL
    for (int32_t r = 0; r < kRowTiles; ++r) {
      store_output<T>(params, state[r], (shared + of_queries.rows).as<QueryRow>() + 16 * r,
                      group.out_head + of_queries.head);
    }
    job += kWarps;
    if (job >= num_jobs) break;
    start_job(job);
  }
}

}  // namespace edgeattn
