/*!
 * \file
 * \brief How a run of the host driver ends early.
 */
#pragma once

#include <stdexcept>
#include <string>

namespace plugin_host {

/*! The plugin broke a rule of TensorRT's interface, or something around it failed. */
struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/*! The plugin said no, as it may; `what()` is the step. */
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void require(bool holds, std::string const& rule) {
  if (!holds) {
    throw Broken(rule);
  }
}

inline void accept(int32_t status, char const* step) {
  if (status != 0) {
    throw Refused(step);
  }
}

}  // namespace plugin_host
