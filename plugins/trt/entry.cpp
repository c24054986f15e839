/*!
 * \file
 * \brief What TensorRT looks up in a plugin library that it loads: the creators and the logger.
 */
#include <NvInferRuntime.h>

#include "creator.h"
#include "edgeattn/edgeattn.h"
#include "log.h"

extern "C" EDGEATTN_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  edgeattn::trt::set_logger_finder(finder);
}

extern "C" EDGEATTN_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static edgeattn::trt::AttentionPluginCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}
