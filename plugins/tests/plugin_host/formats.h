/*!
 * \file
 * \brief The negotiation of types and formats between builder and plugin.
 */
#pragma once

#include <NvInferRuntime.h>

#include <vector>

#include "case_file.h"

namespace plugin_host {

/*! Inputs, then the output, as `configurePlugin` gets them. */
using Tensors = std::vector<nvinfer1::DynamicPluginTensorDesc>;

/*! \brief Describe the tensors over the case's range; formats and types are still open. */
Tensors describe(Case const& the_case, std::vector<int64_t> const& output_shape);

/*! \brief Ask about every type and every format of every tensor, one position after the other.
 *  \return the combinations that the plugin accepts.
 *  \throw Broken if they are more than its limit, or if an answer hangs on a later position. */
std::vector<Tensors> negotiate(nvinfer1::IPluginV3OneBuild& build, Tensors const& tensors);

/*! \brief Choose the one combination of the network's types.
 *  \throw Refused("formats") if there is none. */
Tensors choose(std::vector<Tensors> const& accepted, std::vector<Input> const& inputs,
               nvinfer1::DataType output);

/*! \brief The tensors of one call: sizes settled. */
std::vector<nvinfer1::PluginTensorDesc> at(Tensors const& tensors, Map const& map);

}  // namespace plugin_host
