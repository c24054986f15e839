#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

namespace edgeattn::emulator {

namespace {

// Room for a kernel that is not optimized; pages that are not touched take no memory.
constexpr size_t kStackBytes = 512 << 10;
constexpr size_t kCacheLineBytes = 64;

// Neighbours are an odd number of cache lines apart, so that 64 of them meet 64 sets.
constexpr size_t kLinesApart = 17;
constexpr size_t kSets = 64;

size_t guard_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

Stacks::~Stacks() {
  if (memory_ != nullptr) munmap(memory_, static_cast<size_t>(count_) * kStackBytes);
}

bool Stacks::reserve(int32_t count) {
  if (count <= count_) return true;
  void* const memory =
      mmap(nullptr, static_cast<size_t>(count) * kStackBytes, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  if (memory_ != nullptr) munmap(memory_, static_cast<size_t>(count_) * kStackBytes);
  memory_ = static_cast<unsigned char*>(memory);
  count_ = count;
  for (int32_t i = 0; i < count; ++i) {
    if (mprotect(memory_ + static_cast<size_t>(i) * kStackBytes, guard_bytes(), PROT_NONE) != 0) {
      return false;
    }
  }
  return true;
}

void* Stacks::top(int32_t index) const {
  size_t const stack = static_cast<size_t>(index);
  size_t const shift = stack % kSets * kLinesApart % kSets * kCacheLineBytes;
  return memory_ + (stack + 1) * kStackBytes - shift;
}

#if defined(EDGEATTN_EMULATOR_ASM_SWITCH)

void prepare_fiber(Fiber& fiber, void* stack_top, void (*entry)()) {
  void** const top = static_cast<void**>(stack_top);
#if defined(__x86_64__)
  top[-1] = nullptr;  // the return address, 8 bytes below a multiple of 16 as after a call
  top[-2] = reinterpret_cast<void*>(entry);
#else
  top[-1] = reinterpret_cast<void*>(entry);
  top[-2] = nullptr;  // the frame pointer: no caller
#endif
  fiber.stack_pointer = top - 2;
}

#else

void prepare_fiber(Fiber& fiber, void* stack_top, void (*entry)()) {
  getcontext(&fiber.context);
  size_t const usable = kStackBytes - guard_bytes() - kSets * kCacheLineBytes;
  fiber.context.uc_stack.ss_sp = static_cast<unsigned char*>(stack_top) - usable;
  fiber.context.uc_stack.ss_size = usable;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

#endif

}  // namespace edgeattn::emulator
