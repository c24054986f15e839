/*!
 * \file
 * \brief How much of the work a CTA of the resident kernel takes at a time, and in all.
 */
#pragma once

#include <stdint.h>

#include "cut.h"
#include "edgeattn/device_size.h"
#include "edgeattn/params.h"

namespace edgeattn {

/*! \brief Choose how many heads and windows make a step of the resident kernel.
 *
 * Of equal choices, the longest step is best, up to kMaxWarpTiles, and then the one with more
 * heads: their rows lie side by side in memory, and the windows' rows are worked out once for all
 * of them. But there should be rows enough that all threads have some to copy.
 *  \param windows  of the whole batch. */
void choose_step(HeadGroup& group, Cut const& cut, DeviceSize const& device, int64_t windows);

/*! \brief Make the items of the resident kernels for one chunk so long that all run at a time: then
 *  each CTA always has a step on its way.
 *  \param windows  [num_groups], of the whole batch. */
void choose_item_steps(Cut const& cut, DeviceSize const& device, int64_t const* windows,
                       AttentionParams& params);

}  // namespace edgeattn
