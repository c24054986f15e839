/*!
 * \file
 * \brief The kernel for windows of any size: keys and values stream through shared memory.
 *
 * A CTA takes a block of queries of one window and head, one tile for each warp, and walks over the
 * window's keys, a chunk at a time. While one chunk is attended to, the next one is on its way.
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

/*! \brief Attention of windows of any size. The registers hold scores of kRowTiles * 16 queries
 * with a chunk of kKeyTiles * 16 keys. */
template <typename T, int kHeadDim, int kRowTiles, int kKeyTiles, int kMinCtas>
EDGEATTN_KERNEL void EDGEATTN_LAUNCH_BOUNDS(kThreads, kMinCtas)
    window_attention_streamed_kernel(EDGEATTN_GRID_CONSTANT AttentionParams const params) {
  using Tile = RowTile<kHeadDim>;
  constexpr int32_t kTileQueries = 16 * kRowTiles;
  constexpr int32_t kBlockQueries = kWarps * kTileQueries;
  constexpr int32_t kChunkKeys = 16 * kKeyTiles;
  int32_t const warp = shuffle(warp_index(), 0);  // lets the compiler know that it is uniform
  WorkItem const item = find_work_item(params, kBlockQueries);
  HeadGroup const& group = item.group;
  int32_t const head = group.head_offset + item.first_head;
  Shared<unsigned char> const shared = shared_memory();
  StreamedLayout const layout =
      streamed_layout(group, Tile::kRowBytes, kBlockQueries, kChunkKeys, params.cosine);
  Shared<QueryRow> const query_rows = (shared + layout.queries).as<QueryRow>();
  Shared<int32_t> const key_rows = (shared + layout.rows).as<int32_t>();
  WindowPlace const place = window_place(group, item.first_window);

  auto const rows_of = [&](int32_t chunk) {  // tokens, bias, codes
    return key_rows + chunk % kRowStages * 3 * kChunkKeys;
  };
  auto const build_keys = [&](int32_t chunk) {
    for (int32_t row = thread_index(); row < kChunkKeys; row += kThreads) {
      KeyRow const key = key_row(params, group, place, chunk * kChunkKeys + row);
      store(rows_of(chunk) + row, key.token);
      store(rows_of(chunk) + (kChunkKeys + row), key.bias);
      store(rows_of(chunk) + (2 * kChunkKeys + row), key.code);
    }
  };
  KeyValueLoader<T, kHeadDim> const loader(params, head);
  auto const tiles_of = [&](int32_t chunk) {
    int32_t const stage = chunk % 2 * 2 * kChunkKeys * Tile::kRowBytes;
    return KeyValueTiles{shared + (layout.tiles + stage), kChunkKeys, 1};
  };
  auto const start_keys = [&](int32_t chunk) { loader.start(tiles_of(chunk), rows_of(chunk)); };

  for (int32_t row = thread_index(); row < kBlockQueries; row += kThreads) {
    store(query_rows + row,
          query_row(params, group, place, item.query_block * kBlockQueries + row));
  }
  build_keys(0);
  build_keys(1);
  sync_cta();  // the rows are known: loads follow them

  start_keys(0);
  Shared<QueryRow> const rows = query_rows + warp * kTileQueries;
  LoadedQueries<T, kHeadDim, kRowTiles> loaded{};
  start_queries(params, rows, head, loaded);
  if (group.bias == kSharedBias || group.bias == kSharedBiasPairs) {
    load_bias_tables(params, group, item.first_head, 1, (shared + layout.bias).as<float>());
  }
  QueryTile<kHeadDim, kRowTiles> query;
  finish_queries(params.head_dim, loaded, query);
  QueryRows const queries{rows, shared.as<float>() + warp * kTileQueries};
  if (params.cosine) {
    build_cosine_factors<Math<T>>(params, head, query, queries.cosine_factors);
  }
  BiasTable const bias{static_cast<BiasSource>(group.bias), (shared + layout.bias).as<float>(),
                       global_bias_table(params, group, item.first_head),
                       global_bias_entries(group) - 1, params.bias_scale};

  int32_t const keys = group.rows.keys * group.cols.keys;
  int32_t const key_tiles = ceil_div(keys, 16);
  bool const is_mixed = window_is_mixed(params, group, place);
  int32_t const chunks = ceil_div(key_tiles, kKeyTiles);
  RowState<kHeadDim> state[kRowTiles];
  EDGEATTN_UNROLL
  for (int32_t r = 0; r < kRowTiles; ++r) reset(state[r]);
  for (int32_t i = 0; i < chunks; ++i) {
    copy_async_wait<0>();
    loader.finish(tiles_of(i));
    sync_cta();  // chunk i of all threads is there; all are done with chunk i - 1, whose place is
                 // free
    if (i + 1 < chunks) start_keys(i + 1);
    if (i + 2 < chunks) build_keys(i + 2);
    if (params.cosine) {
      build_inverse_lengths<T, kHeadDim>(tiles_of(i), (shared + layout.lengths).as<float>());
      sync_cta();  // the lengths of all threads are there
    }
    Shared<unsigned char> const tile = tiles_of(i).begin;
    int32_t const tiles_left = key_tiles - i * kKeyTiles;
    KeyChunk const chunk{tile,
                         tile + kChunkKeys * Tile::kRowBytes,
                         (shared + layout.lengths).as<float>(),
                         rows_of(i) + kChunkKeys,
                         rows_of(i) + 2 * kChunkKeys,
                         tiles_left < kKeyTiles ? tiles_left : kKeyTiles,
                         keys - i * kChunkKeys,
                         is_mixed};
    Scores<kRowTiles, kKeyTiles> scores;
    compute_scores<T, true>(params.cosine, outside_value(params, group), bias, query, queries,
                            chunk, scores);
    accumulate<Math<T>>(scores, chunk, params.score_scale, i == 0, state);
  }
  EDGEATTN_UNROLL
  for (int32_t r = 0; r < kRowTiles; ++r) {
    store_output<T>(params, state[r], rows + 16 * r, group.out_head + item.first_head);
  }
}

}  // namespace edgeattn
