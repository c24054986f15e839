/*!
 * \file
 * \brief How the axes of a map are cut into windows, or into tiles of queries.
 */
#pragma once

#include <stdint.h>

#include <algorithm>

#include "edgeattn/window_index.h"

namespace edgeattn {

/*! \brief A window of `window` tokens (0: the whole axis) on an axis of block or grid mode. */
inline Axis plan_window_axis(int32_t length, int32_t window, int32_t shift, Mode mode) {
  Axis axis{};
  axis.window = window == 0 ? length : window;
  axis.num_windows = ceil_div(length, axis.window);
  axis.shift = axis.num_windows == 1 ? 0 : shift;
  axis.stride = mode == kGrid ? axis.num_windows : 1;
  axis.queries = axis.window;
  axis.keys = axis.window;
  return axis;
}

/*! \brief Both axes of neighborhood mode: tiles of about `tile_queries` queries, as square as the
 *  map allows, for then they share most of their keys.
 *  \param window, dilation  [2] */
inline void plan_neighborhood_axes(int32_t const (&length)[2], int32_t const* window,
                                   int32_t const* dilation, int32_t tile_queries, Axis (&axis)[2]) {
  int32_t tokens[2];  // of the largest residue class
  for (int32_t i = 0; i < 2; ++i) {
    axis[i] = Axis{};
    axis[i].stride = std::min(dilation[i], length[i]);  // beyond, every class has one token anyway
    tokens[i] = ceil_div(length[i], axis[i].stride);
    axis[i].window = window[i] == 0 ? tokens[i] : window[i];
  }
  int32_t side = 1;
  while (4 * side * side <= tile_queries) side *= 2;
  axis[0].queries = std::min(tokens[0], side);
  axis[1].queries = std::min(tokens[1], tile_queries / axis[0].queries);
  axis[0].queries = std::min(tokens[0], tile_queries / axis[1].queries);
  for (int32_t i = 0; i < 2; ++i) {
    axis[i].num_windows = axis[i].stride * ceil_div(tokens[i], axis[i].queries);
    int64_t const seen = int64_t{axis[i].queries} + std::min(axis[i].window, tokens[i]) - 1;
    axis[i].keys = static_cast<int32_t>(std::min<int64_t>(tokens[i], seen));
  }
}

}  // namespace edgeattn
