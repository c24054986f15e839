/*!
 * \file
 * \brief How large a GPU is.
 */
#pragma once

#include <stdint.h>

namespace edgeattn {

/*! \brief What limits how many CTAs run at a time. */
struct DeviceSize {
  int32_t multiprocessors;
  int32_t shared_bytes;  //!< of each
};

}  // namespace edgeattn
