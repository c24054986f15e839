/*!
 * \file
 * \brief What launches did wrong, in sentences.
 */
#pragma once

#include <stdint.h>

#include <string>

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief Violations after which a launch is given up. */
constexpr int64_t kMostViolations = 64;

class Violations {
 public:
  /*! \brief Count one; an empty sentence leaves the text as it is. */
  void add(std::string const& sentence);
  void clear();
  int64_t count() const { return count_; }
  std::string const& text() const { return text_; }  //!< a line each, of the first ones

 private:
  int64_t count_ = 0;
  std::string text_;
};

/*! \brief A kernel's name as it stands in the source, with its template arguments. */
std::string kernel_name(void const* kernel);

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
