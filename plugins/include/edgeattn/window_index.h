/*!
 * \file
 * \brief Which token stands where: the operator's index rule, one axis at a time.
 *
 * docs/operator.md, "The index rule", is the contract. Device and host run the same functions.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/platform.h"

namespace edgeattn {

enum Mode : int32_t { kBlock = 0, kGrid = 1, kNeighborhood = 2 };

enum ShiftPadOrder : int32_t { kPadThenRoll = 0, kRollThenPad = 1 };

/*! Stands for a token where there is none. */
constexpr int32_t kPadding = -1;  //!< a padded token: `pad_mode` says whether it is a key
constexpr int32_t kAbsent = -2;   //!< nothing at all: never a key

/*! \brief How one axis is cut into windows. */
struct Axis {
  int32_t window;       //!< tokens; never 0
  int32_t shift;        //!< block: cyclic shift; 0 where one window covers the axis
  int32_t stride;       //!< grid, neighborhood: tokens from one member or neighbour to the next
  int32_t num_windows;  //!< block, grid: windows; neighborhood: tiles of queries, of all classes
  int32_t queries;      //!< queries of a window (block, grid) or tile (neighborhood)
  int32_t keys;         //!< keys that these queries see, the largest number of a window or tile
};

/*! \brief n / d, rounded up; n >= 0, d >= 1. */
EDGEATTN_HOST_DEVICE int32_t ceil_div(int32_t n, int32_t d) {
  uint32_t const divisor = static_cast<uint32_t>(d);
  return static_cast<int32_t>((static_cast<uint32_t>(n) + divisor - 1) / divisor);
}

// Block

/*! \brief What stands at a place of the padded axis. */
struct Place {
  int32_t source;  //!< token, or kPadding
  int32_t label;   //!< tokens of a window see each other if their labels agree
};

/*! \brief The place i of a shifted, padded axis, 0 <= i < num_windows * window. */
EDGEATTN_HOST_DEVICE Place block_place(Axis const& axis, int32_t length, int32_t order, int32_t i) {
  int32_t const padded = axis.num_windows * axis.window;
  int32_t const period = order == kPadThenRoll ? padded : length;
  int32_t const rolled = i + axis.shift;
  int32_t const wrapped = rolled < period ? rolled : rolled - period;
  bool const is_token = (order == kPadThenRoll ? wrapped : i) < length;
  int32_t label = 0;
  if (axis.shift > 0 && i >= padded - axis.window) label = i < padded - axis.shift ? 1 : 2;
  return {is_token ? wrapped : kPadding, label};
}

/*! \brief Whether padding or a second label can occur in window `a` of a block axis. */
EDGEATTN_HOST_DEVICE bool block_window_is_mixed(Axis const& axis, int32_t length, int32_t order,
                                                int32_t a) {
  int32_t const padded = axis.num_windows * axis.window;
  int32_t const shift_of_padding = order == kPadThenRoll ? axis.shift : 0;
  bool const has_padding = padded > length && (a + 1) * axis.window > length - shift_of_padding;
  return has_padding || (axis.shift > 0 && a == axis.num_windows - 1);
}

/*! \brief Whether the places of window `a` of a block axis hold consecutive tokens, from
 *  `a * window + shift` on: no padding, no second label, no wrapping around. */
EDGEATTN_HOST_DEVICE bool block_window_is_linear(Axis const& axis, int32_t length, int32_t a) {
  return (a + 1) * axis.window + axis.shift <= length;
}

// Grid

/*! \brief Member g of window `a`: windows spread over the whole axis. */
EDGEATTN_HOST_DEVICE int32_t grid_source(Axis const& axis, int32_t length, int32_t a, int32_t g) {
  int32_t const source = g * axis.stride + a;
  return source < length ? source : kPadding;
}

/*! \brief Whether padding occurs in window `a` of a grid axis. */
EDGEATTN_HOST_DEVICE bool grid_window_is_mixed(Axis const& axis, int32_t length, int32_t a) {
  return (axis.window - 1) * axis.stride + a >= length;
}

// Neighborhood

/*! \brief Consecutive tokens of a residue class. */
struct Span {
  int32_t first;
  int32_t count;
};

/*! \brief The keys of the query with index j in a residue class of n tokens. */
EDGEATTN_HOST_DEVICE Span neighbours(int32_t window, bool causal, int32_t n, int32_t j) {
  if (causal) {
    int32_t const first = j - window + 1 > 0 ? j - window + 1 : 0;
    return {first, j - first + 1};
  }
  int32_t const count = window < n ? window : n;
  int32_t const centred = j - window / 2;
  int32_t const first = centred < 0 ? 0 : centred;
  return {first < n - count ? first : n - count, count};
}

/*! \brief A tile of queries of one residue class, with the keys that they see. */
struct NeighborhoodTile {
  int32_t residue;      //!< first token of the class
  int32_t tokens;       //!< of the class on this axis
  int32_t first_query;  //!< index in the class; may lie past its end: the tile is empty then
  int32_t first_key;    //!< index in the class
};

EDGEATTN_HOST_DEVICE NeighborhoodTile neighborhood_tile(Axis const& axis, int32_t length,
                                                        bool causal, int32_t a) {
  int32_t const tile = a / axis.stride;
  int32_t const residue = a - tile * axis.stride;
  int32_t const tokens = ceil_div(length - residue, axis.stride);
  int32_t const first_query = tile * axis.queries;
  return {residue, tokens, first_query, neighbours(axis.window, causal, tokens, first_query).first};
}

/*! \brief The token with index j of the tile's class. */
EDGEATTN_HOST_DEVICE int32_t neighborhood_source(Axis const& axis, NeighborhoodTile const& tile,
                                                 int32_t j) {
  return j < tile.tokens ? tile.residue + j * axis.stride : kAbsent;
}

}  // namespace edgeattn
