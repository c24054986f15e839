#include "message.h"

#include <stdarg.h>
#include <stdio.h>

namespace edgeattn {

Message::Message(char* text, size_t bytes) : text_(bytes > 0 ? text : nullptr), bytes_(bytes) {
  if (text_ != nullptr) text_[0] = '\0';
}

int32_t Message::refuse(char const* format, ...) const {
  va_list arguments;
  va_start(arguments, format);
  if (text_ != nullptr) vsnprintf(text_, bytes_, format, arguments);
  va_end(arguments);
  return EDGEATTN_INVALID_ARGUMENT;
}

void Message::set(char const* sentence) const {
  if (text_ != nullptr) snprintf(text_, bytes_, "%s", sentence);
}

}  // namespace edgeattn
