#include "bank_conflicts.h"

#include <algorithm>

namespace edgeattn::emulator {

namespace {

constexpr int32_t kBanks = 32;
constexpr uint32_t kBankBytes = 4;
constexpr int32_t kPhaseBytes = 128;
constexpr int32_t kLanes = 32;

// Beyond these, accesses between two collectives are not counted, lanes not matched: a kernel that
// loops for long without meeting would fill the memory.
constexpr int32_t kMostAccesses = 1 << 14;
constexpr int32_t kFarthestMatch = 64;

// Words that the busiest bank has to give to some lanes.
int32_t busiest_bank(int32_t const* offset_bytes, uint32_t lanes, int32_t bytes) {
  uint32_t words[kLanes][kBanks];  // the distinct ones of each bank
  int32_t num_words[kBanks] = {};
  int32_t busiest = 0;
  for (; lanes != 0; lanes &= lanes - 1) {
    uint32_t const offset = static_cast<uint32_t>(offset_bytes[__builtin_ctz(lanes)]);
    uint32_t const last_word = (offset + static_cast<uint32_t>(bytes) - 1) / kBankBytes;
    for (uint32_t word = offset / kBankBytes; word <= last_word; ++word) {
      uint32_t const bank = word % kBanks;
      int32_t i = 0;
      while (i < num_words[bank] && words[i][bank] != word) ++i;
      if (i < num_words[bank]) continue;
      words[i][bank] = word;
      num_words[bank] = i + 1;
      busiest = std::max(busiest, i + 1);
    }
  }
  return busiest;
}

bool are_contiguous(int32_t const* offset_bytes, int32_t bytes) {
  int32_t gaps = 0;
  for (int32_t lane = 1; lane < kLanes; ++lane) {
    gaps |= offset_bytes[lane] - offset_bytes[lane - 1] - bytes;
  }
  return gaps == 0;
}

}  // namespace

int32_t extra_wavefronts(int32_t const* offset_bytes, uint32_t lanes, int32_t bytes) {
  if (lanes == 0xffffffffu && are_contiguous(offset_bytes, bytes)) return 0;
  int32_t const lanes_per_phase = bytes <= 4 ? kLanes : kPhaseBytes / bytes;
  uint32_t const phase = 0xffffffffu >> (kLanes - lanes_per_phase);
  int32_t extra = 0;
  for (int32_t first = 0; first < kLanes; first += lanes_per_phase) {
    extra += std::max(busiest_bank(offset_bytes, lanes & phase << first, bytes) - 1, 0);
  }
  return extra;
}

void WarpAccesses::note(int32_t lane, SharedAccess kind, int32_t offset_bytes, int32_t bytes,
                        Place place) {
  uint32_t const bit = 1u << lane;
  int32_t index = next_[lane];
  int32_t const end = std::min(num_accesses_, index + kFarthestMatch);
  for (; index < end; ++index) {  // lanes that took other branches made others first
    Access const& access = accesses_[index];
    if (access.place == place && access.kind == kind && access.bytes == bytes &&
        (access.lanes & bit) == 0) {
      break;
    }
  }
  if (index == end) {
    if (num_accesses_ == kMostAccesses) return;
    index = num_accesses_++;
    if (static_cast<size_t>(index) == accesses_.size()) accesses_.emplace_back();
    Access& access = accesses_[index];
    access.place = place;
    access.kind = kind;
    access.bytes = bytes;
    access.lanes = 0;
  }
  Access& access = accesses_[index];
  access.offset_bytes[lane] = offset_bytes;
  access.lanes |= bit;
  next_[lane] = index + 1;
}

void WarpAccesses::count(Statistics& statistics) {
  for (int32_t i = 0; i < num_accesses_; ++i) {
    Access const& access = accesses_[i];
    statistics.bank_conflicts[static_cast<int32_t>(access.kind)] +=
        extra_wavefronts(access.offset_bytes, access.lanes, access.bytes);
  }
  num_accesses_ = 0;
  std::fill(std::begin(next_), std::end(next_), 0);
}

}  // namespace edgeattn::emulator
