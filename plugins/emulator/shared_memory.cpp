#include "shared_memory.h"

#include <algorithm>

namespace edgeattn::emulator {

namespace {

constexpr int32_t kWordBytes = 4;
constexpr int32_t kLanes = 32;
constexpr size_t kAlignment = 128;

}  // namespace

void SharedMemory::begin_launch(int32_t bytes) {
  bytes_ = bytes;
  size_t const words = (static_cast<size_t>(bytes) + kWordBytes - 1) / kWordBytes;
  storage_.resize(words * kWordBytes + kAlignment);
  size_t const address = reinterpret_cast<size_t>(storage_.data());
  data_ = storage_.data() + (kAlignment - address % kAlignment) % kAlignment;
  words_.assign(words, Cell{});
  single_bytes_.resize(words * kWordBytes);  // set when a word is split
  epoch_ = 0;
}

void SharedMemory::begin_cta() { first_epoch_of_cta_ = ++epoch_; }

// Lets `judge` see, and change, the state of every byte concerned, once for bytes that share it;
// gives the first fault.
template <typename Judge>
Fault SharedMemory::visit(Accessor who, int32_t offset_bytes, int32_t bytes, Judge judge) {
  Fault fault;
  auto const apply = [&](Cell& cell, int32_t offset) {
    Fault::Kind const kind = judge(cell);
    if (kind != Fault::kNone && fault.kind == Fault::kNone) {
      fault = {kind, offset, earlier_thread(cell, kind, who)};
    }
  };
  int32_t const end = offset_bytes + bytes;
  for (int32_t offset = offset_bytes; offset < end;) {
    Cell& word = words_[offset / kWordBytes];
    Cell* const first = &single_bytes_[offset / kWordBytes * kWordBytes];
    int32_t const begin_in_word = offset % kWordBytes;
    int32_t const end_in_word = std::min(kWordBytes, begin_in_word + end - offset);
    bool const whole = end_in_word - begin_in_word == kWordBytes;
    if (whole && !word.split) {
      apply(word, offset);
    } else {
      if (!word.split) std::fill(first, first + kWordBytes, word);
      word.split = true;
      for (int32_t i = begin_in_word; i < end_in_word; ++i) {
        apply(first[i], offset + i - begin_in_word);
      }
    }
    offset += end_in_word - begin_in_word;
  }
  return fault;
}

bool SharedMemory::after_write(Cell const& cell, Accessor who) const {
  if (cell.write_epoch != epoch_) return true;
  bool const alone = (who.lanes & (who.lanes - 1)) == 0;
  if (cell.writer == who.thread && alone) return true;
  return cell.writer / kLanes == who.thread / kLanes && cell.write_step != who.step;
}

bool SharedMemory::after_reads(Cell const& cell, Accessor who) const {
  if (cell.read_epoch != epoch_) return true;
  if (cell.read_warp != who.thread / kLanes) return false;
  return cell.read_step != who.step || (cell.read_lanes & ~who.lanes) == 0;
}

Fault::Kind SharedMemory::read(Cell& cell, Accessor who) const {
  if (cell.in_flight) return Fault::kInFlight;
  if (cell.write_epoch < first_epoch_of_cta_) return Fault::kUnwritten;
  if (!after_write(cell, who)) return Fault::kRacesWrite;
  int8_t const warp = static_cast<int8_t>(who.thread / kLanes);
  if (cell.read_epoch != epoch_) {
    cell.read_epoch = epoch_;
    cell.read_warp = warp;
    cell.read_step = who.step;
    cell.read_lanes = who.lanes;
  } else if (cell.read_warp != warp) {
    cell.read_warp = kSeveralWarps;
  } else if (cell.read_step != who.step) {
    cell.read_step = who.step;
    cell.read_lanes = who.lanes;
  } else {
    cell.read_lanes |= who.lanes;
  }
  return Fault::kNone;
}

Fault::Kind SharedMemory::write(Cell& cell, Accessor who) const {
  if (cell.in_flight) return Fault::kInFlight;
  if (!after_write(cell, who)) return Fault::kRacesWrite;
  if (!after_reads(cell, who)) return Fault::kRacesRead;
  cell.write_epoch = epoch_;
  cell.write_step = who.step;
  cell.writer = static_cast<int16_t>(who.thread);
  return Fault::kNone;
}

int32_t SharedMemory::earlier_thread(Cell const& cell, Fault::Kind kind, Accessor who) {
  if (kind == Fault::kInFlight || kind == Fault::kRacesWrite) return cell.writer;
  if (kind != Fault::kRacesRead || cell.read_warp == kSeveralWarps) return -1;
  bool const same_warp = cell.read_warp == who.thread / kLanes;
  uint32_t const lanes = same_warp ? cell.read_lanes & ~who.lanes : cell.read_lanes;
  return cell.read_warp * kLanes + __builtin_ctz(lanes);
}

Fault SharedMemory::read(Accessor who, int32_t offset_bytes, int32_t bytes) {
  return visit(who, offset_bytes, bytes, [&](Cell& cell) { return read(cell, who); });
}

Fault SharedMemory::write(Accessor who, int32_t offset_bytes, int32_t bytes) {
  return visit(who, offset_bytes, bytes, [&](Cell& cell) { return write(cell, who); });
}

Fault SharedMemory::begin_copy(Accessor who, int32_t offset_bytes, int32_t bytes) {
  return visit(who, offset_bytes, bytes, [&](Cell& cell) {
    Fault::Kind const kind = write(cell, who);
    cell.in_flight = true;
    return kind;
  });
}

void SharedMemory::finish_copy(Accessor who, int32_t offset_bytes, int32_t bytes) {
  visit(who, offset_bytes, bytes, [&](Cell& cell) {
    cell.in_flight = false;
    write(cell, who);
    return Fault::kNone;
  });
}

}  // namespace edgeattn::emulator
