/*!
 * \file
 * \brief Makes plugins: from a node's attributes, and again from an engine.
 */
#pragma once

#include <NvInferRuntime.h>

#include <vector>

namespace edgeattn::trt {

class AttentionPluginCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  AttentionPluginCreator();

  /*! \brief Read and validate the fields; null, and a message to the logger, if they will not do.
   *
   *  A graph's node gives attributes; those with a default may be missing. An engine gives what
   *  `getFieldsToSerialize` wrote: the same attributes, the plugin's version and the tactic. */
  nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* layer,
                                    nvinfer1::PluginFieldCollection const* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;

  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &names_; }
  nvinfer1::AsciiChar const* getPluginName() const noexcept override;
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection names_{};
};

}  // namespace edgeattn::trt
