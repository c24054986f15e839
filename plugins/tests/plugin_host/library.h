/*!
 * \file
 * \brief A plugin library, loaded as TensorRT's registry does it.
 */
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <string>

#include "fields.h"

namespace plugin_host {

/*! Writes each message as a line `log SEVERITY TEXT` to stdout. */
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, nvinfer1::AsciiChar const* message) noexcept override;
};

class LoggerFinder final : public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* findLogger() override { return &logger_; }

 private:
  Logger logger_;
};

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

class Library {
 public:
  /*! \param with_logger  give the library a way to a logger, as TensorRT may or may not do. */
  Library(std::string const& path, bool with_logger);

  /*! \brief Check what the creator says of itself, and print its name and field names. */
  void introduce() const;

  /*! \throw Refused("create") if the creator gives nothing. */
  Plugin create(std::vector<Field> const& fields, nvinfer1::TensorRTPhase phase) const;

 private:
  nvinfer1::IPluginCreatorV3One* creator_ = nullptr;
};

/*! \brief One of a plugin's three faces.
 *  \throw Broken if it is missing or is not what its kind says. */
nvinfer1::IPluginV3OneCore& core_of(nvinfer1::IPluginV3& plugin);
nvinfer1::IPluginV3OneBuild& build_of(nvinfer1::IPluginV3& plugin);
nvinfer1::IPluginV3OneRuntime& runtime_of(nvinfer1::IPluginV3& plugin);

}  // namespace plugin_host
