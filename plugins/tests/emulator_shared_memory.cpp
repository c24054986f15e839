// Shared memory: bounds, alignment, what was never written, and races. Every planted bug stands
// beside the same kernel without it.

#include "edgeattn/intrinsics.h"
#include "emulator_testing.h"

namespace edgeattn::testing {
namespace {

constexpr LaunchShape kOneWarp{1, 32, 256};
constexpr LaunchShape kTwoWarps{1, 64, 256};
constexpr LaunchShape kTwoCtas{2, 32, 256};

Shared<int32_t> words() { return shared_memory().as<int32_t>(); }

// Bounds and alignment

struct Offset {
  int32_t bytes;
};

EDGEATTN_KERNEL void store_at_kernel(Offset p) {
  if (thread_index() == 5) store((shared_memory() + p.bytes).as<Vec8>(), Vec8{{1, 2}});
}

EDGEATTN_KERNEL void load_at_kernel(Offset p) {
  store(shared_memory().as<Vec8>() + thread_index(), Vec8{{1, 2}});
  sync_warp();
  if (thread_index() == 5) load((shared_memory() + p.bytes).as<Vec8>());
}

EDGEATTN_TEST(accesses_within_shared_memory_are_clean) {
  EDGEATTN_CHECK_CLEAN(store_at_kernel, Offset{0}, kOneWarp, {});
  EDGEATTN_CHECK_CLEAN(store_at_kernel, Offset{248}, kOneWarp, {});
  EDGEATTN_CHECK_CLEAN(load_at_kernel, Offset{248}, kOneWarp, {});
}

EDGEATTN_TEST(accesses_outside_of_shared_memory_are_caught) {
  EDGEATTN_CHECK_CAUGHT(
      "thread 5 (warp 0, lane 5) of CTA 0 writes 8 bytes at shared offset 256, "
      "outside of the CTA's 256 (emulator_shared_memory.cpp:",
      store_at_kernel, Offset{256}, kOneWarp, {});
  EDGEATTN_CHECK_CAUGHT("writes 8 bytes at shared offset 252, outside", store_at_kernel,
                        Offset{252}, kOneWarp, {});
  EDGEATTN_CHECK_CAUGHT("writes 8 bytes at shared offset -8, outside", store_at_kernel, Offset{-8},
                        kOneWarp, {});
  EDGEATTN_CHECK_CAUGHT("reads 8 bytes at shared offset 256, outside", load_at_kernel, Offset{256},
                        kOneWarp, {});
  EDGEATTN_CHECK_CAUGHT("outside of the CTA's 0", store_at_kernel, Offset{0},
                        (LaunchShape{1, 32, 0}), {});
}

EDGEATTN_TEST(misaligned_accesses_are_caught) {
  EDGEATTN_CHECK_CAUGHT("writes 8 bytes at shared offset 12, which 8 does not divide",
                        store_at_kernel, Offset{12}, kOneWarp, {});
  EDGEATTN_CHECK_CAUGHT("reads 8 bytes at shared offset 4, which 8 does not divide", load_at_kernel,
                        Offset{4}, kOneWarp, {});
}

// What was never written

template <typename Written, typename Read>
EDGEATTN_KERNEL void write_then_read_kernel(Nothing) {
  int32_t const slot = thread_index() * 8;
  if (thread_index() == 3) {
    store((shared_memory() + slot).as<Written>(), Written{});
    load((shared_memory() + slot).as<Read>());
  } else {
    store((shared_memory() + slot).as<Vec8>(), Vec8{});
    load((shared_memory() + slot).as<Vec8>());
  }
}

EDGEATTN_TEST(reads_of_parts_of_what_was_written_are_clean) {
  EDGEATTN_CHECK_CLEAN((write_then_read_kernel<Vec8, uint8_t>), Nothing{}, kOneWarp, {});
  EDGEATTN_CHECK_CLEAN((write_then_read_kernel<Vec8, int32_t>), Nothing{}, kOneWarp, {});
  EDGEATTN_CHECK_CLEAN((write_then_read_kernel<uint8_t, uint8_t>), Nothing{}, kOneWarp, {});
}

EDGEATTN_TEST(a_read_of_one_byte_too_many_is_caught) {
  EDGEATTN_CHECK_CAUGHT("of byte 25: no thread wrote it", (write_then_read_kernel<uint8_t, half_t>),
                        Nothing{}, kOneWarp, {});
  EDGEATTN_CHECK_CAUGHT("reads 4 bytes at shared offset 24; of byte 26: no thread wrote it",
                        (write_then_read_kernel<half_t, int32_t>), Nothing{}, kOneWarp, {});
  EDGEATTN_CHECK_CAUGHT("of byte 28: no thread wrote it", (write_then_read_kernel<int32_t, Vec8>),
                        Nothing{}, kOneWarp, {});
}

EDGEATTN_KERNEL void last_cta_data_kernel(Nothing) {
  static int32_t first_cta;
  static bool any;
  if (thread_index() == 0 && !any) first_cta = cta_index();
  any = true;
  if (cta_index() == first_cta) store(words() + thread_index(), 1);
  sync_cta();
  load(words() + thread_index());
  if (cta_index() != first_cta) any = false;
}

EDGEATTN_TEST(what_another_cta_left_counts_as_not_written) {
  // Which thread sets the static first depends on the order; any CTA but the first is caught.
  Outcome const outcome = run(last_cta_data_kernel, Nothing{}, kTwoCtas);
  EDGEATTN_CHECK(outcome.report.find("of CTA 1 reads 4 bytes at shared offset 0; of byte 0: no "
                                     "thread wrote it") != std::string::npos);
}

// Races. A neighbour's word is read, or overwritten, with some barrier in between.

enum Barrier { kNoBarrier, kShuffle, kVote, kMma, kSyncWarp, kSyncCta };

void pass(Barrier barrier) {
  float d[4] = {};
  uint32_t const a[4] = {};
  uint32_t const b[2] = {};
  switch (barrier) {
    case kNoBarrier:
      return;
    case kShuffle:
      shuffle_xor(1.0f, 1);
      return;
    case kVote:
      warp_all(true);
      return;
    case kMma:
      mma_m16n8k16<half_t>(d, a, b);
      return;
    case kSyncWarp:
      return sync_warp();
    case kSyncCta:
      return sync_cta();
  }
}

template <Barrier kBarrier, int32_t kDistance>
EDGEATTN_KERNEL void read_after_write_kernel(Nothing) {
  store(words() + thread_index(), thread_index());
  pass(kBarrier);
  load(words() + (thread_index() ^ kDistance));
}

template <Barrier kBarrier, int32_t kDistance>
EDGEATTN_KERNEL void write_after_read_kernel(Nothing) {
  store(words() + thread_index(), thread_index());
  sync_cta();
  load(words() + (thread_index() ^ kDistance));
  pass(kBarrier);
  store(words() + thread_index(), 0);
}

template <Barrier kBarrier, int32_t kDistance>
EDGEATTN_KERNEL void write_after_write_kernel(Nothing) {
  store(words() + thread_index(), thread_index());
  pass(kBarrier);
  store(words() + (thread_index() ^ kDistance), 0);
}

constexpr int32_t kSameWarp = 1;
constexpr int32_t kOtherWarp = 32;

EDGEATTN_TEST(barriers_order_accesses) {
  EDGEATTN_CHECK_CLEAN((read_after_write_kernel<kSyncWarp, kSameWarp>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CLEAN((read_after_write_kernel<kSyncCta, kSameWarp>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CLEAN((read_after_write_kernel<kSyncCta, kOtherWarp>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CLEAN((write_after_read_kernel<kSyncWarp, kSameWarp>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CLEAN((write_after_read_kernel<kSyncCta, kOtherWarp>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CLEAN((write_after_write_kernel<kSyncWarp, kSameWarp>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CLEAN((write_after_write_kernel<kSyncCta, kOtherWarp>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CLEAN((read_after_write_kernel<kNoBarrier, 0>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CLEAN((write_after_read_kernel<kNoBarrier, 0>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CLEAN((write_after_write_kernel<kNoBarrier, 0>), Nothing{}, kTwoWarps, {});
}

// Which of the two accesses comes second depends on the order of threads; one of them is caught.
EDGEATTN_TEST(a_missing_barrier_is_caught) {
  EDGEATTN_CHECK_CAUGHT("of byte", (read_after_write_kernel<kNoBarrier, kSameWarp>), Nothing{},
                        kTwoWarps, {});
  EDGEATTN_CHECK_CAUGHT("of byte", (read_after_write_kernel<kNoBarrier, kOtherWarp>), Nothing{},
                        kTwoWarps, {});
  EDGEATTN_CHECK_CAUGHT("no barrier came since thread",
                        (write_after_read_kernel<kNoBarrier, kSameWarp>), Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CAUGHT("no barrier came since thread",
                        (write_after_read_kernel<kNoBarrier, kOtherWarp>), Nothing{}, kTwoWarps,
                        {});
  EDGEATTN_CHECK_CAUGHT("wrote it", (write_after_write_kernel<kNoBarrier, kSameWarp>), Nothing{},
                        kTwoWarps, {});
  EDGEATTN_CHECK_CAUGHT("wrote it", (write_after_write_kernel<kNoBarrier, kOtherWarp>), Nothing{},
                        kTwoWarps, {});
}

EDGEATTN_TEST(a_barrier_of_the_warp_does_not_order_two_warps) {
  EDGEATTN_CHECK_CAUGHT("of byte", (read_after_write_kernel<kSyncWarp, kOtherWarp>), Nothing{},
                        kTwoWarps, {});
  EDGEATTN_CHECK_CAUGHT("no barrier came", (write_after_read_kernel<kSyncWarp, kOtherWarp>),
                        Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CAUGHT("wrote it", (write_after_write_kernel<kSyncWarp, kOtherWarp>), Nothing{},
                        kTwoWarps, {});
}

EDGEATTN_TEST(collectives_order_nothing) {
  EDGEATTN_CHECK_CAUGHT("wrote it", (read_after_write_kernel<kShuffle, kSameWarp>), Nothing{},
                        kTwoWarps, {});
  EDGEATTN_CHECK_CAUGHT("wrote it", (read_after_write_kernel<kVote, kSameWarp>), Nothing{},
                        kTwoWarps, {});
  EDGEATTN_CHECK_CAUGHT("read it", (write_after_read_kernel<kMma, kSameWarp>), Nothing{}, kTwoWarps,
                        {});
}

// All threads read a word, then one writes it.
template <Barrier kBarrier>
EDGEATTN_KERNEL void overwrite_broadcast_kernel(Nothing) {
  if (thread_index() == 0) store(words(), 1);
  sync_cta();
  load(words());
  pass(kBarrier);
  if (thread_index() == 0) store(words(), 2);
}

EDGEATTN_TEST(overwriting_what_several_lanes_read_needs_a_barrier) {
  EDGEATTN_CHECK_CLEAN(overwrite_broadcast_kernel<kSyncWarp>, Nothing{}, kOneWarp, {});
  EDGEATTN_CHECK_CAUGHT(
      "thread 0 (warp 0, lane 0) of CTA 0 writes 4 bytes at shared offset 0; of "
      "byte 0: no barrier came since thread 1 read it",
      overwrite_broadcast_kernel<kShuffle>, Nothing{}, kOneWarp, {});
}

EDGEATTN_TEST(overwriting_what_several_warps_read_needs_a_barrier) {
  EDGEATTN_CHECK_CLEAN(overwrite_broadcast_kernel<kSyncCta>, Nothing{}, kTwoWarps, {});
  EDGEATTN_CHECK_CAUGHT("no barrier came", overwrite_broadcast_kernel<kSyncWarp>, Nothing{},
                        kTwoWarps, {});
}

// Neighbours write the bytes of one word; then all is read at once.
template <bool kOverlap>
EDGEATTN_KERNEL void byte_writers_kernel(Nothing) {
  int32_t const byte = thread_index() + (kOverlap && thread_index() == 7 ? 1 : 0);
  store(shared_memory() + byte, static_cast<unsigned char>(1));
  sync_warp();
  if (thread_index() < 1) load(shared_memory().as<Vec16>());
  sync_warp();
  if (thread_index() == 2) store(shared_memory().as<Vec16>(), Vec16{});
  sync_warp();
  load(shared_memory() + thread_index() % 16);
}

EDGEATTN_TEST(bytes_of_a_word_are_told_apart) {
  EDGEATTN_CHECK_CLEAN(byte_writers_kernel<false>, Nothing{}, kOneWarp, {});
  EDGEATTN_CHECK_CAUGHT(
      "writes 1 bytes at shared offset 8; of byte 8: no barrier came since "
      "thread",
      byte_writers_kernel<true>, Nothing{}, kOneWarp, {});
}

// ldmatrix reads for all lanes of the warp.

enum MatrixBug {
  kNoBug,
  kNoBarrierBefore,
  kNoBarrierAfter,
  kOneRowTooFar,
  kMisalignedRow,
  kUnwrittenRow
};

template <MatrixBug kBug>
EDGEATTN_KERNEL void matrix_rows_kernel(Nothing) {
  Shared<unsigned char> row = shared_memory() + lane_index() * 16;
  if (kBug != kUnwrittenRow || lane_index() != 9) store(row.as<Vec16>(), Vec16{});
  if (kBug != kNoBarrierBefore) sync_warp();
  uint32_t r[4];
  if (kBug == kOneRowTooFar) row = row + 16;
  if (kBug == kMisalignedRow && lane_index() == 3) row = row + 8;
  ldmatrix_x4(r, row);
  if (kBug != kNoBarrierAfter) sync_warp();
  store(shared_memory().as<Vec16>() + lane_index(), Vec16{{r[0], r[1], r[2], r[3]}});
}

EDGEATTN_TEST(ldmatrix_is_checked_row_by_row) {
  constexpr LaunchShape kShape{1, 32, 512};
  EDGEATTN_CHECK_CLEAN(matrix_rows_kernel<kNoBug>, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT(
      "thread 31 (warp 0, lane 31) of CTA 0 gives ldmatrix 16 bytes at shared "
      "offset 512, outside of the CTA's 512",
      matrix_rows_kernel<kOneRowTooFar>, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("gives ldmatrix 16 bytes at shared offset 56, which 16 does not divide",
                        matrix_rows_kernel<kMisalignedRow>, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT(
      "thread 9 (warp 0, lane 9) of CTA 0 gives ldmatrix 16 bytes at shared "
      "offset 144; of byte 144: no thread wrote it",
      matrix_rows_kernel<kUnwrittenRow>, Nothing{}, kShape, {});
}

EDGEATTN_TEST(ldmatrix_needs_barriers_though_each_lane_touches_its_own_row) {
  constexpr LaunchShape kShape{1, 32, 512};
  EDGEATTN_CHECK_CAUGHT("of byte 0: no barrier came since thread 0 wrote it",
                        matrix_rows_kernel<kNoBarrierBefore>, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("read it", matrix_rows_kernel<kNoBarrierAfter>, Nothing{}, kShape, {});
}

}  // namespace
}  // namespace edgeattn::testing
