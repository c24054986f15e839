// Barriers and collectives that not all reach, and what collectives give when all do.

#include "edgeattn/intrinsics.h"
#include "emulator_testing.h"

namespace edgeattn::testing {
namespace {

constexpr LaunchShape kShape{1, 64, 1024};

// Values

struct Results {
  float* shuffled_xor;  // [64]
  int32_t* shuffled;    // [64]
  uint32_t* constant;   // [64]
  bool (*votes)[4];     // [64]
};

EDGEATTN_KERNEL void values_kernel(Results p) {
  int32_t const thread = thread_index();
  p.shuffled_xor[thread] = shuffle_xor(static_cast<float>(thread), 5);
  p.shuffled[thread] = shuffle(thread, lane_index() * 3 + 1);  // modulo 32
  p.constant[thread] = shuffle(static_cast<uint32_t>(thread) << 26, 31);
  p.votes[thread][0] = warp_any(thread == 40);
  p.votes[thread][1] = warp_all(thread != 40);
  p.votes[thread][2] = warp_any(false);
  p.votes[thread][3] = warp_all(true);
}

EDGEATTN_TEST(shuffles_and_votes_are_of_one_warp) {
  float shuffled_xor[64];
  int32_t shuffled[64];
  uint32_t constant[64];
  bool votes[64][4];
  Results const params{shuffled_xor, shuffled, constant, votes};
  EDGEATTN_CHECK_CLEAN(values_kernel, params, kShape, {});
  for (int32_t thread = 0; thread < 64; ++thread) {
    int32_t const warp = thread / 32;
    int32_t const lane = thread % 32;
    EDGEATTN_CHECK(shuffled_xor[thread] == static_cast<float>(warp * 32 + (lane ^ 5)));
    EDGEATTN_CHECK(shuffled[thread] == warp * 32 + (lane * 3 + 1) % 32);
    EDGEATTN_CHECK(constant[thread] == static_cast<uint32_t>(warp * 32 + 31) << 26);
    EDGEATTN_CHECK(votes[thread][0] == (warp == 1));
    EDGEATTN_CHECK(votes[thread][1] == (warp == 0));
    EDGEATTN_CHECK(!votes[thread][2]);
    EDGEATTN_CHECK(votes[thread][3]);
  }
}

// Who misses a barrier

enum Absent { kNobody, kOneLane, kOneWarp };

template <Absent kAbsent>
bool is_absent() {
  if (kAbsent == kOneLane) return thread_index() == 7;
  return kAbsent == kOneWarp && warp_index() == 1;
}

template <Absent kAbsent>
EDGEATTN_KERNEL void sync_cta_kernel(Nothing) {
  if (is_absent<kAbsent>()) return;
  sync_cta();
}

template <Absent kAbsent>
EDGEATTN_KERNEL void sync_warp_kernel(Nothing) {
  if (is_absent<kAbsent>()) return;
  sync_warp();
}

EDGEATTN_TEST(threads_that_end_while_others_wait_are_caught) {
  EDGEATTN_CHECK_CLEAN(sync_cta_kernel<kNobody>, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT(
      "CTA 0 cannot go on: 1 threads (first: 7) have ended; 63 threads (first: "
      "0) wait at sync_cta (emulator_barriers.cpp:",
      sync_cta_kernel<kOneLane>, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("32 threads (first: 32) have ended", sync_cta_kernel<kOneWarp>, Nothing{},
                        kShape, {});
  EDGEATTN_CHECK_CAUGHT("31 threads (first: 0) wait at sync_warp", sync_warp_kernel<kOneLane>,
                        Nothing{}, kShape, {});
}

EDGEATTN_TEST(a_warp_need_not_wait_for_another) {
  EDGEATTN_CHECK_CLEAN(sync_warp_kernel<kNobody>, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CLEAN(sync_warp_kernel<kOneWarp>, Nothing{}, kShape, {});
}

template <typename Operation>
EDGEATTN_KERNEL void one_lane_missing_kernel(Operation operation) {
  store(shared_memory().as<Vec16>() + thread_index(), Vec16{});
  sync_cta();
  if (thread_index() != 33) operation();
}

struct Shuffle {
  void operator()() const { shuffle_xor(1, 1); }
};
struct Vote {
  void operator()() const { warp_any(true); }
};
struct Ldmatrix {
  void operator()() const {
    uint32_t r[2];
    ldmatrix_x2(r, shared_memory() + lane_index() * 16);
  }
};
struct MmaHalf {
  void operator()() const {
    float d[4] = {};
    mma_m16n8k16<half_t>(d, {}, {});
  }
};
struct MmaInt8 {
  void operator()() const {
    int32_t d[4] = {};
    mma_m16n8k32_s8(d, {}, {});
  }
};

EDGEATTN_TEST(collectives_that_a_lane_misses_are_caught) {
  EDGEATTN_CHECK_CAUGHT("31 threads (first: 32) wait at shuffle_xor",
                        one_lane_missing_kernel<Shuffle>, Shuffle{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("31 threads (first: 32) wait at warp_any", one_lane_missing_kernel<Vote>,
                        Vote{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("31 threads (first: 32) wait at ldmatrix_x2",
                        one_lane_missing_kernel<Ldmatrix>, Ldmatrix{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("31 threads (first: 32) wait at mma_m16n8k16<half_t>",
                        one_lane_missing_kernel<MmaHalf>, MmaHalf{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("31 threads (first: 32) wait at mma_m16n8k32_s8",
                        one_lane_missing_kernel<MmaInt8>, MmaInt8{}, kShape, {});
}

// Who meets at different places

EDGEATTN_KERNEL void two_branches_kernel(Nothing) {
  if (lane_index() < 16) {
    sync_warp();
  } else {
    sync_warp();
  }
}

EDGEATTN_KERNEL void two_kinds_kernel(Nothing) {
  if (lane_index() < 16) {
    warp_any(true);
  } else {
    shuffle(1, 0);
  }
}

EDGEATTN_KERNEL void one_line_kernel(Nothing) {
  lane_index() < 16 ? static_cast<void>(warp_any(true)) : sync_warp();
}

EDGEATTN_KERNEL void two_cta_barriers_kernel(Nothing) {
  if (warp_index() == 0) {
    sync_cta();
  } else {
    sync_cta();
  }
}

// A warp that goes round once more than the other.
EDGEATTN_KERNEL void loop_kernel(Nothing) {
  for (int32_t i = 0; i <= warp_index(); ++i) sync_cta();
}

EDGEATTN_KERNEL void barrier_inside_collective_kernel(Nothing) {
  if (lane_index() == 4) sync_cta();
  sync_warp();
  if (lane_index() != 4) sync_cta();
}

EDGEATTN_TEST(lanes_that_meet_at_different_places_are_caught) {
  EDGEATTN_CHECK_CAUGHT("comes to sync_warp while lanes of its warp wait at sync_warp (emulator_",
                        two_branches_kernel, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("of its warp wait at", two_kinds_kernel, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("of its warp wait at", one_line_kernel, Nothing{}, kShape, {});
}

EDGEATTN_TEST(warps_that_meet_at_different_places_are_caught) {
  EDGEATTN_CHECK_CAUGHT("comes to sync_cta while thread", two_cta_barriers_kernel, Nothing{},
                        kShape, {});
  EDGEATTN_CHECK_CAUGHT("32 threads (first: 0) have ended; 32 threads (first: 32) wait at sync_cta",
                        loop_kernel, Nothing{}, kShape, {});
  EDGEATTN_CHECK_CAUGHT("wait at sync_cta", barrier_inside_collective_kernel, Nothing{}, kShape,
                        {});
  EDGEATTN_CHECK_CAUGHT("wait at sync_warp", barrier_inside_collective_kernel, Nothing{}, kShape,
                        {});
}

// The same barrier many times over, in a uniform loop.
EDGEATTN_KERNEL void uniform_loop_kernel(Nothing) {
  for (int32_t i = 0; i < 50; ++i) {
    if (i % 3 == 0) sync_cta();
    if (warp_index() == i % 2) sync_warp();
  }
}

EDGEATTN_TEST(uniform_branches_are_clean) {
  EDGEATTN_CHECK_CLEAN(uniform_loop_kernel, Nothing{}, kShape, {});
}

}  // namespace
}  // namespace edgeattn::testing
