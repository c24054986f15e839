/*!
 * \file
 * \brief What one CTA has to do.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/intrinsics.h"
#include "edgeattn/params.h"

namespace edgeattn {

/*! \brief Some heads of some windows, or a block of queries of one window and head. */
struct WorkItem {
  HeadGroup const& group;
  int32_t first_window;  //!< among all windows of all images
  int32_t steps;         //!< of step_windows windows each; the last windows may not exist
  int32_t query_block;   //!< 0 where windows are not cut up
  int32_t first_head;    //!< in the group
  int32_t heads;         //!< consecutive ones
};

/*! \brief Windows of the whole batch. */
EDGEATTN_HOST_DEVICE int32_t num_windows(AttentionParams const& params, HeadGroup const& group) {
  return params.batch * group.rows.num_windows * group.cols.num_windows;
}

/*! \brief Find the CTA's work. Heads come first, so that CTAs that run side by side read
 *  neighbouring parts of the same rows of qkv.
 *  \param block_queries  queries of a block of queries; 0 where windows are not cut up. */
EDGEATTN_DEVICE WorkItem find_work_item(AttentionParams const& params, int32_t block_queries) {
  int32_t g = 0;
  while (g + 1 < params.num_groups && cta_index() >= params.groups[g + 1].first_item) ++g;
  HeadGroup const& group = params.groups[g];

  int32_t const item = cta_index() - group.first_item;
  int32_t const block = divide(item, group.head_blocks);
  int32_t const first_head = (item - block * group.num_head_blocks) * group.item_heads;
  int32_t const heads_left = group.num_heads - first_head;

  int32_t const window_block = divide(block, group.query_blocks);
  int32_t const num_query_blocks =
      block_queries == 0 ? 1 : ceil_div(group.rows.queries * group.cols.queries, block_queries);
  int32_t const query_block = block - window_block * num_query_blocks;
  int32_t const first_window = window_block * group.item_steps * group.step_windows;
  int32_t const windows_left = num_windows(params, group) - first_window;
  bool const is_last = windows_left < group.item_steps * group.step_windows;
  return {group,
          first_window,
          is_last ? ceil_div(windows_left, group.step_windows) : group.item_steps,
          query_block,
          first_head,
          heads_left < group.item_heads ? heads_left : group.item_heads};
}

}  // namespace edgeattn
