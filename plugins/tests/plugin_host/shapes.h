/*!
 * \file
 * \brief Output shapes as the builder asks for them: in expressions, not in numbers.
 */
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <vector>

#include "case_file.h"

namespace plugin_host {

/*! \brief Ask for the output's shape, with the axes of qkv's map known or not.
 *  \param is_known  per axis; one that is not known must pass through as the expression it is.
 *  \return `[B, H, W, C]`, -1 for an axis that passed through.
 *  \throw Refused, or Broken if an axis of the map is not the input's. */
std::vector<int64_t> output_shape(nvinfer1::IPluginV3OneBuild& build,
                                  std::vector<Input> const& inputs, Map const& map, bool is_known);

}  // namespace plugin_host
