// Launches, one at a time, and the C interface.

#include <string.h>

#include <algorithm>
#include <mutex>
#include <numeric>

#include "edgeattn/edgeattn.h"
#include "emulator.h"
#include "machine.h"

namespace edgeattn::emulator {

namespace {

// The least that an architecture from sm_80 on lets a CTA have (sm_86, sm_89 and sm_120; CUDA C++
// Programming Guide, "Technical Specifications per Compute Capability").
constexpr int32_t kMostSharedBytes = 99 << 10;

std::mutex mutex;
uint64_t seed = 0;

// Made when first needed: a library that is only loaded costs nothing.
Machine& the_machine() {
  static Machine instance;
  machine = &instance;
  return instance;
}

void copy_text(std::string const& text, char* to, size_t bytes) {
  if (to == nullptr || bytes == 0) return;
  size_t const length = std::min(text.size(), bytes - 1);
  memcpy(to, text.data(), length);
  to[length] = '\0';
}

}  // namespace

Machine* machine = nullptr;

Machine::Machine() = default;

bool Machine::accept(LaunchShape asked) {
  int32_t const count = asked.threads_per_cta;
  if (count < kLanes || count > kMostThreads || count % kLanes != 0) {
    report("launched with " + std::to_string(count) +
           " threads per CTA; expected a multiple of 32, at most 1024");
    return false;
  }
  if (asked.shared_bytes < 0 || asked.shared_bytes > kMostSharedBytes) {
    report("launched with " + std::to_string(asked.shared_bytes) +
           " bytes of shared memory per CTA; expected at most " + std::to_string(kMostSharedBytes) +
           ", which every architecture has");
    return false;
  }
  if (asked.ctas < 0) {
    report("launched with " + std::to_string(asked.ctas) + " CTAs");
    return false;
  }
  if (!stacks_.reserve(count)) {
    report("there is no memory for the stacks of " + std::to_string(count) + " threads");
    return false;
  }
  return true;
}

int32_t Machine::launch(Work const& work, LaunchShape asked, MemoryRegion const* regions,
                        int32_t num_regions, uint64_t order_seed) {
  work_ = work;
  launch_violations.clear();
  told_.clear();
  if (!accept(asked)) return EDGEATTN_EMULATOR_VIOLATION;
  shape = asked;
  shuffled_ = order_seed != 0;
  random_ = Random(order_seed);
  shuffle_orders();
  global.begin_launch(regions, num_regions);
  shared.begin_launch(shape.shared_bytes);
  threads.resize(static_cast<size_t>(shape.threads_per_cta));
  warps.resize(threads.size() / kLanes);
  for (Thread& thread : threads) {
    thread.index = static_cast<int32_t>(&thread - threads.data());
    thread.lane = thread.index % kLanes;
    thread.warp = &warps[thread.index / kLanes];
  }
  for (Warp& warp : warps) {
    warp.index = static_cast<int32_t>(&warp - warps.data());
    warp.threads = &threads[warp.index * kLanes];
  }
  statistics.ctas += shape.ctas;
  statistics.threads += static_cast<int64_t>(shape.ctas) * shape.threads_per_cta;
  statistics.shared_bytes_per_cta = std::max(statistics.shared_bytes_per_cta, shape.shared_bytes);

  std::vector<int32_t> ctas(static_cast<size_t>(shape.ctas));
  std::iota(ctas.begin(), ctas.end(), 0);
  for (size_t i = ctas.size(); shuffled_ && i > 1; --i) {
    std::swap(ctas[i - 1], ctas[random_.below(static_cast<uint32_t>(i))]);
  }
  for (int32_t const cta : ctas) {
    run_cta(cta);
    if (launch_violations.count() != 0) return EDGEATTN_EMULATOR_VIOLATION;
  }
  return EDGEATTN_SUCCESS;
}

int32_t launch(Work const& work, LaunchShape shape, MemoryRegion const* regions,
               int32_t num_regions) {
  std::lock_guard<std::mutex> const lock(mutex);
  return the_machine().launch(work, shape, regions, num_regions, seed);
}

char const* launch_text() {
  std::lock_guard<std::mutex> const lock(mutex);
  return the_machine().launch_violations.text().c_str();
}

}  // namespace edgeattn::emulator

using namespace edgeattn::emulator;  // NOLINT: the C interface stands outside of it

void edgeattn_emulator_set_seed(uint64_t value) {
  std::lock_guard<std::mutex> const lock(mutex);
  seed = value;
}

int64_t edgeattn_emulator_report(char* text, size_t bytes) {
  std::lock_guard<std::mutex> const lock(mutex);
  Violations& violations = the_machine().violations;
  copy_text(violations.text(), text, bytes);
  int64_t const count = violations.count();
  violations.clear();
  return count;
}

int64_t edgeattn_emulator_statistics(char* json, size_t bytes) {
  std::lock_guard<std::mutex> const lock(mutex);
  std::string const text = the_machine().statistics.to_json();
  copy_text(text, json, bytes);
  the_machine().statistics = Statistics{};
  return static_cast<int64_t>(text.size());
}
