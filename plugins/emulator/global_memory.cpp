#include "global_memory.h"

#include "runtime.h"

namespace edgeattn::emulator {

void GlobalMemory::begin_launch(MemoryRegion const* regions, int32_t num_regions) {
  regions_.assign(regions, regions + num_regions);
  writers_.resize(regions_.size());
  for (size_t i = 0; i < regions_.size(); ++i) {
    writers_[i].assign(regions_[i].writable ? static_cast<size_t>(regions_[i].bytes) : 0, 0);
  }
}

int32_t GlobalMemory::find(uintptr_t address) const {
  int32_t ending = kNoRegion;
  for (int32_t i = 0; i < num_regions(); ++i) {
    if (contains(offset_bytes(address, i), 1, i)) return i;
    if (offset_bytes(address, i) == region(i).bytes) ending = i;
  }
  return ending;
}

int64_t GlobalMemory::offset_bytes(uintptr_t address, int32_t index) const {
  return static_cast<int64_t>(address - reinterpret_cast<uintptr_t>(region(index).begin));
}

bool GlobalMemory::contains(int64_t offset_bytes, int64_t bytes, int32_t index) const {
  return offset_bytes >= 0 && offset_bytes <= region(index).bytes - bytes;
}

uint32_t GlobalMemory::foreign_writer(int64_t offset_bytes, int32_t bytes, int32_t index,
                                      uint32_t thread) const {
  uint32_t const* const writers = &writers_[index][offset_bytes];
  for (int32_t i = 0; i < bytes; ++i) {
    if (writers[i] != thread) return writers[i];
  }
  return thread;
}

uint32_t GlobalMemory::write(int64_t offset_bytes, int32_t bytes, int32_t index, uint32_t thread) {
  uint32_t* const writers = &writers_[index][offset_bytes];
  uint32_t other = 0;
  for (int32_t i = 0; i < bytes; ++i) {
    if (writers[i] != 0 && writers[i] != thread) other = writers[i];
    writers[i] = thread;
  }
  return other;
}

}  // namespace edgeattn::emulator
