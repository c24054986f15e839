/*!
 * \file
 * \brief How the tables of the relative position bias lie in memory.
 *
 * In shared memory, a head's table covers all distances that occur in a box of keys: `2 * keys - 1`
 * rows and columns, in reverse, so that the entries of neighbouring keys follow one another; rows
 * are padded to an even length. Where boxes have an even width, two neighbouring keys are read as
 * one 8-byte word. Queries with an odd term read it from a second copy, which is shifted by one
 * entry.
 *
 * Distances that are larger than the window (they occur in neighborhoods, between a query and keys
 * of other queries) hold 0: those keys are masked.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/params.h"
#include "edgeattn/platform.h"

namespace edgeattn {

/*! \brief How a bias table is laid out: the entry of a query and a key that are (dy, dx) apart is
 *  `centre - (dy * pitch + dx)`; of a table in global memory, `centre + (dy * pitch + dx)`. */
struct BiasLayout {
  int32_t pitch;
  int32_t centre;
  int32_t second_copy;  //!< pairs: how far on odd entries are read; else 0
};

EDGEATTN_HOST_DEVICE BiasLayout bias_layout(HeadGroup const& group) {
  if (group.bias == kGlobalBias) {
    int32_t const pitch = 2 * group.cols.window - 1;
    return {pitch, (group.rows.window - 1) * pitch + group.cols.window - 1, 0};
  }
  bool const pairs = group.bias == kSharedBiasPairs;
  int32_t const width = 2 * group.cols.keys;
  // Rows of a tile of queries that lie in two rows of a window meet other banks that way, and so do
  // odd entries, half the banks apart from even ones.
  int32_t const pitch = pairs && width > 16 ? ceil_div(width, 16) * 16 : width;
  int32_t const entries = (2 * group.rows.keys - 1) * pitch;
  int32_t const second_copy = pairs ? (entries + 16) / 32 * 32 + 15 : 0;
  return {pitch, (group.rows.keys - 1) * pitch + group.cols.keys - 1, second_copy};
}

/*! \brief Floats that a head's table takes in shared memory, a multiple of 4. */
EDGEATTN_HOST_DEVICE int32_t shared_bias_floats(HeadGroup const& group) {
  if (group.bias != kSharedBias && group.bias != kSharedBiasPairs) return 0;
  BiasLayout const layout = bias_layout(group);
  int32_t const entries = (2 * group.rows.keys - 1) * layout.pitch;
  return ceil_div(entries + layout.second_copy, 4) * 4;
}

/*! \brief Entries of a head's table in global memory. */
EDGEATTN_HOST_DEVICE int32_t global_bias_entries(HeadGroup const& group) {
  return (2 * group.rows.window - 1) * (2 * group.cols.window - 1);
}

}  // namespace edgeattn
