/*!
 * \file
 * \brief How the axes of a map are cut into windows, or into tiles of queries.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/window_index.h"

namespace edgeattn {

/*! \brief A window of `window` tokens (0: the whole axis) on an axis of block or grid mode. */
Axis plan_window_axis(int32_t length, int32_t window, int32_t shift, Mode mode);

/*! \brief Both axes of neighborhood mode: tiles of about `tile_queries` queries, as square as the
 *  map allows, for then they share most of their keys.
 *  \param window, dilation  [2] */
void plan_neighborhood_axes(int32_t const (&length)[2], int32_t const* window,
                            int32_t const* dilation, int32_t tile_queries, Axis (&axis)[2]);

}  // namespace edgeattn
