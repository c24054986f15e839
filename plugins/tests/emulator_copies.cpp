// cp.async: the bytes that it moves, and when they may be touched.

#include <string.h>

#include "edgeattn/intrinsics.h"
#include "emulator_testing.h"

namespace edgeattn::testing {
namespace {

constexpr LaunchShape kShape{1, 64, 2048};
constexpr int32_t kSourceBytes = 64 * 16;

struct Buffers {
  unsigned char const* source;  // [kSourceBytes]
  unsigned char* out;           // [kSourceBytes]
};

struct Memory {
  alignas(16) unsigned char source[kSourceBytes];
  alignas(16) unsigned char out[kSourceBytes];

  Memory() {
    for (int32_t i = 0; i < kSourceBytes; ++i) source[i] = static_cast<unsigned char>(i * 7 + 1);
  }
  Buffers buffers() { return {source, out}; }
  std::vector<MemoryRegion> regions() {
    return {{source, kSourceBytes, false, "source"}, {out, kSourceBytes, true, "out"}};
  }
};

Shared<unsigned char> own_slot() { return shared_memory() + thread_index() * 16; }

template <int kBytes>
EDGEATTN_KERNEL void partial_copy_kernel(Buffers p) {
  Global<unsigned char const> const from(p.source);
  copy_async<kBytes>(own_slot(), from + thread_index() * 16, thread_index() % (kBytes + 1));
  copy_async_commit();
  copy_async_wait<0>();
  Global<unsigned char> const to(p.out);
  for (int32_t i = 0; i < kBytes; ++i) store(to + (thread_index() * 16 + i), load(own_slot() + i));
}

template <int kBytes>
void check_partial_copy() {
  Memory memory;
  EDGEATTN_CHECK_CLEAN(partial_copy_kernel<kBytes>, memory.buffers(), kShape, memory.regions());
  for (int32_t thread = 0; thread < 64; ++thread) {
    for (int32_t i = 0; i < kBytes; ++i) {
      int32_t const at = thread * 16 + i;
      EDGEATTN_CHECK(memory.out[at] == (i < thread % (kBytes + 1) ? memory.source[at] : 0));
    }
  }
}

EDGEATTN_TEST(copies_fill_up_with_zeros) {
  check_partial_copy<4>();
  check_partial_copy<8>();
  check_partial_copy<16>();
}

enum Bug {
  kNoBug,
  kNoWait,
  kNoCommit,
  kWaitForTooFew,
  kBarrierBeforeWait,
  kNoBarrier,
  kWriteInFlight,
  kCopyTwice,
  kNeverWaited,
  kTooManyBytes,
  kNegativeBytes,
  kPastTheEnd,
  kMisalignedSource,
  kOutsideOfShared,
  kOverwriteUnread,
};

// Two groups of copies; a neighbour in the other warp reads.
template <Bug kBug>
EDGEATTN_KERNEL void two_groups_kernel(Buffers p) {
  Global<unsigned char const> from(p.source);
  from = from + thread_index() * 16;
  int32_t bytes = 16;
  if (kBug == kTooManyBytes) bytes = 17;
  if (kBug == kNegativeBytes) bytes = -1;
  if (kBug == kPastTheEnd && thread_index() == 63) from = from + 16;
  if (kBug == kMisalignedSource && thread_index() == 0) from = from + 8;
  Shared<unsigned char> const first = own_slot();
  Shared<unsigned char> second = own_slot() + 1024;
  if (kBug == kOutsideOfShared && thread_index() == 63) second = second + 16;
  copy_async<16>(first, from, bytes);
  if (kBug != kNoCommit || thread_index() != 0) copy_async_commit();
  if (kBug == kWriteInFlight) store(first.as<int32_t>(), 1);
  copy_async<16>(kBug == kCopyTwice ? first : second, from, 16);
  copy_async_commit();
  if (kBug == kNeverWaited) return;
  if (kBug == kBarrierBeforeWait) sync_cta();
  if (kBug == kWaitForTooFew && thread_index() == 0) {
    copy_async_wait<2>();
  } else if (kBug != kNoWait || thread_index() != 0) {
    copy_async_wait<1>();  // the first group is there
  }
  load(first.as<Vec16>());
  if (kBug != kNoBarrier && kBug != kBarrierBeforeWait) sync_cta();
  load((shared_memory() + (thread_index() ^ 32) * 16).as<Vec16>());
  if (kBug != kOverwriteUnread) sync_cta();
  copy_async<16>(first, from, 0);
  copy_async_commit();
  copy_async_wait<0>();
  sync_cta();
  load(second.as<Vec16>());
}

EDGEATTN_TEST(copies_that_are_waited_for_are_clean) {
  Memory memory;
  EDGEATTN_CHECK_CLEAN(two_groups_kernel<kNoBug>, memory.buffers(), kShape, memory.regions());
}

template <Bug kBug>
void check_caught(char const* text) {
  Memory memory;
  EDGEATTN_CHECK_CAUGHT(text, two_groups_kernel<kBug>, memory.buffers(), kShape, memory.regions());
}

EDGEATTN_TEST(reads_of_what_is_in_flight_are_caught) {
  char const* const text =
      "thread 0 (warp 0, lane 0) of CTA 0 reads 16 bytes at shared offset 0; of byte 0: a "
      "copy_async of thread 0 to it is in flight";
  check_caught<kNoWait>(text);
  check_caught<kNoCommit>(text);
  check_caught<kWaitForTooFew>(text);
}

EDGEATTN_TEST(what_another_thread_copied_needs_a_barrier_after_its_wait) {
  check_caught<kNoBarrier>("of byte");
  check_caught<kBarrierBeforeWait>("of byte");
}

// The shuffle lets all waits come first, and orders nothing.
template <bool kBarrierAfterWait>
EDGEATTN_KERNEL void late_wait_kernel(Buffers p) {
  copy_async<16>(own_slot(), Global<unsigned char const>(p.source), 16);
  copy_async_commit();
  if (!kBarrierAfterWait) sync_cta();
  copy_async_wait<0>();
  shuffle_xor(1, 1);
  if (kBarrierAfterWait) sync_cta();
  load((shared_memory() + (thread_index() ^ 1) * 16).as<Vec16>());
}

EDGEATTN_TEST(copies_count_as_written_when_they_are_waited_for) {
  Memory memory;
  EDGEATTN_CHECK_CLEAN(late_wait_kernel<true>, memory.buffers(), kShape, memory.regions());
  EDGEATTN_CHECK_CAUGHT("no barrier came since thread", late_wait_kernel<false>, memory.buffers(),
                        kShape, memory.regions());
}

EDGEATTN_TEST(writes_to_what_is_in_flight_are_caught) {
  check_caught<kWriteInFlight>("writes 4 bytes at shared offset");
  check_caught<kWriteInFlight>("a copy_async of thread");
  check_caught<kCopyTwice>("copies to 16 bytes at shared offset");
}

EDGEATTN_TEST(copies_that_nobody_waits_for_are_caught) {
  check_caught<kNeverWaited>("ends while 2 of its copy_async are in flight");
}

EDGEATTN_TEST(copies_over_what_others_still_read_are_caught) {
  check_caught<kOverwriteUnread>("read it");
}

EDGEATTN_TEST(copies_are_checked_at_both_ends) {
  check_caught<kTooManyBytes>("has copy_async read 17 of 16 bytes");
  check_caught<kNegativeBytes>("has copy_async read -1 of 16 bytes");
  check_caught<kPastTheEnd>("reads 16 bytes at source + 1024 bytes, outside of its 1024");
  check_caught<kMisalignedSource>(
      "reads 16 bytes at source + 8 bytes, an address that 16 does not");
  check_caught<kOutsideOfShared>("copies to 16 bytes at shared offset 2048, outside");
}

EDGEATTN_KERNEL void nothing_read_kernel(Buffers p) {
  Global<unsigned char const> const nowhere = Global<unsigned char const>(p.source) + (1 << 30);
  copy_async<16>(own_slot(), nowhere, 0);
  copy_async_commit();
  copy_async_wait<0>();
  load(own_slot().as<Vec16>());
}

EDGEATTN_TEST(a_copy_of_no_bytes_may_come_from_anywhere) {
  Memory memory;
  EDGEATTN_CHECK_CLEAN(nothing_read_kernel, memory.buffers(), kShape, memory.regions());
}

// Groups without copies count too.
EDGEATTN_KERNEL void empty_groups_kernel(Buffers p) {
  copy_async<16>(own_slot(), Global<unsigned char const>(p.source), 16);
  copy_async_commit();
  copy_async_commit();
  copy_async_commit();
  copy_async_wait<2>();
  load(own_slot().as<Vec16>());
}

EDGEATTN_TEST(empty_groups_count_as_groups) {
  Memory memory;
  EDGEATTN_CHECK_CLEAN(empty_groups_kernel, memory.buffers(), kShape, memory.regions());
}

}  // namespace
}  // namespace edgeattn::testing
