/*!
 * \file
 * \brief Division by a number that stays the same for a whole launch.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/platform.h"

namespace edgeattn {

/*! \brief n / d as (mulhi(n, multiplier) + n) >> shift, for 0 <= n < 2^31.
 *
 * With l = ceil(log2(d)) and multiplier = floor(2^32 (2^l - d) / d) + 1 this is Granlund and
 * Montgomery's division by an invariant integer (PLDI 1994, figure 4.1); below 2^31 the sum cannot
 * carry. */
struct Divisor {
  uint32_t multiplier;
  int32_t shift;
};

/*! \brief Prepare for divisions by `d`, at least 1. */
inline Divisor make_divisor(int32_t d) {
  int32_t shift = 0;
  while ((int64_t{1} << shift) < d) ++shift;
  uint64_t const excess = (uint64_t{1} << shift) - static_cast<uint64_t>(d);
  uint64_t const multiplier = (excess << 32) / static_cast<uint64_t>(d) + 1;
  return {static_cast<uint32_t>(multiplier), shift};
}

EDGEATTN_HOST_DEVICE int32_t divide(int32_t n, Divisor by) {
  uint32_t const number = static_cast<uint32_t>(n);
  uint32_t const high =
      static_cast<uint32_t>((static_cast<uint64_t>(number) * by.multiplier) >> 32);
  return static_cast<int32_t>((high + number) >> by.shift);
}

}  // namespace edgeattn
