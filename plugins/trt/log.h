/*!
 * \file
 * \brief Messages for the user, and the wall that no exception crosses.
 */
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <limits>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace edgeattn::trt {

using Severity = nvinfer1::ILogger::Severity;

/*! What the plugin will not accept: one sentence with what was got and what was expected. */
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/*! \brief Keep TensorRT's way to its logger. Later calls replace earlier ones; null forgets it. */
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

/*! \brief Say something to TensorRT's logger; errors go to stderr where there is no logger.
 *  \param layer  name of the node that speaks, put in front; may be empty. */
void log(Severity severity, std::string_view layer, std::string_view message) noexcept;

/*! \brief Write values one after the other, whatever the program's locale says of numbers. */
template <typename... Values>
std::string text(Values const&... values) {
  std::ostringstream stream;
  stream.imbue(std::locale::classic());
  stream.precision(std::numeric_limits<float>::max_digits10);
  (stream << ... << values);
  return stream.str();
}

/*! \brief Run what may throw; log what it threw and return `on_failure` in its place. */
template <typename Result, typename Body>
Result guarded(std::string_view layer, Result on_failure, Body const& body) noexcept {
  try {
    return body();
  } catch (std::exception const& error) {
    log(Severity::kERROR, layer, error.what());
  } catch (...) {
    log(Severity::kERROR, layer, "unknown exception");
  }
  return on_failure;
}

}  // namespace edgeattn::trt
