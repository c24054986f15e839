#include "log.h"

#include <atomic>
#include <iostream>

#include "identity.h"

namespace edgeattn::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void log(Severity severity, std::string_view layer, std::string_view message) noexcept {
  try {
    std::string const line =
        text(EDGEATTN_PLUGIN_NAME, layer.empty() ? "" : " ", layer, ": ", message);
    nvinfer1::ILoggerFinder* const finder = logger_finder;
    // The logger belongs to the engine that called this thread: it is asked for every time.
    nvinfer1::ILogger* const logger = finder != nullptr ? finder->findLogger() : nullptr;
    if (logger != nullptr) {
      logger->log(severity, line.c_str());
    } else if (severity <= Severity::kERROR) {
      std::cerr << line << '\n';
    }
  } catch (...) {
    // No memory for the message, or a finder that threw: there is nobody left to tell.
  }
}

}  // namespace edgeattn::trt
