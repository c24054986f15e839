/*!
 * \file
 * \brief What a warp of the resident kernel does at a time: a tile of queries of one window and
 * head.
 *
 * All jobs of a work item are worked out side by side and kept in shared memory, not in registers.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/intrinsics.h"
#include "edgeattn/shared_layout.h"
#include "edgeattn/token_rows.h"
#include "edgeattn/work_item.h"

namespace edgeattn {

/*! \brief The queries of a job. Offsets are bytes of shared memory. */
struct alignas(16) QueryJob {
  int32_t rows;          //!< QueryRow of the first query
  int32_t head;          //!< in the group
  int32_t bias;          //!< the head's bias table
  int32_t first_masked;  //!< tile of keys from which on some may be hidden
};

/*! \brief Its keys, all those of the window. */
struct alignas(16) KeyJob {
  int32_t keys;     //!< first row of K
  int32_t values;   //!< first row of V
  int32_t rows;     //!< KeyRow::bias of the first key; KeyRow::code after those of the window
  int32_t lengths;  //!< inverse length of the first key
};

struct TileJob {
  QueryJob queries;
  KeyJob keys;
};
static_assert(sizeof(TileJob) == kTileJobBytes, "as shared_layout.h has it");

/*! \brief Number of the item's jobs. */
EDGEATTN_DEVICE int32_t num_tile_jobs(WorkItem const& item, int32_t tile_queries) {
  return item.heads * item.windows * (window_queries(item.group, tile_queries) / tile_queries);
}

/*! \brief Work out the item's jobs. */
EDGEATTN_DEVICE void build_tile_jobs(AttentionParams const& params, WorkItem const& item,
                                     SharedLayout const& layout, int32_t row_bytes,
                                     int32_t tile_queries) {
  HeadGroup const& group = item.group;
  int32_t const keys = window_keys(group);
  int32_t const queries = window_queries(group, tile_queries);
  int32_t const tiles = queries / tile_queries;
  Shared<TileJob> const jobs = (shared_memory() + layout.jobs).as<TileJob>();
  for (int32_t i = thread_index(); i < num_tile_jobs(item, tile_queries); i += kThreads) {
    int32_t const of_window = i / tiles;
    int32_t const tile = i - of_window * tiles;
    int32_t const head = of_window / item.windows;
    int32_t const window = of_window - head * item.windows;
    WindowPlace const place = window_place(group, item.first_window + window);
    bool const is_mixed = window_is_mixed(params, group, place);
    int32_t const unmasked = group.rows.keys * group.cols.keys / 16;
    QueryJob const of_queries{
        layout.queries + (window * queries + tile * tile_queries) * 16, item.first_head + head,
        layout.bias + head * shared_bias_floats(group) * 4, is_mixed ? 0 : unmasked};
    int32_t const tile_rows = item.windows * keys;  // of K, or of V, of a head
    int32_t const first_row = 2 * head * tile_rows + window * keys;
    KeyJob const of_keys{first_row * row_bytes, (first_row + tile_rows) * row_bytes,
                         layout.key_rows + window * keys * 8,
                         layout.inverse_lengths + (head * tile_rows + window * keys) * 4};
    store((jobs + i).as<QueryJob>(), of_queries);
    store((jobs + i).as<KeyJob>() + 1, of_keys);
  }
}

}  // namespace edgeattn
