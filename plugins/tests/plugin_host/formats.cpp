#include "formats.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "rules.h"

namespace plugin_host {
namespace {

using namespace nvinfer1;

Dims dims_of(std::vector<int64_t> const& shape) {
  Dims dims{};
  dims.nbDims = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

Dims with_map(Dims dims, Map const& map) {
  if (dims.nbDims == 4) {
    std::copy(map.begin(), map.end(), dims.d);
  }
  return dims;
}

/*! Ask with two kinds of rubbish behind `pos`: an answer that differs has looked at it. */
bool supports(IPluginV3OneBuild& build, int32_t pos, Tensors const& tensors) {
  bool answers[2] = {false, false};
  for (int32_t i = 0; i < 2; ++i) {
    Tensors asked = tensors;
    for (size_t later = pos + 1; later < asked.size(); ++later) {
      std::memset(static_cast<void*>(&asked[later]), i == 0 ? 0x00 : 0xA5, sizeof asked[later]);
    }
    answers[i] = build.supportsFormatCombination(pos, asked.data(),
                                                 static_cast<int32_t>(asked.size()) - 1, 1);
  }
  require(answers[0] == answers[1], "supportsFormatCombination looked behind pos");
  return answers[0];
}

void extend(IPluginV3OneBuild& build, size_t pos, Tensors& tensors,
            std::vector<Tensors>& accepted) {
  if (pos == tensors.size()) {
    accepted.push_back(tensors);
    return;
  }
  for (int32_t type = 0; type < EnumMax<DataType>(); ++type) {
    for (int32_t format = 0; format < EnumMax<TensorFormat>(); ++format) {
      tensors[pos].desc.type = static_cast<DataType>(type);
      tensors[pos].desc.format = static_cast<TensorFormat>(format);
      if (supports(build, static_cast<int32_t>(pos), tensors)) {
        extend(build, pos + 1, tensors, accepted);
      }
    }
  }
}

}  // namespace

Tensors describe(Case const& the_case, std::vector<int64_t> const& output_shape) {
  Tensors tensors(the_case.inputs.size() + 1);
  for (size_t i = 0; i < tensors.size(); ++i) {
    bool const is_input = i < the_case.inputs.size();
    Dims const dims = dims_of(is_input ? the_case.inputs[i].shape : output_shape);
    tensors[i].desc = {dims, DataType::kFLOAT, TensorFormat::kLINEAR, NAN};
    tensors[i].min = with_map(dims, the_case.min);
    tensors[i].opt = with_map(dims, the_case.opt);
    tensors[i].max = with_map(dims, the_case.max);
  }
  return tensors;
}

std::vector<Tensors> negotiate(IPluginV3OneBuild& build, Tensors const& tensors) {
  std::vector<Tensors> accepted;
  Tensors open = tensors;
  extend(build, 0, open, accepted);
  require(static_cast<int32_t>(accepted.size()) <= build.getFormatCombinationLimit(),
          "more combinations than getFormatCombinationLimit");
  return accepted;
}

Tensors choose(std::vector<Tensors> const& accepted, std::vector<Input> const& inputs,
               DataType output) {
  auto const fits = [&](Tensors const& tensors) {
    return tensors.back().desc.type == output &&
           std::equal(inputs.begin(), inputs.end(), tensors.begin(),
                      [](Input const& input, DynamicPluginTensorDesc const& tensor) {
                        return input.type == tensor.desc.type &&
                               tensor.desc.format == TensorFormat::kLINEAR;
                      });
  };
  auto const found = std::find_if(accepted.begin(), accepted.end(), fits);
  if (found == accepted.end()) {
    throw Refused("formats");
  }
  return *found;
}

std::vector<PluginTensorDesc> at(Tensors const& tensors, Map const& map) {
  std::vector<PluginTensorDesc> settled;
  for (DynamicPluginTensorDesc const& tensor : tensors) {
    settled.push_back(tensor.desc);
    settled.back().dims = with_map(tensor.desc.dims, map);
  }
  return settled;
}

}  // namespace plugin_host
