/*!
 * \file
 * \brief The regions of global memory that a launch may touch, and which thread wrote what.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "edgeattn/launch.h"

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

class GlobalMemory {
 public:
  void begin_launch(MemoryRegion const* regions, int32_t num_regions);

  int32_t num_regions() const { return static_cast<int32_t>(regions_.size()); }
  MemoryRegion const& region(int32_t index) const { return regions_[index]; }

  /*! \brief The region that holds an address, else the one that ends there, else kNoRegion. */
  int32_t find(uintptr_t address) const;

  /*! \brief Where an address lies in a region, in bytes from its beginning; may be outside. */
  int64_t offset_bytes(uintptr_t address, int32_t region) const;

  bool contains(int64_t offset_bytes, int64_t bytes, int32_t region) const;

  /*! \brief The thread that wrote the first byte not written by `thread`, 0 for nobody; `thread` if
   *  it wrote them all itself. Threads are numbered from 1 through all CTAs. */
  uint32_t foreign_writer(int64_t offset_bytes, int32_t bytes, int32_t region,
                          uint32_t thread) const;

  /*! \brief Note that `thread` writes; gives another thread that did before, else 0. */
  uint32_t write(int64_t offset_bytes, int32_t bytes, int32_t region, uint32_t thread);

 private:
  std::vector<MemoryRegion> regions_;
  std::vector<std::vector<uint32_t>> writers_;  // per byte of the writable regions
};

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
