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
  int32_t shared_bytes;      //!< shared memory of each
  int32_t cta_shared_bytes;  //!< what a CTA may take of it
};

}  // namespace edgeattn
