#include "plugin.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "identity.h"
#include "log.h"

namespace edgeattn::trt {
namespace {

using namespace nvinfer1;

constexpr int32_t kFailure = 1;

template <typename Desc, typename Part>
auto each(Desc const* descs, int32_t count, Part const& part) {
  std::vector<decltype(part(*descs))> parts;
  for (int32_t i = 0; i < count; ++i) {
    parts.push_back(part(descs[i]));
  }
  return parts;
}

void check_one(int32_t num_outputs) {
  if (num_outputs != 1) {
    throw Refusal(text("the node has ", num_outputs, " outputs; expected 1"));
  }
}

bool contains(std::vector<int32_t> const& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

AttentionPlugin::AttentionPlugin(std::string layer, NodeAttributes attributes, int32_t tactic)
    : layer_(std::move(layer)),
      attributes_(std::move(attributes)),
      types_(type_rules(attributes_)),
      description_(describe(attributes_)),
      // Times of other kernels say nothing about these.
      timing_cache_id_(description_ + ' ' + edgeattn_build_info()),
      tactic_(tactic) {
  if (std::all_of(types_.begin(), types_.end(),
                  [](TypeRule const& rule) { return !rule.refusal.empty(); })) {
    throw Refusal(types_.front().refusal);  // FP32 is the least demanding
  }
  inputs_ = input_rules(attributes_);
}

IPluginCapability* AttentionPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* AttentionPlugin::clone() noexcept {
  return guarded<IPluginV3*>(layer_, nullptr, [&] { return new AttentionPlugin(*this); });
}

AsciiChar const* AttentionPlugin::getPluginName() const noexcept { return EDGEATTN_PLUGIN_NAME; }

AsciiChar const* AttentionPlugin::getPluginVersion() const noexcept {
  return EDGEATTN_PLUGIN_VERSION;
}

AsciiChar const* AttentionPlugin::getPluginNamespace() const noexcept {
  return EDGEATTN_PLUGIN_NAMESPACE;
}

void AttentionPlugin::check(std::vector<Shape> const& inputs,
                            std::vector<Shape> const& outputs) const {
  check_shapes(inputs_, inputs);
  TensorRule output{"output", inputs[0]};
  output.shape.back() = out_channels(attributes_);
  check_shape(output, outputs.at(0));
}

void AttentionPlugin::check(std::vector<DataType> const& inputs, DataType output) const {
  check_types(inputs_, types_, inputs);
  DataType const expected = find_rule(types_, inputs.at(0))->out;
  if (output != expected) {
    throw Refusal(text("the output is ", name_of(output), "; expected ", name_of(expected), " for ",
                       name_of(inputs[0]), " qkv"));
  }
}

int32_t AttentionPlugin::getOutputDataTypes(DataType* outputs, int32_t num_outputs,
                                            DataType const* inputs,
                                            int32_t num_inputs) const noexcept {
  return guarded(layer_, kFailure, [&] {
    check_one(num_outputs);
    check_types(inputs_, types_, std::vector<DataType>(inputs, inputs + num_inputs));
    outputs[0] = find_rule(types_, inputs[0])->out;
    return 0;
  });
}

int32_t AttentionPlugin::getOutputShapes(DimsExprs const* inputs, int32_t num_inputs,
                                         DimsExprs const* /*shape_inputs*/,
                                         int32_t /*num_shape_inputs*/, DimsExprs* outputs,
                                         int32_t num_outputs, IExprBuilder& builder) noexcept {
  return guarded(layer_, kFailure, [&] {
    check_one(num_outputs);
    check_shapes(inputs_, each(inputs, num_inputs, [](DimsExprs const& d) { return shape_of(d); }));
    outputs[0] = inputs[0];  // batch, height and width pass through, known or not
    outputs[0].d[3] = builder.constant(out_channels(attributes_));
    return 0;
  });
}

bool AttentionPlugin::supportsFormatCombination(int32_t pos, DynamicPluginTensorDesc const* tensors,
                                                int32_t num_inputs, int32_t num_outputs) noexcept {
  if (num_inputs != static_cast<int32_t>(inputs_.size()) || num_outputs != 1 || pos < 0 ||
      pos > num_inputs || tensors[pos].desc.format != TensorFormat::kLINEAR) {
    return false;
  }
  // What stands behind pos has no meaning yet.
  TypeRule const* const rule = find_rule(types_, tensors[0].desc.type);
  if (rule == nullptr || !rule->refusal.empty()) {
    return false;
  }
  DataType const others = pos < num_inputs ? DataType::kFLOAT : rule->out;
  return pos == 0 || tensors[pos].desc.type == others;
}

int32_t AttentionPlugin::getFormatCombinationLimit() noexcept {
  return static_cast<int32_t>(types_.size());  // the type of qkv settles all others
}

int32_t AttentionPlugin::configurePlugin(DynamicPluginTensorDesc const* inputs, int32_t num_inputs,
                                         DynamicPluginTensorDesc const* outputs,
                                         int32_t num_outputs) noexcept {
  return guarded(layer_, kFailure, [&] {
    check_one(num_outputs);
    auto const shape = [](DynamicPluginTensorDesc const& tensor) {
      return shape_of(tensor.desc.dims);
    };
    auto const type = [](DynamicPluginTensorDesc const& tensor) { return tensor.desc.type; };
    check(each(inputs, num_inputs, shape), each(outputs, num_outputs, shape));
    check(each(inputs, num_inputs, type), outputs[0].desc.type);
    tactics_ = competing_variants(inputs[0], outputs[0].desc.type);
    return 0;
  });
}

/*! The kernels that compete: those for the shape that TensorRT measures with. At other shapes of
 *  the range one of them may not serve; `enqueue` then takes the library's choice. */
std::vector<int32_t> AttentionPlugin::competing_variants(DynamicPluginTensorDesc const& qkv,
                                                         DataType output) const {
  std::vector<int32_t> of_opt;
  for (Dims const* dims : {&qkv.min, &qkv.max, &qkv.opt}) {
    if (std::any_of(dims->d, dims->d + 3, [](int64_t extent) { return extent < 0; })) {
      return {};  // no range is known: nothing to measure
    }
    EdgeattnProblem const problem = problem_of(*dims, qkv.desc.type, output);
    of_opt = variants(problem);
    if (of_opt.empty()) {
      throw Refusal(
          text("no kernel serves qkv of the shape ", text_of(shape_of(*dims)), why_not(problem)));
    }
  }
  return of_opt.size() > 1 ? of_opt : std::vector<int32_t>{};
}

std::vector<int32_t> AttentionPlugin::variants(EdgeattnProblem const& problem) const {
  EdgeattnAttributes const view = attributes_.view();
  std::vector<int32_t> ids(16);
  int32_t const count =
      edgeattn_variants(&view, &problem, ids.data(), static_cast<int32_t>(ids.size()));
  ids.resize(std::clamp(count, 0, static_cast<int32_t>(ids.size())));
  return ids;
}

/*! The kernels' reason: an empty batch is checked as any other, and then nothing is done. */
std::string AttentionPlugin::why_not(EdgeattnProblem const& problem) const {
  EdgeattnAttributes const view = attributes_.view();
  EdgeattnProblem const empty{problem.in_type, problem.out_type, 0, problem.height, problem.width};
  std::array<char, EDGEATTN_MESSAGE_BYTES> message{};
  edgeattn_window_attention(&view, &empty, nullptr, 0, nullptr, message.data(), message.size());
  return message[0] == '\0' ? "" : text(": ", message.data());
}

/*! The tactic if it serves this size, or 0: the library's choice. Planning takes as long as a
 *  launch where there are many groups, so that a size is asked about once. */
int32_t AttentionPlugin::variant_for(EdgeattnProblem const& problem) {
  if (tactic_ == 0) {
    return 0;
  }
  if (!choice_ || std::memcmp(&choice_->problem, &problem, sizeof problem) != 0) {
    choice_ = {problem, contains(variants(problem), tactic_) ? tactic_ : 0};
  }
  return choice_->variant;
}

int32_t AttentionPlugin::getValidTactics(int32_t* tactics, int32_t num_tactics) noexcept {
  int32_t const count = std::min(num_tactics, getNbTactics());
  std::copy_n(tactics_.begin(), count, tactics);
  return 0;
}

int32_t AttentionPlugin::setTactic(int32_t tactic) noexcept {
  return guarded(layer_, kFailure, [&] {
    if (tactic < 0) {
      throw Refusal(text("the tactic is ", tactic, "; expected 0 or a kernel variant"));
    }
    tactic_ = tactic;
    choice_.reset();
    return 0;
  });
}

int32_t AttentionPlugin::onShapeChange(PluginTensorDesc const* inputs, int32_t num_inputs,
                                       PluginTensorDesc const* outputs,
                                       int32_t num_outputs) noexcept {
  return guarded(layer_, kFailure, [&] {
    check_one(num_outputs);
    auto const shape = [](PluginTensorDesc const& tensor) { return shape_of(tensor.dims); };
    auto const type = [](PluginTensorDesc const& tensor) { return tensor.type; };
    check(each(inputs, num_inputs, shape), each(outputs, num_outputs, shape));
    check(each(inputs, num_inputs, type), outputs[0].type);
    return 0;
  });
}

int32_t AttentionPlugin::enqueue(PluginTensorDesc const* input_descs,
                                 PluginTensorDesc const* output_descs, void const* const* inputs,
                                 void* const* outputs, void* /*workspace*/,
                                 cudaStream_t stream) noexcept {
  return guarded(layer_, kFailure, [&] {
    EdgeattnAttributes const view = attributes_.view();
    EdgeattnProblem const problem =
        problem_of(input_descs[0].dims, input_descs[0].type, output_descs[0].type);
    if (problem.batch == 0) {
      return 0;  // no addresses may be given then
    }
    EdgeattnTensors tensors{};
    tensors.qkv = inputs[0];
    for (size_t i = 1; i < inputs_.size(); ++i) {
      tensors.*(inputs_[i].slot) = static_cast<float const*>(inputs[i]);
    }
    tensors.out = outputs[0];
    std::array<char, EDGEATTN_MESSAGE_BYTES> message{};
    int32_t const status = edgeattn_window_attention(
        &view, &problem, &tensors, variant_for(problem), stream, message.data(), message.size());
    if (status != EDGEATTN_SUCCESS) {
      throw Refusal(message.data());
    }
    return 0;
  });
}

IPluginV3* AttentionPlugin::attachToContext(IPluginResourceContext* /*context*/) noexcept {
  return clone();
}

PluginFieldCollection const* AttentionPlugin::getFieldsToSerialize() noexcept {
  return guarded<PluginFieldCollection const*>(layer_, nullptr, [&] {
    fields_ = {{kVersionField, EDGEATTN_PLUGIN_VERSION, PluginFieldType::kCHAR,
                static_cast<int32_t>(sizeof EDGEATTN_PLUGIN_VERSION)},
               {kTacticField, &tactic_, PluginFieldType::kINT32, 1}};
    for (AttributeRule const& rule : attribute_rules()) {
      fields_.push_back(field_of(rule, attributes_));
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    return &collection_;
  });
}

}  // namespace edgeattn::trt
