/*!
 * \file
 * \brief `edgeattn::MultiScaleWindowAttention` as a TensorRT plugin (IPluginV3).
 *
 * A thin adapter: TensorRT's questions are answered from the attributes, and `enqueue` is one call
 * of the kernels' C interface. One object is all three capabilities; it holds no device memory, so
 * that clones are copies.
 */
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attributes.h"
#include "tensors.h"

namespace edgeattn::trt {

/*! Fields of an engine beside the attributes. */
constexpr char const* kVersionField = "plugin_version";
constexpr char const* kTacticField = "tactic";

class AttentionPlugin final : public nvinfer1::IPluginV3,
                              public nvinfer1::IPluginV3OneCore,
                              public nvinfer1::IPluginV3OneBuild,
                              public nvinfer1::IPluginV3OneRuntime {
 public:
  /*! \param layer   the node's name, for messages.
   *  \param tactic  the kernel variant to start with; 0 for the library's choice.
   *  \throw Refusal if the kernels accept the attributes with no type at all. */
  AttentionPlugin(std::string layer, NodeAttributes attributes, int32_t tactic);

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // Core
  nvinfer1::AsciiChar const* getPluginName() const noexcept override;
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

  // Build
  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t num_outputs,
                             nvinfer1::DataType const* inputs,
                             int32_t num_inputs) const noexcept override;
  int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t num_inputs,
                          nvinfer1::DimsExprs const* shape_inputs, int32_t num_shape_inputs,
                          nvinfer1::DimsExprs* outputs, int32_t num_outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t pos, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                 int32_t num_inputs, int32_t num_outputs) noexcept override;
  int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t num_inputs,
                          nvinfer1::DynamicPluginTensorDesc const* outputs,
                          int32_t num_outputs) noexcept override;
  int32_t getNbTactics() noexcept override { return static_cast<int32_t>(tactics_.size()); }
  int32_t getValidTactics(int32_t* tactics, int32_t num_tactics) noexcept override;
  int32_t getFormatCombinationLimit() noexcept override;
  char const* getTimingCacheID() noexcept override { return timing_cache_id_.c_str(); }
  char const* getMetadataString() noexcept override { return description_.c_str(); }

  // Runtime
  int32_t setTactic(int32_t tactic) noexcept override;
  int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t num_inputs,
                        nvinfer1::PluginTensorDesc const* outputs,
                        int32_t num_outputs) noexcept override;
  int32_t enqueue(nvinfer1::PluginTensorDesc const* input_descs,
                  nvinfer1::PluginTensorDesc const* output_descs, void const* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

 private:
  /*! What a tactic came to at one size. */
  struct Choice {
    EdgeattnProblem problem;
    int32_t variant;
  };

  void check(std::vector<Shape> const& inputs, std::vector<Shape> const& outputs) const;
  void check(std::vector<nvinfer1::DataType> const& inputs, nvinfer1::DataType output) const;
  std::vector<int32_t> variants(EdgeattnProblem const& problem) const;
  std::string why_not(EdgeattnProblem const& problem) const;
  std::vector<int32_t> competing_variants(nvinfer1::DynamicPluginTensorDesc const& qkv,
                                          nvinfer1::DataType output) const;
  int32_t variant_for(EdgeattnProblem const& problem);

  std::string layer_;
  NodeAttributes attributes_;
  std::vector<TypeRule> types_;
  std::vector<TensorRule> inputs_;
  std::string description_;
  std::string timing_cache_id_;
  int32_t tactic_;
  std::optional<Choice> choice_;  //!< of the last call
  std::vector<int32_t> tactics_;  //!< of the configuration that configurePlugin saw last
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace edgeattn::trt
