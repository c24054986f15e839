// What is counted, and bank conflicts of patterns that are known by hand.

#include "edgeattn/intrinsics.h"
#include "emulator_testing.h"

namespace edgeattn::testing {
namespace {

bool has(std::string const& json, std::string const& member) {
  return json.find(member) != std::string::npos;
}

struct Buffers {
  unsigned char const* in;  // [128 * 16]
  float* out;               // [2 * 128]
};

EDGEATTN_KERNEL void everything_kernel(Buffers p) {
  Shared<unsigned char> const slot = shared_memory() + thread_index() * 16;
  Global<unsigned char const> const from = Global<unsigned char const>(p.in) + thread_index() * 16;
  copy_async<16>(slot, from, 10);
  copy_async<8>(slot + 2048, from, 8);
  copy_async<4>(slot + 2048 + 8, from, 4);
  copy_async_commit();
  copy_async_wait<0>();
  sync_cta();
  uint32_t a[4];
  ldmatrix_x4(a, shared_memory() + lane_index() * 16);
  float d[4] = {};
  mma_m16n8k16<half_t>(d, a, {a[0], a[1]});
  mma_m16n8k16<bf16_t>(d, a, {a[0], a[1]});
  int32_t e[4] = {};
  mma_m16n8k32_s8(e, a, {a[0], a[1]});
  sync_warp();
  sync_warp();
  store(Global<float>(p.out) + (cta_index() * 128 + thread_index()), load(from.as<float const>()));
}

EDGEATTN_TEST(everything_is_counted_until_it_is_asked_for) {
  alignas(16) unsigned char in[128 * 16] = {};
  float out[2 * 128];
  Outcome const outcome = run(everything_kernel, Buffers{in, out}, {2, 128, 4096},
                              {{in, sizeof(in), false, "in"}, {out, sizeof(out), true, "out"}});
  EDGEATTN_CHECK(outcome.status == 0);
  std::string const json = statistics();
  EDGEATTN_CHECK(has(json,
                     "{\"ctas\": 2, \"threads\": 256, \"mma\": {\"m16n8k16\": 16, "
                     "\"m16n8k32_s8\": 8}, \"ldmatrix\": 8, \"cp_async_4\": 256, "
                     "\"cp_async_8\": 256, \"cp_async_16\": 256, \"barriers\": 2, "
                     "\"warp_barriers\": 16, "));
  EDGEATTN_CHECK(has(json, "\"global_read_bytes\": " + std::to_string(256 * (10 + 8 + 4 + 4))));
  EDGEATTN_CHECK(has(json, "\"global_write_bytes\": " + std::to_string(256 * 4)));
  EDGEATTN_CHECK(has(json, "\"shared_bytes_per_cta\": 4096}"));
  EDGEATTN_CHECK(has(statistics(), "{\"ctas\": 0, \"threads\": 0, "));
}

EDGEATTN_TEST(statistics_are_cut_off_where_the_buffer_ends) {
  char text[6];
  EDGEATTN_CHECK(edgeattn_emulator_statistics(text, sizeof(text)) > 100);
  EDGEATTN_CHECK(std::string(text) == "{\"cta");
  EDGEATTN_CHECK(edgeattn_emulator_statistics(nullptr, 0) > 100);
}

// Bank conflicts

struct Pattern {
  int32_t stride;  // elements between two lanes
  int32_t modulo;  // lanes that repeat themselves
};

constexpr LaunchShape kShape{1, 32, 32 << 10};

template <typename T>
EDGEATTN_KERNEL void store_kernel(Pattern p) {
  if (lane_index() < p.modulo) store(shared_memory().as<T>() + lane_index() * p.stride, T{});
}

template <typename T>
EDGEATTN_KERNEL void load_kernel(Pattern p) {
  for (int32_t i = lane_index(); i < 2048; i += 32) store(shared_memory().as<Vec16>() + i, Vec16{});
  sync_warp();
  load(shared_memory().as<T>() + lane_index() % p.modulo * p.stride);
}

EDGEATTN_KERNEL void copy_kernel(Pattern p) {
  copy_async<16>((shared_memory().as<Vec16>() + lane_index() * p.stride).as<unsigned char>(), {},
                 0);
  copy_async_commit();
  copy_async_wait<0>();
}

EDGEATTN_KERNEL void ldmatrix_kernel(Pattern p) {
  for (int32_t i = lane_index(); i < 2048; i += 32) store(shared_memory().as<Vec16>() + i, Vec16{});
  sync_warp();
  uint32_t r[4];
  ldmatrix_x4(
      r, (shared_memory().as<Vec16>() + lane_index() % p.modulo * p.stride).as<unsigned char>());
}

void check_conflicts(void (*kernel)(Pattern), Pattern pattern, std::string const& access,
                     int32_t expected) {
  Outcome const outcome = run(kernel, pattern, kShape);
  EDGEATTN_CHECK(outcome.status == 0);
  std::string const json = statistics();
  EDGEATTN_CHECK(has(json, "\"shared_bank_conflicts\": " + std::to_string(expected) + ","));
  EDGEATTN_CHECK(has(json, "\"" + access + "\": " + std::to_string(expected)));
}

EDGEATTN_TEST(words_conflict_by_the_stride_of_lanes) {
  for (int32_t const stride : {1, 3, 33}) {
    check_conflicts(store_kernel<float>, {stride, 32}, "store", 0);
    check_conflicts(load_kernel<float>, {stride, 32}, "load", 0);
  }
  check_conflicts(store_kernel<float>, {2, 32}, "store", 1);
  check_conflicts(load_kernel<float>, {4, 32}, "load", 3);
  check_conflicts(load_kernel<float>, {32, 32}, "load", 31);
  check_conflicts(store_kernel<float>, {32, 5}, "store", 4);
}

EDGEATTN_TEST(equal_words_do_not_conflict) {
  check_conflicts(load_kernel<float>, {32, 1}, "load", 0);
  check_conflicts(load_kernel<float>, {32, 2}, "load", 1);
  check_conflicts(load_kernel<half_t>, {1, 32}, "load", 0);
  check_conflicts(store_kernel<uint8_t>, {1, 32}, "store", 0);
  check_conflicts(load_kernel<half_t>, {64, 32}, "load", 31);
}

// Every bank that is used gives three words, some of them to several lanes.
EDGEATTN_KERNEL void repeated_words_kernel(Pattern) {
  constexpr int32_t kWords[] = {0, 32, 0, 64};
  if (lane_index() < 3) store(shared_memory().as<float>() + lane_index() * 32, 0.0f);
  sync_warp();
  load(shared_memory().as<float>() + kWords[lane_index() % 4]);
}

EDGEATTN_TEST(words_count_once_for_each_bank) {
  EDGEATTN_CHECK(run(repeated_words_kernel, Pattern{}, kShape).status == 0);
  EDGEATTN_CHECK(has(statistics(), "\"load\": 2, \"store\": 2"));
}

EDGEATTN_TEST(wide_accesses_go_in_phases) {
  check_conflicts(store_kernel<Vec8>, {1, 32}, "store", 0);
  check_conflicts(store_kernel<Vec8>, {2, 32}, "store", 2);  // 2 phases of 16 lanes, 2-way
  check_conflicts(store_kernel<Vec16>, {1, 32}, "store", 0);
  check_conflicts(store_kernel<Vec16>, {3, 32}, "store", 0);
  check_conflicts(store_kernel<Vec16>, {2, 32}, "store", 4);  // 4 phases of 8 lanes, 2-way
  check_conflicts(load_kernel<Vec16>, {8, 32}, "load", 28);   // 4 phases, 8-way
  check_conflicts(store_kernel<Vec16>, {8, 9}, "store", 7);   // the second phase has one lane
}

EDGEATTN_TEST(copies_and_ldmatrix_count_too) {
  check_conflicts(copy_kernel, {1, 32}, "cp_async", 0);
  check_conflicts(copy_kernel, {4, 32}, "cp_async", 12);
  check_conflicts(ldmatrix_kernel, {1, 32}, "ldmatrix", 0);
  check_conflicts(ldmatrix_kernel, {4, 32}, "ldmatrix", 12);  // rows of 64 bytes: 4-way
  check_conflicts(ldmatrix_kernel, {8, 32}, "ldmatrix", 28);  // rows of 128 bytes
  check_conflicts(ldmatrix_kernel, {9, 32}, "ldmatrix", 0);   // padded by 16
}

// Lanes that skip an access, or make others in between, still meet at the same places.
EDGEATTN_KERNEL void branches_kernel(Nothing) {
  Shared<float> const words = shared_memory().as<float>();
  for (int32_t i = 0; i < 2; ++i) {
    if (lane_index() % 2 == 0) store(words + (1024 + lane_index()), 0.0f);
    store(words + lane_index() * 32, 0.0f);
  }
}

EDGEATTN_TEST(accesses_of_one_instruction_are_found_across_branches) {
  EDGEATTN_CHECK(run(branches_kernel, Nothing{}, kShape).status == 0);
  EDGEATTN_CHECK(has(statistics(), "\"shared_bank_conflicts\": " + std::to_string(2 * 31)));
}

}  // namespace
}  // namespace edgeattn::testing
