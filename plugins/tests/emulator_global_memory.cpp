// Global memory: regions, what was not written yet, and writers that meet.

#include "edgeattn/intrinsics.h"
#include "emulator_testing.h"

namespace edgeattn::testing {
namespace {

constexpr int32_t kThreads = 64;

struct Buffers {
  float const* in;       // [kThreads]
  float const* between;  // [kThreads], follows `in` in memory
  float* out;            // [2 * kThreads], for two CTAs
  int64_t offset;
};

struct Memory {
  alignas(16) float in[kThreads] = {};
  float between[kThreads] = {};
  alignas(16) float out[2 * kThreads];

  Buffers buffers(int64_t offset = 0) { return {in, between, out, offset}; }
  std::vector<MemoryRegion> regions() {
    return {{in, sizeof(in), false, "in"},
            {between, sizeof(between), false, "between"},
            {out, sizeof(out), true, "out"}};
  }
};

constexpr LaunchShape kOneCta{1, kThreads, 0};
constexpr LaunchShape kTwoCtas{2, kThreads, 0};

#define EDGEATTN_CHECK_MEMORY_CLEAN(kernel, shape, offset)                         \
  do {                                                                             \
    Memory memory;                                                                 \
    EDGEATTN_CHECK_CLEAN(kernel, memory.buffers(offset), shape, memory.regions()); \
  } while (false)

#define EDGEATTN_CHECK_MEMORY_CAUGHT(text, kernel, shape, offset)                         \
  do {                                                                                    \
    Memory memory;                                                                        \
    EDGEATTN_CHECK_CAUGHT(text, kernel, memory.buffers(offset), shape, memory.regions()); \
  } while (false)

EDGEATTN_KERNEL void load_kernel(Buffers p) { load(Global<float const>(p.in) + p.offset); }

EDGEATTN_KERNEL void load_vector_kernel(Buffers p) {
  load((Global<float const>(p.in) + p.offset).as<Vec16 const>());
}

EDGEATTN_TEST(reads_are_kept_to_the_region_that_the_pointer_came_from) {
  EDGEATTN_CHECK_MEMORY_CLEAN(load_kernel, kOneCta, 0);
  EDGEATTN_CHECK_MEMORY_CLEAN(load_kernel, kOneCta, kThreads - 1);
  EDGEATTN_CHECK_MEMORY_CAUGHT("reads 4 bytes at in + 256 bytes, outside of its 256", load_kernel,
                               kOneCta, kThreads);
  EDGEATTN_CHECK_MEMORY_CAUGHT("reads 4 bytes at in + -4 bytes, outside", load_kernel, kOneCta, -1);
  EDGEATTN_CHECK_MEMORY_CAUGHT("outside of its 256", load_vector_kernel, kOneCta, kThreads - 2);
}

EDGEATTN_TEST(misaligned_reads_are_caught) {
  EDGEATTN_CHECK_MEMORY_CLEAN(load_vector_kernel, kOneCta, 4);
  EDGEATTN_CHECK_MEMORY_CAUGHT("reads 16 bytes at in + 8 bytes, an address that 16 does not divide",
                               load_vector_kernel, kOneCta, 2);
}

EDGEATTN_KERNEL void stray_kernel(Buffers) {
  static float const elsewhere = 0;
  load(Global<float const>(&elsewhere));
}

EDGEATTN_KERNEL void null_kernel(Buffers) {
  Global<float const> const nothing(nullptr);
  if (!nothing) load(nothing);
}

EDGEATTN_TEST(reads_of_no_region_are_caught) {
  EDGEATTN_CHECK_MEMORY_CAUGHT("in no region of the launch", stray_kernel, kOneCta, 0);
  EDGEATTN_CHECK_MEMORY_CAUGHT("reads 4 bytes at address 0x0, in no region", null_kernel, kOneCta,
                               0);
}

EDGEATTN_KERNEL void write_input_kernel(Buffers p) {
  if (thread_index() == 6) store(Global<float>(const_cast<float*>(p.in)) + 6, 1.0f);
}

EDGEATTN_TEST(writes_to_a_read_only_region_are_caught) {
  EDGEATTN_CHECK_MEMORY_CAUGHT("writes 4 bytes at in + 24 bytes, which is read-only",
                               write_input_kernel, kOneCta, 0);
}

// Each thread writes the word at its place in the launch, shifted for the second half of threads.
EDGEATTN_KERNEL void write_kernel(Buffers p) {
  int64_t const place = cta_index() * kThreads + thread_index();
  store(Global<float>(p.out) + (thread_index() < 32 ? place : place + p.offset), 1.0f);
}

EDGEATTN_TEST(writes_outside_are_caught) {
  EDGEATTN_CHECK_MEMORY_CLEAN(write_kernel, kTwoCtas, 0);
  EDGEATTN_CHECK_MEMORY_CAUGHT(
      "thread 63 (warp 1, lane 31) of CTA 0 writes 4 bytes at out + 512 "
      "bytes, outside of its 512",
      write_kernel, kOneCta, kThreads + 1);
}

EDGEATTN_TEST(writes_of_two_threads_to_one_place_are_caught) {
  EDGEATTN_CHECK_MEMORY_CAUGHT("bytes, where thread", write_kernel, kOneCta, -1);
}

EDGEATTN_KERNEL void write_across_ctas_kernel(Buffers p) {
  store(Global<float>(p.out) + (thread_index() + cta_index() * p.offset), 1.0f);
}

EDGEATTN_TEST(writes_of_two_ctas_to_one_place_are_caught) {
  EDGEATTN_CHECK_MEMORY_CLEAN(write_across_ctas_kernel, kTwoCtas, kThreads);
  EDGEATTN_CHECK_MEMORY_CAUGHT("writes 4 bytes at out + 252 bytes, where thread",
                               write_across_ctas_kernel, kTwoCtas, kThreads - 1);
}

// Every thread reads what it wrote itself, one thread (offset != 0) another place.
EDGEATTN_KERNEL void read_back_kernel(Buffers p) {
  Global<float> const own = Global<float>(p.out) + thread_index();
  store(own, 1.0f);
  store(own, 2.0f);
  sync_cta();
  load(thread_index() == 1 ? own + p.offset : own);
}

EDGEATTN_TEST(reads_of_output_are_kept_to_what_the_thread_wrote) {
  EDGEATTN_CHECK_MEMORY_CLEAN(read_back_kernel, kOneCta, 0);
  EDGEATTN_CHECK_MEMORY_CAUGHT("reads 4 bytes at out + 260 bytes, not written yet",
                               read_back_kernel, kOneCta, kThreads);
  EDGEATTN_CHECK_MEMORY_CAUGHT("reads 4 bytes at out + 8 bytes, where thread 2 of CTA 0 wrote",
                               read_back_kernel, kOneCta, 1);
}

}  // namespace
}  // namespace edgeattn::testing
