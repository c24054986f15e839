// What a warp does once its 32 lanes have met.

#include <string.h>

#include "machine.h"
#include "matrix.h"
#include "memory_access.h"

namespace edgeattn::emulator {

namespace {

uint32_t value_of(Operands const& operands) {
  uint32_t value;
  memcpy(&value, operands.a, sizeof(value));
  return value;
}

// PTX ISA, shfl.sync: .bfly exchanges with lane ^ mask, .idx reads from a lane given by 5 bits.
void shuffle(Collective kind, Operands const* const* lanes) {
  uint32_t values[kLanes];
  for (int32_t lane = 0; lane < kLanes; ++lane) values[lane] = value_of(*lanes[lane]);
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    int32_t const argument = lanes[lane]->argument;
    int32_t const source = (kind == Collective::kShuffleXor ? lane ^ argument : argument) % kLanes;
    memcpy(lanes[lane]->d, &values[source & (kLanes - 1)], sizeof(uint32_t));
  }
}

void vote(Collective kind, Operands const* const* lanes) {
  uint32_t votes = 0;
  for (int32_t lane = 0; lane < kLanes; ++lane) votes += value_of(*lanes[lane]) != 0;
  int32_t const result = kind == Collective::kAny ? votes != 0 : votes == kLanes;
  for (int32_t lane = 0; lane < kLanes; ++lane) memcpy(lanes[lane]->d, &result, sizeof(result));
}

void ldmatrix(Machine& machine, Warp const& warp, int32_t matrices, bool transposed) {
  unsigned char const* rows[kLanes];
  int32_t offsets[kLanes];
  for (int32_t lane = 0; lane < matrices * 8; ++lane) {
    offsets[lane] = warp.operands[lane]->argument;
    rows[lane] = read_matrix_row(warp.threads[lane], offsets[lane], warp.place);
  }
  for (int32_t i = 0; i < matrices; ++i) distribute(rows + 8 * i, transposed, i, warp.operands);
  uint32_t const used = matrices == 4 ? kAllLanes : (1u << (matrices * 8)) - 1;
  machine.statistics.bank_conflicts[static_cast<int32_t>(SharedAccess::kLdmatrix)] +=
      extra_wavefronts(offsets, used, 16);
  ++machine.statistics.ldmatrix;
}

}  // namespace

void Machine::execute(Warp& warp) {
  Operands const* const* const lanes = warp.operands;
  switch (warp.kind) {
    case Collective::kSyncWarp:
      ++warp.step;
      ++statistics.warp_barriers;
      return;
    case Collective::kShuffleXor:
    case Collective::kShuffle:
      return shuffle(warp.kind, lanes);
    case Collective::kAny:
    case Collective::kAll:
      return vote(warp.kind, lanes);
    case Collective::kLdmatrixX2:
      return ldmatrix(*this, warp, 2, false);
    case Collective::kLdmatrixX2Trans:
      return ldmatrix(*this, warp, 2, true);
    case Collective::kLdmatrixX4:
      return ldmatrix(*this, warp, 4, false);
    case Collective::kLdmatrixX4Trans:
      return ldmatrix(*this, warp, 4, true);
    case Collective::kMmaHalf:
    case Collective::kMmaBf16:
      ++statistics.mma_m16n8k16;
      return multiply_accumulate(warp.kind, lanes);
    case Collective::kMmaS8:
      ++statistics.mma_m16n8k32_s8;
      return multiply_accumulate(warp.kind, lanes);
  }
}

}  // namespace edgeattn::emulator
