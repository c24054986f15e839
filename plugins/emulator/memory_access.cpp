#include "memory_access.h"

#include <stdio.h>
#include <string.h>

#include <algorithm>

namespace edgeattn::emulator {

namespace {

constexpr int32_t kMostBytes = 16;
unsigned char const kZeros[kMostBytes] = {};  // read in place of what may not be read
unsigned char discarded[kMostBytes];          // written in place of what may not be written

Thread& current() { return *static_cast<Thread*>(current_thread); }

bool lies_in_shared_memory(Thread const& thread, char const* verb, int32_t offset_bytes,
                           int32_t bytes, Place place) {
  int32_t const size = machine->shared.bytes();
  if (offset_bytes < 0 || offset_bytes > size - bytes) {
    machine->violation(thread, place, "%s %d bytes at shared offset %d, outside of the CTA's %d",
                       verb, bytes, offset_bytes, size);
    return false;
  }
  if (offset_bytes % bytes != 0) {
    machine->violation(thread, place, "%s %d bytes at shared offset %d, which %d does not divide",
                       verb, bytes, offset_bytes, bytes);
    return false;
  }
  return true;
}

void tell_fault(Fault const& fault, Thread const& thread, char const* verb, int32_t offset_bytes,
                int32_t bytes, Place place) {
  char const* const who = fault.thread < 0 ? "threads of several warps" : "thread";
  char number[16] = "";
  if (fault.thread >= 0) snprintf(number, sizeof(number), " %d", fault.thread);
  char reason[128] = "";
  switch (fault.kind) {
    case Fault::kNone:
      break;
    case Fault::kUnwritten:
      snprintf(reason, sizeof(reason), "no thread wrote it");
      break;
    case Fault::kInFlight:
      snprintf(reason, sizeof(reason), "a copy_async of %s%s to it is in flight", who, number);
      break;
    case Fault::kRacesWrite:
      snprintf(reason, sizeof(reason), "no barrier came since %s%s wrote it", who, number);
      break;
    case Fault::kRacesRead:
      snprintf(reason, sizeof(reason), "no barrier came since %s%s read it", who, number);
      break;
  }
  machine->violation(thread, place, "%s %d bytes at shared offset %d; of byte %d: %s", verb, bytes,
                     offset_bytes, fault.offset_bytes, reason);
}

// Whether an access lies in one region, which `region` names or will name.
bool lies_in_region(char const* verb, uintptr_t address, int32_t& region, int32_t bytes,
                    int32_t alignment, Place place) {
  GlobalMemory const& global = machine->global;
  if (region == kNoRegion) region = global.find(address);
  if (region == kNoRegion) {
    machine->violation(current(), place, "%s %d bytes at address 0x%zx, in no region of the launch",
                       verb, bytes, static_cast<size_t>(address));
    return false;
  }
  int64_t const offset = global.offset_bytes(address, region);
  MemoryRegion const& where = global.region(region);
  if (!global.contains(offset, bytes, region)) {
    machine->violation(current(), place, "%s %d bytes at %s + %lld bytes, outside of its %lld",
                       verb, bytes, where.name, static_cast<long long>(offset),
                       static_cast<long long>(where.bytes));
    return false;
  }
  if (address % static_cast<uintptr_t>(alignment) != 0) {
    machine->violation(current(), place,
                       "%s %d bytes at %s + %lld bytes, an address that %d does not divide", verb,
                       bytes, where.name, static_cast<long long>(offset), alignment);
    return false;
  }
  return true;
}

// Threads numbered through all CTAs, from 1.
uint32_t number_of(Thread const& thread) {
  return static_cast<uint32_t>(thread.cta) * static_cast<uint32_t>(machine->shape.threads_per_cta) +
         static_cast<uint32_t>(thread.index) + 1;
}

void tell_other_thread(char const* verb, int32_t bytes, uintptr_t address, int32_t region,
                       uint32_t other, Place place) {
  uint32_t const threads = static_cast<uint32_t>(machine->shape.threads_per_cta);
  machine->violation(current(), place,
                     "%s %d bytes at %s + %lld bytes, where thread %u of CTA %u wrote", verb, bytes,
                     machine->global.region(region).name,
                     static_cast<long long>(machine->global.offset_bytes(address, region)),
                     (other - 1) % threads, (other - 1) / threads);
}

// The bytes at an address that a thread may read, or null.
void const* readable_global(uintptr_t address, int32_t region, int32_t bytes, int32_t alignment,
                            Place place) {
  constexpr char const* kVerb = "reads";
  if (!lies_in_region(kVerb, address, region, bytes, alignment, place)) return nullptr;
  machine->statistics.global_read_bytes += bytes;
  if (machine->global.region(region).writable) {
    uint32_t const self = number_of(current());
    int64_t const offset = machine->global.offset_bytes(address, region);
    uint32_t const other = machine->global.foreign_writer(offset, bytes, region, self);
    if (other == 0) {
      machine->violation(current(), place, "reads %d bytes at %s + %lld bytes, not written yet",
                         bytes, machine->global.region(region).name,
                         static_cast<long long>(offset));
    } else if (other != self) {
      tell_other_thread(kVerb, bytes, address, region, other, place);
    }
  }
  return reinterpret_cast<void const*>(address);
}

}  // namespace

void sync_cta(Place place) { machine->sync_cta(current(), place); }

void const* read_shared(int32_t offset_bytes, int32_t bytes, Place place) {
  constexpr char const* kVerb = "reads";
  Thread& thread = current();
  if (!lies_in_shared_memory(thread, kVerb, offset_bytes, bytes, place)) return kZeros;
  Fault const* const fault = machine->shared.read(machine->accessor(thread), offset_bytes, bytes);
  if (fault != nullptr) tell_fault(*fault, thread, kVerb, offset_bytes, bytes, place);
  thread.warp->accesses.note(thread.lane, SharedAccess::kLoad, offset_bytes, bytes, place);
  return machine->shared.data() + offset_bytes;
}

void* write_shared(int32_t offset_bytes, int32_t bytes, Place place) {
  constexpr char const* kVerb = "writes";
  Thread& thread = current();
  if (!lies_in_shared_memory(thread, kVerb, offset_bytes, bytes, place)) return discarded;
  Fault const* const fault = machine->shared.write(machine->accessor(thread), offset_bytes, bytes);
  if (fault != nullptr) tell_fault(*fault, thread, kVerb, offset_bytes, bytes, place);
  thread.warp->accesses.note(thread.lane, SharedAccess::kStore, offset_bytes, bytes, place);
  return machine->shared.data() + offset_bytes;
}

unsigned char const* read_matrix_row(Thread const& thread, int32_t offset_bytes, Place place) {
  constexpr int32_t kBytes = 16;
  constexpr char const* kVerb = "gives ldmatrix";
  if (!lies_in_shared_memory(thread, kVerb, offset_bytes, kBytes, place)) return kZeros;
  Accessor who = machine->accessor(thread);
  who.lanes = kAllLanes;
  Fault const* const fault = machine->shared.read(who, offset_bytes, kBytes);
  if (fault != nullptr) tell_fault(*fault, thread, kVerb, offset_bytes, kBytes, place);
  return machine->shared.data() + offset_bytes;
}

int32_t region_of(uintptr_t address) {
  return current_thread == nullptr ? kNoRegion : machine->global.find(address);
}

void const* read_global(uintptr_t address, int32_t region, int32_t bytes, Place place) {
  void const* const from = readable_global(address, region, bytes, bytes, place);
  return from == nullptr ? kZeros : from;
}

void* write_global(uintptr_t address, int32_t region, int32_t bytes, Place place) {
  constexpr char const* kVerb = "writes";
  if (!lies_in_region(kVerb, address, region, bytes, bytes, place)) return discarded;
  int64_t const offset = machine->global.offset_bytes(address, region);
  MemoryRegion const& where = machine->global.region(region);
  if (!where.writable) {
    machine->violation(current(), place, "writes %d bytes at %s + %lld bytes, which is read-only",
                       bytes, where.name, static_cast<long long>(offset));
    return discarded;
  }
  uint32_t const other = machine->global.write(offset, bytes, region, number_of(current()));
  if (other != 0) tell_other_thread(kVerb, bytes, address, region, other, place);
  machine->statistics.global_write_bytes += bytes;
  return reinterpret_cast<void*>(address);
}

void copy_async(int32_t to_offset_bytes, uintptr_t from, int32_t region, int32_t bytes,
                int32_t bytes_read, Place place) {
  constexpr char const* kVerb = "copies to";
  Thread& thread = current();
  if (bytes_read < 0 || bytes_read > bytes) {
    machine->violation(thread, place, "has copy_async read %d of %d bytes", bytes_read, bytes);
    return;
  }
  if (!lies_in_shared_memory(thread, kVerb, to_offset_bytes, bytes, place)) return;
  unsigned char copied[kMostBytes] = {};
  if (bytes_read > 0) {
    void const* const source = readable_global(from, region, bytes_read, bytes, place);
    if (source != nullptr) memcpy(copied, source, static_cast<size_t>(bytes_read));
  }
  Fault const* const fault =
      machine->shared.begin_copy(machine->accessor(thread), to_offset_bytes, bytes);
  if (fault != nullptr) tell_fault(*fault, thread, kVerb, to_offset_bytes, bytes, place);
  memcpy(machine->shared.data() + to_offset_bytes, copied, static_cast<size_t>(bytes));
  thread.copies.push_back({to_offset_bytes, bytes, thread.copy_group});
  thread.warp->accesses.note(thread.lane, SharedAccess::kCopy, to_offset_bytes, bytes, place);
  Statistics& statistics = machine->statistics;
  ++(bytes == 16  ? statistics.cp_async_16
     : bytes == 8 ? statistics.cp_async_8
                  : statistics.cp_async_4);
}

void copy_async_commit() { ++current().copy_group; }

void copy_async_wait(int32_t pending_groups) {
  Thread& thread = current();
  int32_t const first_pending = thread.copy_group - pending_groups;
  auto const finished = std::find_if(thread.copies.begin(), thread.copies.end(),
                                     [&](Copy const& c) { return c.group >= first_pending; });
  for (auto copy = thread.copies.begin(); copy != finished; ++copy) {
    machine->shared.finish_copy(machine->accessor(thread), copy->offset_bytes, copy->bytes);
  }
  thread.copies.erase(thread.copies.begin(), finished);
}

}  // namespace edgeattn::emulator
