/*!
 * \file
 * \brief Turning C fragments into chunks of consecutive channels, among four lanes.
 *
 * Of a row and four tiles of 8 channels, lane c of a quad holds channels 2c and 2c + 1 of each
 * tile. To store wide words it needs all channels of tile c.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/intrinsics.h"

namespace edgeattn {

/*! \brief Exchange the register that the lane at distance `mask` wants for the one that this wants.
 *  \param is_upper  of the two lanes. */
EDGEATTN_DEVICE void exchange(uint32_t& low, uint32_t& high, int32_t mask, bool is_upper) {
  uint32_t const received = shuffle_xor(is_upper ? low : high, mask);
  low = is_upper ? received : low;
  high = is_upper ? high : received;
}

/*! \brief 16-bit channels: word t, channels 2c and 2c + 1 of tile t, becomes word t of tile c. */
EDGEATTN_DEVICE void transpose_quad(uint32_t (&word)[4]) {
  bool const is_odd = lane_index() & 1;
  bool const is_upper = lane_index() & 2;
  exchange(word[0], word[1], 1, is_odd);
  exchange(word[2], word[3], 1, is_odd);
  exchange(word[0], word[2], 2, is_upper);
  exchange(word[1], word[3], 2, is_upper);
}

/*! \brief 8-bit channels: word 0 holds the channels 2c and 2c + 1 of tiles 0 and 1, word 1 those of
 *  tiles 2 and 3; they become the 8 channels of tile c. */
EDGEATTN_DEVICE void transpose_quad(uint32_t (&word)[2]) {
  bool const is_odd = lane_index() & 1;
  bool const is_upper = lane_index() & 2;
  // Tiles 2 (c / 2) and 2 (c / 2) + 1 of the lanes c % 2 and c % 2 + 2.
  exchange(word[0], word[1], 2, is_upper);
  uint32_t even = byte_permute(word[0], word[1], 0x5410);  // the first tile of both lanes
  uint32_t odd = byte_permute(word[0], word[1], 0x7632);   // the second tile
  // The tile c of the even lanes, then of the odd ones.
  exchange(even, odd, 1, is_odd);
  word[0] = byte_permute(even, odd, 0x5410);
  word[1] = byte_permute(even, odd, 0x7632);
}

}  // namespace edgeattn
