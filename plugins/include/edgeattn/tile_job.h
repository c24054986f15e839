/*!
 * \file
 * \brief What a warp of the resident kernel does at a time: a tile of queries of one window and
 * head.
 *
 * The jobs of a step are worked out side by side and kept in shared memory, not in registers. They
 * are the same in all steps.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/intrinsics.h"
#include "edgeattn/shared_layout.h"
#include "edgeattn/work_item.h"

namespace edgeattn {

/*! \brief The queries of a job. Offsets are in bytes. */
struct alignas(16) QueryJob {
  int32_t rows;    //!< QueryRow of the first query, in a stage of rows
  int32_t head;    //!< in the group
  int32_t bias;    //!< the head's bias table, in shared memory
  int32_t window;  //!< of the step
};

/*! \brief Its keys, all those of the window. */
struct alignas(16) KeyJob {
  int32_t keys;     //!< first row of K, in a stage of K and V
  int32_t values;   //!< first row of V, in a stage of K and V
  int32_t codes;    //!< KeyRow::code of the first key, in a stage of rows
  int32_t lengths;  //!< inverse length of the first key, in shared memory
};

struct TileJob {
  QueryJob queries;
  KeyJob keys;
};
static_assert(sizeof(TileJob) == kTileJobBytes, "as shared_layout.h has it");

/*! \brief Work out the jobs of a step.
 *  \return How many there are. */
EDGEATTN_DEVICE int32_t build_tile_jobs(WorkItem const& item, ResidentLayout const& layout,
                                        int32_t row_bytes, int32_t tile_queries) {
  HeadGroup const& group = item.group;
  int32_t const tiles = layout.window_queries / tile_queries;
  int32_t const num_jobs = item.heads * group.step_windows * tiles;
  int32_t const rows = group.step_windows * layout.window_keys;  // of K, or of V, of a head
  for (int32_t i = thread_index(); i < num_jobs; i += kThreads) {
    int32_t const of_window = i / tiles;
    int32_t const tile = i - of_window * tiles;
    int32_t const head = of_window / group.step_windows;
    int32_t const window = of_window - head * group.step_windows;
    int32_t const first_query = window * layout.window_queries + tile * tile_queries;
    int32_t const first_key = window * layout.window_keys;
    QueryJob const queries{first_query * kQueryRowBytes, item.first_head + head,
                           layout.bias + head * shared_bias_floats(group) * 4, window};
    KeyJob const keys{(2 * head * rows + first_key) * row_bytes,
                      ((2 * head + 1) * rows + first_key) * row_bytes, layout.codes + first_key * 4,
                      layout.lengths + (head * rows + first_key) * 4};
    Shared<TileJob> const job = (shared_memory() + layout.jobs).as<TileJob>() + i;
    store(job.as<QueryJob>(), queries);
    store(job.as<KeyJob>() + 1, keys);
  }
  return num_jobs;
}

}  // namespace edgeattn
