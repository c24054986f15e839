/*!
 * \file
 * \brief Bank conflicts of shared memory: wavefronts that an access of a warp takes beyond the
 * fewest possible.
 *
 * Model: 32 banks of 4 bytes. A warp accesses up to 4 bytes a lane in one phase, 8 bytes in two (a
 * half-warp each), 16 bytes in four (a quarter-warp each). A phase takes as many wavefronts as the
 * busiest bank has distinct words to give.
 */
#pragma once

#include <stdint.h>

#include <vector>

#include "place.h"
#include "statistics.h"

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief Extra wavefronts of one access.
 *  \param offset_bytes  [32]; only the lanes in `lanes` take part.
 *  \param bytes         1, 2, 4, 8 or 16, of each lane. */
int32_t extra_wavefronts(int32_t const* offset_bytes, uint32_t lanes, int32_t bytes);

/*! \brief Puts together which accesses of a warp's lanes were one instruction.
 *
 *  Lanes run one after another from one collective to the next. Accesses made in between at the
 *  same place, in the same turn, count as one. */
class WarpAccesses {
 public:
  void note(int32_t lane, SharedAccess access, int32_t offset_bytes, int32_t bytes, Place place);

  /*! \brief All lanes have met: count what was noted and begin anew. */
  void settle(Statistics& statistics) {
    if (num_accesses_ != 0) count(statistics);
  }

 private:
  struct Access {
    Place place;
    int32_t bytes;
    SharedAccess kind;
    uint32_t lanes;
    int32_t offset_bytes[32];
  };

  void count(Statistics& statistics);

  std::vector<Access> accesses_;  //!< the first num_accesses_ are in use
  int32_t num_accesses_ = 0;
  int32_t next_[32] = {};  //!< per lane: where to look for its next access
};

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
