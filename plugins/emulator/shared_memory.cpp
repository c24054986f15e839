#include "shared_memory.h"

#include <algorithm>

namespace edgeattn::emulator {

namespace {

constexpr size_t kAlignment = 128;

}  // namespace

void SharedMemory::begin_launch(int32_t bytes) {
  bytes_ = bytes;
  size_t const rounded = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
  storage_.resize(rounded + kAlignment);
  size_t const address = reinterpret_cast<size_t>(storage_.data());
  data_ = storage_.data() + (kAlignment - address % kAlignment) % kAlignment;
  for (int32_t level = 0; level < kLevels; ++level) {
    cells_[level].resize(rounded / kCellBytes[level]);
  }
  std::fill(cells_[0].begin(), cells_[0].end(), Cell{});  // the others when their parent is split
  epoch_ = 0;
}

void SharedMemory::begin_cta() { first_epoch_of_cta_ = ++epoch_; }

// Lets `judge` see, and change, the state of all bytes from `begin` to `end`, once for bytes that
// share it. A write leaves it alike for all bytes, which then share it again.
template <int32_t kLevel, bool kWrites, typename Judge>
void SharedMemory::visit(int32_t begin, int32_t end, Judge const& judge) {
  constexpr int32_t kBytes = kCellBytes[kLevel];
  for (int32_t offset = begin / kBytes * kBytes; offset < end; offset += kBytes) {
    Cell& cell = cells_[kLevel][offset / kBytes];
    bool const whole = offset >= begin && offset + kBytes <= end;
    if (whole && !cell.split) {
      judge(cell, offset);
      continue;
    }
    if constexpr (kLevel + 1 < kLevels) {
      constexpr int32_t kPartBytes = kCellBytes[kLevel + 1];
      Cell* const parts = &cells_[kLevel + 1][offset / kPartBytes];
      if (!cell.split) std::fill(parts, parts + kBytes / kPartBytes, cell);
      cell.split = true;
      visit<kLevel + 1, kWrites>(std::max(begin, offset), std::min(end, offset + kBytes), judge);
      if (whole && kWrites) cell = *parts;
    }
  }
}

Fault const* SharedMemory::read(Accessor const& who, int32_t offset_bytes, int32_t bytes) {
  Fault const* fault = nullptr;
  visit<0, false>(offset_bytes, offset_bytes + bytes, [&](Cell& cell, int32_t offset) {
    Fault::Kind const kind = read(cell, who);
    if (kind != Fault::kNone && fault == nullptr) fault = note(kind, offset, cell, who);
  });
  return fault;
}

Fault const* SharedMemory::write(Accessor const& who, int32_t offset_bytes, int32_t bytes) {
  Fault const* fault = nullptr;
  visit<0, true>(offset_bytes, offset_bytes + bytes, [&](Cell& cell, int32_t offset) {
    Fault::Kind const kind = write(cell, who);
    if (kind != Fault::kNone && fault == nullptr) fault = note(kind, offset, cell, who);
  });
  return fault;
}

Fault const* SharedMemory::begin_copy(Accessor const& who, int32_t offset_bytes, int32_t bytes) {
  Fault const* fault = nullptr;
  visit<0, true>(offset_bytes, offset_bytes + bytes, [&](Cell& cell, int32_t offset) {
    Fault::Kind const kind = write(cell, who);
    if (kind != Fault::kNone && fault == nullptr) fault = note(kind, offset, cell, who);
    cell.in_flight = true;
  });
  return fault;
}

void SharedMemory::finish_copy(Accessor const& who, int32_t offset_bytes, int32_t bytes) {
  visit<0, true>(offset_bytes, offset_bytes + bytes, [&](Cell& cell, int32_t) {
    cell.in_flight = false;
    write(cell, who);
  });
}

inline Fault::Kind SharedMemory::read(Cell& cell, Accessor const& who) const {
  if (cell.in_flight) return Fault::kInFlight;
  if (cell.write_epoch < first_epoch_of_cta_) return Fault::kUnwritten;
  if (!after_write(cell, who)) return Fault::kRacesWrite;
  if (cell.read_epoch != epoch_) {
    cell.read_epoch = epoch_;
    cell.read_warp = static_cast<int8_t>(who.warp);
    cell.read_step = who.step;
    cell.read_lanes = who.lanes;
  } else if (cell.read_warp != who.warp) {
    cell.read_warp = kSeveralWarps;
  } else if (cell.read_step != who.step) {
    cell.read_step = who.step;
    cell.read_lanes = who.lanes;
  } else {
    cell.read_lanes |= who.lanes;
  }
  return Fault::kNone;
}

// Earlier reads need not be kept: what comes after this write comes after them.
inline Fault::Kind SharedMemory::write(Cell& cell, Accessor const& who) const {
  if (cell.in_flight) return Fault::kInFlight;
  if (!after_write(cell, who)) return Fault::kRacesWrite;
  if (!after_reads(cell, who)) return Fault::kRacesRead;
  cell.write_epoch = epoch_;
  cell.write_step = who.step;
  cell.writer = static_cast<int16_t>(who.thread);
  cell.read_epoch = 0;
  return Fault::kNone;
}

inline bool SharedMemory::after_write(Cell const& cell, Accessor const& who) const {
  if (cell.write_epoch != epoch_) return true;
  bool const alone = (who.lanes & (who.lanes - 1)) == 0;
  if (cell.writer == who.thread && alone) return true;
  return cell.writer / 32 == who.warp && cell.write_step != who.step;
}

inline bool SharedMemory::after_reads(Cell const& cell, Accessor const& who) const {
  if (cell.read_epoch != epoch_) return true;
  if (cell.read_warp != who.warp) return false;
  return cell.read_step != who.step || (cell.read_lanes & ~who.lanes) == 0;
}

Fault const* SharedMemory::note(Fault::Kind kind, int32_t offset_bytes, Cell const& cell,
                                Accessor const& who) {
  fault_ = {kind, offset_bytes, -1};
  if (kind == Fault::kInFlight || kind == Fault::kRacesWrite) fault_.thread = cell.writer;
  if (kind == Fault::kRacesRead && cell.read_warp != kSeveralWarps) {
    uint32_t const others =
        cell.read_warp == who.warp ? cell.read_lanes & ~who.lanes : cell.read_lanes;
    fault_.thread = cell.read_warp * 32 + __builtin_ctz(others);
  }
  return &fault_;
}

}  // namespace edgeattn::emulator
