/*!
 * \file
 * \brief The kernel for windows whose keys and values fit into shared memory.
 *
 * A CTA takes some heads of some windows, a step of windows at a time: it loads all of their K and
 * V, and each warp works through its share of the query tiles on its own. While one step is worked
 * on, K and V of the next one are on their way, and the rows of the one after are worked out.
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
#include "edgeattn/window_rows.h"
#include "edgeattn/work_item.h"

namespace edgeattn {

/*! \brief Attention of windows that are resident in shared memory.
 *
 * Scores of kRowTiles * 16 queries with kKeyTiles * 16 keys are in registers at a time. With
 * kOneChunk, no window has more keys; else they come in several chunks, and items have one step. */
template <typename T, int kHeadDim, int kRowTiles, int kKeyTiles, bool kOneChunk, int kMinCtas>
EDGEATTN_KERNEL void EDGEATTN_LAUNCH_BOUNDS(kThreads, kMinCtas)
    window_attention_resident_kernel(EDGEATTN_GRID_CONSTANT AttentionParams const params) {
  using Tile = RowTile<kHeadDim>;
  constexpr int32_t kTileQueries = 16 * kRowTiles;
  constexpr bool kStartsEarly = kOneChunk && kHeadDim == 32;  // else the registers are short
  int32_t const warp = shuffle(warp_index(), 0);  // lets the compiler know that it is uniform
  WorkItem const item = find_work_item(params, 0);
  HeadGroup const& group = item.group;
  Shared<unsigned char> const shared = shared_memory();
  ResidentLayout const layout =
      resident_layout(group, Tile::kRowBytes, kTileQueries, params.cosine);
  KeyValueLoader<T, kHeadDim> const loader(params, group.head_offset + item.first_head);

  // Large windows keep the warps busy for long, and two of them would leave no shared memory.
  int32_t const steps = kOneChunk ? item.steps : 1;

  auto const rows_of = [&](int32_t step) {
    return shared + (layout.rows + step % kRowStages * layout.row_stage_bytes);
  };
  auto const build_rows_of = [&](int32_t step) {
    build_rows(params, group, item.first_window + step * group.step_windows, layout, rows_of(step));
  };
  auto const tiles_of = [&](int32_t step) {
    return KeyValueTiles{shared + (layout.tiles + step % 2 * layout.stage_bytes),
                         group.step_windows * layout.window_keys, item.heads};
  };
  auto const start_keys = [&](int32_t step) {
    loader.start(tiles_of(step), (rows_of(step) + layout.tokens).template as<int32_t>());
  };

  Shared<TileJob> const jobs = (shared + layout.jobs).as<TileJob>();
  int32_t const num_jobs = build_tile_jobs(item, layout, Tile::kRowBytes, kTileQueries);
  build_key_bias(group, layout.window_keys, (shared + layout.key_bias).as<int32_t>());

  LoadedQueries<T, kHeadDim, kRowTiles> loaded;
  auto const start_job = [&](int32_t step, int32_t job) {
    if (job >= num_jobs) {
      ++step;
      job = warp;
    }
    loaded = {};  // even if nothing follows: what is unknown would be kept in registers
    if (step < steps && job < num_jobs) {
      QueryJob const queries = load((jobs + job).as<QueryJob>());
      start_queries(params, (rows_of(step) + queries.rows).template as<QueryRow>(),
                    group.head_offset + queries.head, loaded);
    }
  };

  // A step's rows are worked out two steps before, its copies start one step before.
  auto const advance_to = [&](int32_t step) {
    if (step >= 0) {
      copy_async_wait<0>();
      loader.finish(tiles_of(step));
    }
    sync_cta();  // the step's K, V and the next one's rows are there; the places before are free
    if (step + 1 >= 0 && step + 1 < steps) start_keys(step + 1);
    if (step + 2 < steps) build_rows_of(step + 2);
    if (step == -1) {
      start_job(0, warp);
      if (group.bias != kNoBias) {
        load_bias_tables(params, group, item.first_head, item.heads,
                         (shared + layout.bias).as<float>());
      }
    }
    if (step >= 0 && params.cosine) {
      build_inverse_lengths<T, kHeadDim>(tiles_of(step), (shared + layout.lengths).as<float>());
      sync_cta();  // the lengths of all threads are there
    }
  };

  auto const work_on = [&](int32_t step) {
    for (int32_t job = warp; job < num_jobs; job += kWarps) {
      QueryTile<kHeadDim, kRowTiles> query;
      finish_queries(params.head_dim, loaded, query);
      Shared<float> const cosine_factors = shared.as<float>() + warp * kTileQueries;
      if (params.cosine) {
        int32_t const head = load((jobs + job).as<QueryJob>()).head;
        build_cosine_factors<Math<T>>(params, group.head_offset + head, query, cosine_factors);
      }
      RowState<kHeadDim> state[kRowTiles];
      EDGEATTN_UNROLL
      for (int32_t r = 0; r < kRowTiles; ++r) reset(state[r]);

      int32_t const keys = group.rows.keys * group.cols.keys;
      for (int32_t first = 0; first < (kOneChunk ? 1 : keys); first += 16 * kKeyTiles) {
        // No hazard: the job is to be read again, not to be kept in registers.
        if (!kOneChunk) sync_warp();
        QueryJob const of_queries = load((jobs + job).as<QueryJob>());
        KeyJob const of_keys = load((jobs + job).as<KeyJob>() + 1);
        Shared<unsigned char> const rows = rows_of(step);
        Shared<unsigned char> const tiles = tiles_of(step).begin + first * Tile::kRowBytes;
        BiasTable const bias{static_cast<BiasSource>(group.bias),
                             (shared + of_queries.bias).as<float>(), Global<float const>(nullptr),
                             0, 0.0f};
        QueryRows const queries{(rows + of_queries.rows).template as<QueryRow>(), cosine_factors};
        int32_t const is_mixed =
            load((rows + layout.masks).template as<int32_t>() + of_queries.window);
        int32_t const tiles_left = ceil_div(keys - first, 16);
        KeyChunk const chunk{tiles + of_keys.keys,
                             tiles + of_keys.values,
                             (shared + of_keys.lengths).as<float>() + first,
                             (shared + layout.key_bias).as<int32_t>() + first,
                             (rows + of_keys.codes).template as<int32_t>() + first,
                             tiles_left < kKeyTiles ? tiles_left : kKeyTiles,
                             keys - first,
                             is_mixed != 0};
        Scores<kRowTiles, kKeyTiles> scores;
        compute_scores<T, false>(params.cosine, outside_value(params, group), bias, query, queries,
                                 chunk, scores);
        // The registers of these queries are free: the next ones arrive while the softmax is on.
        if (kStartsEarly) start_job(step, job + kWarps);
        accumulate<Math<T>>(scores, chunk, params.score_scale, kOneChunk || first == 0, state);
      }
      QueryJob const of_queries = load((jobs + job).as<QueryJob>());
      EDGEATTN_UNROLL
      for (int32_t r = 0; r < kRowTiles; ++r) {
        store_output<T>(params, state[r],
                        (rows_of(step) + of_queries.rows).template as<QueryRow>() + 16 * r,
                        group.out_head + of_queries.head);
      }
      if (!kStartsEarly) start_job(step, job + kWarps);
    }
  };

  if constexpr (kOneChunk) {
    for (int32_t step = -2; step < steps; ++step) {
      advance_to(step);
      if (step >= 0) work_on(step);
    }
  } else {
    advance_to(-2);
    advance_to(-1);
    advance_to(0);
    work_on(0);
  }
}

}  // namespace edgeattn
