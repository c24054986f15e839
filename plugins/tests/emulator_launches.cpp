// What a launch is given, in which order it runs, and what it leaves behind when it is given up.

#include <algorithm>
#include <numeric>
#include <thread>

#include "edgeattn/intrinsics.h"
#include "emulator_testing.h"

namespace edgeattn::testing {

// Outside of the unnamed namespace, so that messages can name it.
template <typename T, int32_t kNumber>
EDGEATTN_KERNEL void named_kernel(Nothing) {
  load(shared_memory() + 1000);
}

template EDGEATTN_KERNEL void named_kernel<half_t, 3>(Nothing);

namespace {

EDGEATTN_KERNEL void empty_kernel(Nothing) {}

EDGEATTN_TEST(shapes_that_no_gpu_takes_are_refused) {
  EDGEATTN_CHECK_CLEAN(empty_kernel, Nothing{}, (LaunchShape{3, 128, 99 << 10}), {});
  EDGEATTN_CHECK_CLEAN(empty_kernel, Nothing{}, (LaunchShape{1, 1024, 0}), {});
  EDGEATTN_CHECK_CLEAN(empty_kernel, Nothing{}, (LaunchShape{0, 128, 0}), {});
  EDGEATTN_CHECK_CAUGHT("launched with 33 threads per CTA; expected a multiple of 32", empty_kernel,
                        Nothing{}, (LaunchShape{1, 33, 0}), {});
  EDGEATTN_CHECK_CAUGHT("launched with 0 threads", empty_kernel, Nothing{}, (LaunchShape{1, 0, 0}),
                        {});
  EDGEATTN_CHECK_CAUGHT("launched with 2048 threads", empty_kernel, Nothing{},
                        (LaunchShape{1, 2048, 0}), {});
  EDGEATTN_CHECK_CAUGHT("launched with -1 CTAs", empty_kernel, Nothing{}, (LaunchShape{-1, 32, 0}),
                        {});
  EDGEATTN_CHECK_CAUGHT(
      "launched with 101377 bytes of shared memory per CTA; expected at most "
      "101376",
      empty_kernel, Nothing{}, (LaunchShape{1, 32, (99 << 10) + 1}), {});
}

EDGEATTN_TEST(messages_name_the_kernel) {
  Outcome const outcome = run(named_kernel<half_t, 3>, Nothing{}, {1, 32, 0});
  EDGEATTN_CHECK(outcome.report.rfind("testing::named_kernel<half_t, 3>: thread 0", 0) == 0);
}

// Order

struct Log {
  std::vector<int32_t>* order;
};

EDGEATTN_KERNEL void log_kernel(Log p) {
  p.order->push_back(cta_index() * 64 + thread_index());
  sync_cta();
  p.order->push_back(cta_index() * 64 + thread_index());
  sync_warp();
  p.order->push_back(cta_index() * 64 + thread_index());
}

std::vector<int32_t> order_of(uint64_t seed) {
  std::vector<int32_t> order;
  EDGEATTN_CHECK(run(log_kernel, Log{&order}, {3, 64, 0}, {}, seed).status == 0);
  return order;
}

EDGEATTN_TEST(seed_0_is_the_natural_order_of_ctas_and_threads) {
  std::vector<int32_t> const order = order_of(0);
  EDGEATTN_CHECK(order.size() == 3 * 3 * 64);
  for (int32_t cta = 0; cta < 3; ++cta) {
    for (int32_t thread = 0; thread < 64; ++thread) {
      EDGEATTN_CHECK(order[cta * 192 + thread] == cta * 64 + thread);
    }
  }
}

EDGEATTN_TEST(a_seed_shuffles_ctas_and_threads_and_repeats_itself) {
  std::vector<std::vector<int32_t>> orders;
  bool other_cta_first = false;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    std::vector<int32_t> order = order_of(seed);
    EDGEATTN_CHECK(order == order_of(seed));
    EDGEATTN_CHECK(std::find(orders.begin(), orders.end(), order) == orders.end());
    orders.push_back(order);
    other_cta_first = other_cta_first || order[0] / 64 != 0;
    // Every thread came by three times.
    std::sort(order.begin(), order.end());
    for (int32_t i = 0; i < 3 * 3 * 64; ++i) EDGEATTN_CHECK(order[i] == i / 3);
  }
  EDGEATTN_CHECK(other_cta_first);
}

// Limits

EDGEATTN_KERNEL void everything_wrong_kernel(Nothing) {
  for (int32_t i = 0; i < 1000; ++i) {
    load(shared_memory() + 1000);
    load(shared_memory() + -1);
  }
}

EDGEATTN_TEST(violations_are_told_once_for_each_place_and_end_the_launch) {
  Outcome const outcome = run(everything_wrong_kernel, Nothing{}, {5, 128, 0});
  EDGEATTN_CHECK(outcome.status == EDGEATTN_EMULATOR_VIOLATION);
  EDGEATTN_CHECK(outcome.violations == 64);
  EDGEATTN_CHECK(std::count(outcome.report.begin(), outcome.report.end(), '\n') == 1);
  // The report is taken; the next launch starts afresh.
  Outcome const nothing = outcome_of(0);
  EDGEATTN_CHECK(nothing.violations == 0 && nothing.report.empty());
  EDGEATTN_CHECK_CLEAN(empty_kernel, Nothing{}, (LaunchShape{5, 128, 0}), {});
}

EDGEATTN_KERNEL void one_bad_cta_kernel(Log p) {
  if (thread_index() == 0) p.order->push_back(cta_index());
  if (cta_index() == 1) load(shared_memory());
}

EDGEATTN_TEST(a_launch_ends_with_the_first_cta_that_violates) {
  std::vector<int32_t> ctas;
  Outcome const outcome = run(one_bad_cta_kernel, Log{&ctas}, {4, 32, 0});
  EDGEATTN_CHECK(outcome.violations == 32);
  EDGEATTN_CHECK((ctas == std::vector<int32_t>{0, 1}));
}

EDGEATTN_TEST(the_text_of_a_status_is_the_report) {
  std::vector<int32_t> ctas;
  Log const log{&ctas};
  int32_t const status = launch_kernel(one_bad_cta_kernel, {4, 32, 0}, log, nullptr, nullptr, 0);
  EDGEATTN_CHECK(status == EDGEATTN_EMULATOR_VIOLATION);
  EDGEATTN_CHECK(launch_status_text(status) == outcome_of(status).report);
  EDGEATTN_CHECK(std::string(launch_status_text(0)) == "no error");
}

EDGEATTN_TEST(a_report_is_cut_off_where_the_buffer_ends) {
  launch_kernel(empty_kernel, {1, 33, 0}, Nothing{}, nullptr, nullptr, 0);
  char text[9];
  EDGEATTN_CHECK(edgeattn_emulator_report(text, sizeof(text)) == 1);
  EDGEATTN_CHECK(std::string(text) == "a kernel");
  EDGEATTN_CHECK(edgeattn_emulator_report(nullptr, 0) == 0);
}

// A deep stack and many threads, whose locals must not mix.
int32_t recurse(int32_t depth, int32_t seed) {
  volatile int32_t local[64];
  for (int32_t i = 0; i < 64; ++i) local[i] = seed + i;
  if (depth % 10 == 0) sync_warp();
  int32_t const below = depth == 0 ? 0 : recurse(depth - 1, seed + 1);
  return std::accumulate(local, local + 64, below);
}

struct Sums {
  int32_t* sums;  // [1024]
};

EDGEATTN_KERNEL void deep_kernel(Sums p) { p.sums[thread_index()] = recurse(200, thread_index()); }

EDGEATTN_TEST(threads_have_stacks_of_their_own) {
  std::vector<int32_t> sums(1024);
  EDGEATTN_CHECK_CLEAN(deep_kernel, Sums{sums.data()}, (LaunchShape{1, 1024, 0}), {});
  for (int32_t thread = 0; thread < 1024; ++thread) {
    int32_t expected = 0;
    for (int32_t depth = 0; depth <= 200; ++depth) {
      for (int32_t i = 0; i < 64; ++i) expected += thread + depth + i;
    }
    EDGEATTN_CHECK(sums[thread] == expected);
  }
}

EDGEATTN_TEST(launches_of_several_os_threads_take_turns) {
  std::vector<int32_t> sums[4];
  int32_t statuses[4];
  std::vector<std::thread> callers;
  edgeattn_emulator_set_seed(1);
  for (int32_t i = 0; i < 4; ++i) {
    callers.emplace_back([&sums, &statuses, i] {
      sums[i].resize(64);
      Sums const params{sums[i].data()};
      statuses[i] = launch_kernel(deep_kernel, {1, 64, 0}, params, nullptr, nullptr, 0);
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (int32_t i = 0; i < 4; ++i) {
    EDGEATTN_CHECK(statuses[i] == 0);
    EDGEATTN_CHECK(sums[i] == sums[0]);
  }
}

}  // namespace
}  // namespace edgeattn::testing
