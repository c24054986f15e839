// Who runs next: fibers switch among themselves, and back to run_cta when all have ended or the
// launch is given up. What is left on the stacks of abandoned fibers is never destroyed; kernels
// keep nothing there that would need it.

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <map>

#include "machine.h"

namespace edgeattn::emulator {

namespace {

// One in so many collectives lets another warp go first when the order is shuffled.
constexpr uint32_t kPreemption = 8;

[[noreturn]] void thread_main() {
  Thread& thread = *static_cast<Thread*>(current_thread);
  machine->run_thread();
  machine->end(thread);
}

}  // namespace

ThreadId* current_thread = nullptr;

void Machine::run_cta(int32_t cta) {
  cta_ = cta;
  at_barrier_ = 0;
  ended_ = 0;
  shared.begin_cta();
  for (Warp& warp : warps) {
    warp.step = 0;
    wake_all(warp);
  }
  for (Thread& thread : threads) {
    thread.cta = cta;
    thread.state = Thread::kRunning;
    thread.copies.clear();
    thread.copy_group = 0;
    prepare_fiber(thread.fiber, stacks_.top(thread.index), thread_main);
  }
  running_warp_ = &warps.front();
  running_warp_ = next_warp();
  Thread& first = *next_thread();
  current_thread = &first;
  switch_fiber(scheduler_, first.fiber);
  current_thread = nullptr;
  for (Warp& warp : warps) warp.accesses.settle(statistics);
}

void Machine::run_thread() { work_.call(work_.kernel, work_.params); }

// The path that nearly all lanes take is kept short: it saves and restores registers once.
void join(Collective kind, Operands const& operands, Place place) {
  Thread& thread = *static_cast<Thread*>(current_thread);
  Warp& warp = *thread.warp;
  if (warp.arrived == 0) {
    warp.kind = kind;
    warp.place = place;
  } else if (__builtin_expect(warp.kind != kind || warp.place != place, 0)) {
    machine->diverge(thread, kind, place);
  }
  uint32_t const bit = 1u << thread.lane;
  warp.operands[thread.lane] = &operands;
  warp.arrived |= bit;
  if (warp.arrived == kAllLanes) return machine->complete(thread);
  warp.ready &= ~bit;
  machine->yield(thread);
}

// The last lane of a collective has come.
void Machine::complete(Thread& thread) {
  Warp& warp = *thread.warp;
  execute(warp);
  warp.accesses.settle(statistics);
  wake_all(warp);
  if (shuffled_ && random_.below(kPreemption) == 0) {
    running_warp_ = next_warp();
    yield(thread);
  }
}

void Machine::diverge(Thread& thread, Collective kind, Place place) {
  Warp const& warp = *thread.warp;
  violation(thread, place, "comes to %s while lanes of its warp wait at %s (%s)", name_of(kind),
            name_of(warp.kind), text_of(warp.place).c_str());
  abandon();
}

void Machine::sync_cta(Thread& thread, Place place) {
  if (at_barrier_ == 0) {
    first_at_barrier_ = &thread;
  } else if (first_at_barrier_->barrier != place) {
    violation(thread, place, "comes to sync_cta while thread %d waits at another one (%s)",
              first_at_barrier_->index, text_of(first_at_barrier_->barrier).c_str());
    abandon();
  }
  thread.barrier = place;
  thread.state = Thread::kAtBarrier;
  if (++at_barrier_ < shape.threads_per_cta) {
    thread.warp->ready &= ~(1u << thread.lane);
    yield(thread);
    return;
  }
  at_barrier_ = 0;
  ++statistics.barriers;
  shared.end_epoch();
  for (Warp& each : warps) {
    each.accesses.settle(statistics);
    wake_all(each);
  }
  for (Thread& each : threads) each.state = Thread::kRunning;
  running_warp_ = shuffled_ ? next_warp() : &warps.front();
  yield(thread);
}

void Machine::end(Thread& thread) {
  if (!thread.copies.empty()) {
    violation(thread, {}, "ends while %zu of its copy_async are in flight", thread.copies.size());
  }
  thread.state = Thread::kEnded;
  thread.warp->ready &= ~(1u << thread.lane);
  if (++ended_ == shape.threads_per_cta) abandon();
  yield(thread);
  __builtin_unreachable();
}

// Lets all lanes run, in a new order.
void Machine::wake_all(Warp& warp) {
  warp.ready = kAllLanes;
  warp.arrived = 0;
  warp.order = orders_[shuffled_ ? random_.below(kOrders) : 0];
  warp.turn = 0;
}

// A warp that has lanes to run, or null.
Warp* Machine::next_warp() {
  size_t const count = warps.size();
  size_t index = shuffled_ ? random_.below(static_cast<uint32_t>(count))
                           : static_cast<size_t>(running_warp_ - warps.data());
  for (size_t i = 0; i < count; ++i, ++index) {
    if (warps[index % count].ready != 0) return &warps[index % count];
  }
  return nullptr;
}

// The thread whose turn it is, or null if none can run.
inline Thread* Machine::next_thread() {
  for (; running_warp_ != nullptr; running_warp_ = next_warp()) {
    Warp& warp = *running_warp_;
    for (; warp.turn < kLanes; ++warp.turn) {
      int32_t const lane = warp.order[warp.turn];
      if ((warp.ready >> lane & 1u) != 0) return &warp.threads[lane];
    }
    warp.turn = 0;
  }
  return nullptr;
}

void Machine::yield(Thread& thread) {
  Thread* const next = next_thread();
  if (next == nullptr) stuck();
  if (next == &thread) return;
  current_thread = next;
  switch_fiber(thread.fiber, next->fiber);
}

void Machine::abandon() {
  switch_fiber(static_cast<Thread*>(current_thread)->fiber, scheduler_);
  __builtin_unreachable();
}

void Machine::stuck() {
  {
    std::map<std::string, std::vector<int32_t>> groups;
    for (Thread const& thread : threads) groups[whereabouts(thread)].push_back(thread.index);
    std::string text;
    for (auto const& [where, members] : groups) {
      text += (text.empty() ? "" : "; ") + std::to_string(members.size()) +
              " threads (first: " + std::to_string(members.front()) + ") " + where;
    }
    report("CTA " + std::to_string(cta_) + " cannot go on: " + text);
  }
  abandon();
}

std::string Machine::whereabouts(Thread const& thread) const {
  if (thread.state == Thread::kEnded) return "have ended";
  if (thread.state == Thread::kAtBarrier)
    return "wait at sync_cta (" + text_of(thread.barrier) + ")";
  Warp const& warp = *thread.warp;
  return std::string("wait at ") + name_of(warp.kind) + " (" + text_of(warp.place) + ")";
}

void Machine::violation(Thread const& thread, Place place, char const* what, ...) {
  if (std::find(told_.begin(), told_.end(), place) != told_.end()) {
    violations.add("");
    launch_violations.add("");
  } else {
    told_.push_back(place);
    char buffer[512];
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(buffer, sizeof(buffer), what, arguments);
    va_end(arguments);
    report("thread " + std::to_string(thread.index) + " (warp " +
           std::to_string(thread.warp->index) + ", lane " + std::to_string(thread.lane) +
           ") of CTA " + std::to_string(cta_) + " " + buffer +
           (place.file == nullptr ? "" : " (" + text_of(place) + ")"));
  }
  if (launch_violations.count() >= kMostViolations) abandon();
}

void Machine::report(std::string const& sentence) {
  std::string const full = kernel_name(work_.kernel) + ": " + sentence;
  violations.add(full);
  launch_violations.add(full);
}

// Order 0 stays the natural one unless orders are shuffled.
void Machine::shuffle_orders() {
  for (auto& order : orders_) {
    for (int32_t i = 0; i < kLanes; ++i) order[i] = static_cast<uint8_t>(i);
    if (!shuffled_) continue;
    for (uint32_t i = kLanes - 1; i > 0; --i) std::swap(order[i], order[random_.below(i + 1)]);
  }
}

char const* name_of(Collective kind) {
  switch (kind) {
    case Collective::kSyncWarp:
      return "sync_warp";
    case Collective::kShuffleXor:
      return "shuffle_xor";
    case Collective::kShuffle:
      return "shuffle";
    case Collective::kAny:
      return "warp_any";
    case Collective::kAll:
      return "warp_all";
    case Collective::kLdmatrixX2:
      return "ldmatrix_x2";
    case Collective::kLdmatrixX2Trans:
      return "ldmatrix_x2_trans";
    case Collective::kLdmatrixX4:
      return "ldmatrix_x4";
    case Collective::kLdmatrixX4Trans:
      return "ldmatrix_x4_trans";
    case Collective::kMmaHalf:
      return "mma_m16n8k16<half_t>";
    case Collective::kMmaBf16:
      return "mma_m16n8k16<bf16_t>";
    case Collective::kMmaS8:
      return "mma_m16n8k32_s8";
  }
  __builtin_unreachable();
}

std::string text_of(Place place) {
  char const* const slash = strrchr(place.file, '/');
  return std::string(slash == nullptr ? place.file : slash + 1) + ":" + std::to_string(place.line);
}

}  // namespace edgeattn::emulator
