/*!
 * \file
 * \brief The rows of a window: which token each query and key is, where its bias is looked up, and
 * who may see whom.
 *
 * Queries and keys of a window are boxes (rows, cols) in window coordinates, and a row of a tile in
 * shared memory is a member of the box, columns fastest. What is said here of one row follows from
 * a few integers; each row is worked out once per CTA.
 *
 * **Who sees whom.** A key has a code, a query an interval of codes, both a pair of 16-bit numbers
 * (rows, cols). The key takes part iff it lies in the interval on both axes. In block mode the
 * codes are the labels and the interval is one label; in neighborhood mode they are places in the
 * box of keys. kNoKey lies in no interval.
 *
 * **Bias.** The sum of a query's and a key's term is the entry in the table of bias_layout.h.
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include "edgeattn/bias_layout.h"
#include "edgeattn/params.h"
#include "edgeattn/platform.h"

namespace edgeattn {

/*! The code of a row that is no key. */
constexpr int32_t kNoKey = 0x7fff7fff;

/*! Keys that a box of a neighborhood may have on an axis, so that its places are codes. */
constexpr int32_t kMaxBoxKeys = 0x7ffe;

EDGEATTN_HOST_DEVICE int32_t pack_code(int32_t row, int32_t col) { return row << 16 | col; }

/*! \brief Whether a key's code is outside of the interval [low, high] of a query.
 *
 * Bit 15 of each difference tells that it is negative. A borrow from the lower half only happens
 * where that bit is already set. */
EDGEATTN_HOST_DEVICE bool is_outside(int32_t code, int32_t low, int32_t high) {
  return (((code - low) | (high - code)) & static_cast<int32_t>(0x80008000u)) != 0;
}

/*! \brief A window (block, grid) or tile of queries (neighborhood) among all of the batch. */
struct WindowPlace {
  int32_t image;
  int32_t row;  //!< among rows.num_windows
  int32_t col;  //!< among cols.num_windows
};

EDGEATTN_HOST_DEVICE WindowPlace window_place(HeadGroup const& group, int32_t window) {
  int32_t const image = divide(window, group.windows);
  int32_t const rest = window - image * group.rows.num_windows * group.cols.num_windows;
  int32_t const row = divide(rest, group.window_cols);
  return {image, row, rest - row * group.cols.num_windows};
}

/*! \brief A window of tokens at constant distances, which all see each other. */
struct LinearWindow {
  bool is_linear;       //!< else the rest means nothing
  int32_t first_token;  //!< among all of the batch
  int32_t row_stride;   //!< tokens from one row of the window to the next
  int32_t col_stride;
};

/*! \brief Most windows of block and grid mode are linear. */
EDGEATTN_HOST_DEVICE LinearWindow linear_window(AttentionParams const& params,
                                                HeadGroup const& group, WindowPlace const& place) {
  LinearWindow window;
  int32_t row, col;
  if (group.mode == kBlock) {
    window.is_linear = block_window_is_linear(group.rows, params.height, place.row) &&
                       block_window_is_linear(group.cols, params.width, place.col);
    row = place.row * group.rows.window + group.rows.shift;
    col = place.col * group.cols.window + group.cols.shift;
  } else {
    window.is_linear = group.mode == kGrid &&
                       !grid_window_is_mixed(group.rows, params.height, place.row) &&
                       !grid_window_is_mixed(group.cols, params.width, place.col);
    row = place.row;
    col = place.col;
  }
  window.first_token = (place.image * params.height + row) * params.width + col;
  window.row_stride = group.rows.stride * params.width;
  window.col_stride = group.cols.stride;
  return window;
}

/*! \brief Whether some key of a window is hidden from some query, rows past the box aside. */
EDGEATTN_HOST_DEVICE bool window_is_mixed(AttentionParams const& params, HeadGroup const& group,
                                          WindowPlace const& place) {
  if (group.mode == kNeighborhood) return true;
  if (group.mode == kGrid) {
    return !params.pads_attend && (grid_window_is_mixed(group.rows, params.height, place.row) ||
                                   grid_window_is_mixed(group.cols, params.width, place.col));
  }
  int32_t const order = params.shift_pad_order;
  return block_window_is_mixed(group.rows, params.height, order, place.row) ||
         block_window_is_mixed(group.cols, params.width, order, place.col);
}

/*! \brief What is added to the score of a key outside of a query's interval. */
EDGEATTN_HOST_DEVICE float outside_value(AttentionParams const& params, HeadGroup const& group) {
  return group.mode == kNeighborhood ? -INFINITY : params.mask_value;
}

/*! \brief A key, a row of the tiles of K and V. */
struct KeyRow {
  int32_t token;  //!< among all of the batch; kPadding: filled from pad_kv; kAbsent: zero
  int32_t bias;   //!< its term of the entry in the bias table
  int32_t code;
};

/*! \brief A query, a row of the tile of Q. */
struct alignas(16) QueryRow {
  int32_t token;  //!< among all of the batch, or negative: nothing is read or written
  int32_t bias;   //!< its term of the entry in the bias table
  int32_t low;    //!< codes of the keys that it sees
  int32_t high;
};

