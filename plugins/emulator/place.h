/*!
 * \file
 * \brief A place in a kernel's source: what makes two collective calls the same call.
 */
#pragma once

#include <stdint.h>

namespace edgeattn::emulator {

struct Place {
  char const* file;
  int32_t line;

  /*! \brief As a default argument: where the function that has it is called. */
  static constexpr Place here(char const* file = __builtin_FILE(),
                              int32_t line = __builtin_LINE()) {
    return {file, line};
  }
};

constexpr bool operator==(Place a, Place b) { return a.line == b.line && a.file == b.file; }
constexpr bool operator!=(Place a, Place b) { return !(a == b); }

}  // namespace edgeattn::emulator
