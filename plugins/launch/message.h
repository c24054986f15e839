/*!
 * \file
 * \brief One sentence for the caller, in the caller's buffer.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "edgeattn/edgeattn.h"

namespace edgeattn {

class Message {
 public:
  /*! \param text  receives the sentence, cut to `bytes` with its NUL; may be NULL. */
  Message(char* text, size_t bytes);

  /*! \brief Say what is wrong: what was got, what was expected, and after "; " what to do.
   *  \return EDGEATTN_INVALID_ARGUMENT, so that `return message.refuse(...)` reads well. */
  int32_t refuse(char const* format, ...) const __attribute__((format(printf, 2, 3)));

  /*! \brief Pass on a sentence of someone else's. */
  void set(char const* sentence) const;

 private:
  char* text_;
  size_t bytes_;
};

}  // namespace edgeattn