EDGEATTN_HOST_DEVICE int32_t query_bias(HeadGroup const& group, int32_t y, int32_t x) {
  BiasLayout const layout = bias_layout(group);
  int32_t const place = y * layout.pitch + x;
  if (group.bias == kGlobalBias) return layout.centre + place;
  int32_t const term = layout.centre - place;
  return term % 2 == 0 ? term : term + layout.second_copy;
}

EDGEATTN_HOST_DEVICE int32_t key_bias(HeadGroup const& group, int32_t y, int32_t x) {
  int32_t const place = y * bias_layout(group).pitch + x;
  return group.bias == kGlobalBias ? -place : place;
}

/*! \brief The member (y, x) of a window in block or grid mode, as a key. */
EDGEATTN_HOST_DEVICE KeyRow window_member(AttentionParams const& params, HeadGroup const& group,
                                          WindowPlace const& place, int32_t y, int32_t x) {
  Place row, col;
  if (group.mode == kGrid) {
    row = {grid_source(group.rows, params.height, place.row, y), 0};
    col = {grid_source(group.cols, params.width, place.col, x), 0};
  } else {
    int32_t const order = params.shift_pad_order;
    row = block_place(group.rows, params.height, order, place.row * group.rows.window + y);
    col = block_place(group.cols, params.width, order, place.col * group.cols.window + x);
  }
  // Padding, too, needs its term: it may be the first of a pair.
  int32_t const bias = key_bias(group, y, x);
  int32_t const code = pack_code(row.label, col.label);
  if (row.source >= 0 && col.source >= 0) {
    return {(place.image * params.height + row.source) * params.width + col.source, bias, code};
  }
  if (params.pads_attend) return {kPadding, bias, code};
  return {kAbsent, bias, kNoKey};
}

/*! \brief The same member as a query: it sees the keys with its own labels. */
EDGEATTN_HOST_DEVICE QueryRow query_of_member(HeadGroup const& group, KeyRow const& member,
                                              int32_t y, int32_t x) {
  return {member.token, query_bias(group, y, x), member.code, member.code};
}

/*! \brief Row `r` of the keys of a window. */
EDGEATTN_HOST_DEVICE KeyRow key_row(AttentionParams const& params, HeadGroup const& group,
                                    WindowPlace const& place, int32_t r) {
  if (r >= group.rows.keys * group.cols.keys) return {kAbsent, 0, kNoKey};
  int32_t const y = divide(r, group.key_cols);
  int32_t const x = r - y * group.cols.keys;
  if (group.mode != kNeighborhood) return window_member(params, group, place, y, x);

  NeighborhoodTile const rows =
      neighborhood_tile(group.rows, params.height, group.causal, place.row);
  NeighborhoodTile const cols =
      neighborhood_tile(group.cols, params.width, group.causal, place.col);
  int32_t const row = neighborhood_source(group.rows, rows, rows.first_key + y);
  int32_t const col = neighborhood_source(group.cols, cols, cols.first_key + x);
  int32_t const bias = key_bias(group, y, x);
  if (row < 0 || col < 0) return {kAbsent, bias, kNoKey};
  return {(place.image * params.height + row) * params.width + col, bias, pack_code(y, x)};
}

/*! \brief Row `r` of the queries of a window. */
EDGEATTN_HOST_DEVICE QueryRow query_row(AttentionParams const& params, HeadGroup const& group,
                                        WindowPlace const& place, int32_t r) {
  // Queries that are none look up the bias like the first one.
  QueryRow const absent{kAbsent, query_bias(group, 0, 0), 0, 0};
  if (r >= group.rows.queries * group.cols.queries) return absent;
  int32_t const y = divide(r, group.query_cols);
  int32_t const x = r - y * group.cols.queries;
  if (group.mode != kNeighborhood) {
    return query_of_member(group, window_member(params, group, place, y, x), y, x);
  }

  NeighborhoodTile const rows =
      neighborhood_tile(group.rows, params.height, group.causal, place.row);
  NeighborhoodTile const cols =
      neighborhood_tile(group.cols, params.width, group.causal, place.col);
  int32_t const j_row = rows.first_query + y;
  int32_t const j_col = cols.first_query + x;
  int32_t const row = neighborhood_source(group.rows, rows, j_row);
  int32_t const col = neighborhood_source(group.cols, cols, j_col);
  if (row < 0 || col < 0) return absent;
  Span const near_rows = neighbours(group.rows.window, group.causal, rows.tokens, j_row);
  Span const near_cols = neighbours(group.cols.window, group.causal, cols.tokens, j_col);
  int32_t const low_row = near_rows.first - rows.first_key;
  int32_t const low_col = near_cols.first - cols.first_key;
  return {(place.image * params.height + row) * params.width + col,
          query_bias(group, j_row - rows.first_key, j_col - cols.first_key),
          pack_code(low_row, low_col),
          pack_code(low_row + near_rows.count - 1, low_col + near_cols.count - 1)};
}

}  // namespace edgeattn
