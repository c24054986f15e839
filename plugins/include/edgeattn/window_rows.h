/*!
 * \file
 * \brief The rows of a step's windows, worked out into shared memory.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/intrinsics.h"
#include "edgeattn/shared_layout.h"
#include "edgeattn/token_rows.h"
#include "edgeattn/work_item.h"

namespace edgeattn {

/*! \brief A row of a window, as a key and as a query. */
struct WindowRow {
  KeyRow key;
  QueryRow query;
};

/*! \brief Row `r` of a window: by multiplication in linear windows, by the index rule in others. */
EDGEATTN_DEVICE WindowRow window_row(AttentionParams const& params, HeadGroup const& group,
                                     WindowPlace const& place, LinearWindow const& linear,
                                     int32_t r) {
  if (!linear.is_linear || r >= group.rows.keys * group.cols.keys) {
    return {key_row(params, group, place, r), query_row(params, group, place, r)};
  }
  int32_t const y = divide(r, group.key_cols);
  int32_t const x = r - y * group.cols.keys;
  int32_t const token = linear.first_token + y * linear.row_stride + x * linear.col_stride;
  KeyRow const key{token, key_bias(group, y, x), 0};
  return {key, query_of_member(group, key, y, x)};
}

/*! \brief Work out the rows of a step's windows; those of windows that do not exist are absent.
 *  \param first_window  of the step.
 *  \param stage         where they go. */
EDGEATTN_DEVICE void build_rows(AttentionParams const& params, HeadGroup const& group,
                                int32_t first_window, ResidentLayout const& layout,
                                Shared<unsigned char> stage) {
  int32_t const keys = layout.window_keys;
  int32_t const queries = layout.window_queries;
  int32_t const rows = queries > keys ? queries : keys;
  int32_t window = 0;
  for (int32_t row = thread_index();; row += kThreads) {
    for (; row >= rows; row -= rows) ++window;
    if (window >= group.step_windows) break;
    WindowPlace const place = window_place(group, first_window + window);
    LinearWindow const linear = linear_window(params, group, place);
    bool const exists = first_window + window < num_windows(params, group);
    WindowRow const of_row = window_row(params, group, place, linear, exists ? row : rows);
    if (row < keys) {
      store((stage + layout.tokens).as<int32_t>() + (window * keys + row), of_row.key.token);
      store((stage + layout.codes).as<int32_t>() + (window * keys + row), of_row.key.code);
    }
    if (row < queries) {
      store(stage.as<QueryRow>() + (window * queries + row), of_row.query);
    }
    if (row == 0) {
      bool const is_mixed = !linear.is_linear && window_is_mixed(params, group, place);
      store((stage + layout.masks).as<int32_t>() + window, static_cast<int32_t>(is_mixed));
    }
  }
}

/*! \brief Work out the keys' terms of the bias, the same in all windows. */
EDGEATTN_DEVICE void build_key_bias(HeadGroup const& group, int32_t window_keys,
                                    Shared<int32_t> to) {
  for (int32_t row = thread_index(); row < window_keys; row += kThreads) {
    int32_t const y = divide(row, group.key_cols);
    int32_t const x = row - y * group.cols.keys;
    store(to + row, row < group.rows.keys * group.cols.keys ? key_bias(group, y, x) : 0);
  }
}

}  // namespace edgeattn
