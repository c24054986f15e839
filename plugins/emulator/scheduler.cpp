// Who runs next: fibers switch among themselves, and back to run_cta when all have ended or the
// launch is given up. What is left on the stacks of abandoned fibers is never destroyed; kernels
// keep nothing there that would need it.

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>

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

void Machine::join(Thread& thread, Collective kind, Operands const& operands, Place place) {
  Warp& warp = warps[thread.warp];
  thread.operands = operands;
  thread.place = place;
  thread.state = Thread::kInCollective;
  if (warp.arrived == 0) {
    warp.kind = kind;
    warp.place = place;
  } else if (warp.kind != kind || warp.place != place) {
    violation(thread, place, "comes to %s while lanes of its warp wait at %s (%s)", name_of(kind),
              name_of(warp.kind), text_of(warp.place).c_str());
    abandon();
  }
  warp.arrived |= 1u << thread.lane;
  if (warp.arrived != kAllLanes) {
    warp.ready &= ~(1u << thread.lane);
    yield(thread);
    return;
  }
  Thread* const lanes = &threads[thread.warp * kLanes];
  execute(warp, lanes);
  warp.accesses.settle(statistics);
  for (int32_t lane = 0; lane < kLanes; ++lane) lanes[lane].state = Thread::kRunning;
  wake_all(warp);
  if (shuffled_ && random_.below(kPreemption) == 0) {
    running_warp_ = next_warp();
    yield(thread);
  }
}

void Machine::sync_cta(Thread& thread, Place place) {
  Warp& warp = warps[thread.warp];
  for (Thread const& other : threads) {
    if (at_barrier_ == 0 || other.state != Thread::kAtBarrier) continue;
    if (other.place == place) break;
    violation(thread, place, "comes to sync_cta while thread %d waits at another one (%s)",
              other.index, text_of(other.place).c_str());
    abandon();
  }
  thread.place = place;
  thread.state = Thread::kAtBarrier;
  if (++at_barrier_ < shape.threads_per_cta) {
    warp.ready &= ~(1u << thread.lane);
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
  if (shuffled_) {
    running_warp_ = next_warp();
    yield(thread);
  }
}

void Machine::end(Thread& thread) {
  if (!thread.copies.empty()) {
    violation(thread, thread.place, "ends while %zu of its copy_async are in flight",
              thread.copies.size());
  }
  thread.state = Thread::kEnded;
  warps[thread.warp].ready &= ~(1u << thread.lane);
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
Thread* Machine::next_thread() {
  for (; running_warp_ != nullptr; running_warp_ = next_warp()) {
    Warp& warp = *running_warp_;
    if (warp.turn == kLanes) warp.turn = 0;
    while (warp.turn < kLanes) {
      int32_t const lane = warp.order[warp.turn++];
      if ((warp.ready >> lane & 1u) == 0) continue;
      return &threads[static_cast<size_t>((running_warp_ - warps.data()) * kLanes + lane)];
    }
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
    report("CTA " + std::to_string(cta_) + " cannot go on: " + waiting_threads());
  }
  abandon();
}

std::string Machine::waiting_threads() const {
  std::vector<bool> told(threads.size());
  std::string text;
  for (size_t i = 0; i < threads.size(); ++i) {
    if (told[i]) continue;
    Thread const& first = threads[i];
    Collective const kind = warps[first.warp].kind;
    int32_t count = 0;
    for (size_t j = i; j < threads.size(); ++j) {
      Thread const& other = threads[j];
      bool alike = other.state == first.state;
      if (alike && first.state != Thread::kEnded) alike = other.place == first.place;
      if (alike && first.state == Thread::kInCollective) {
        alike = warps[other.warp].kind == kind;
      }
      if (!alike) continue;
      told[j] = true;
      ++count;
    }
    if (!text.empty()) text += "; ";
    text += std::to_string(count) + " threads (first: " + std::to_string(first.index) + ") ";
    if (first.state == Thread::kEnded) {
      text += "have ended";
    } else {
      char const* const what = first.state == Thread::kAtBarrier ? "sync_cta" : name_of(kind);
      text += "wait at " + std::string(what) + " (" + text_of(first.place) + ")";
    }
  }
  return text;
}

void Machine::violation(Thread const& thread, Place place, char const* what, ...) {
  {
    char buffer[512];
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(buffer, sizeof(buffer), what, arguments);
    va_end(arguments);
    report("thread " + std::to_string(thread.index) + " (warp " + std::to_string(thread.warp) +
           ", lane " + std::to_string(thread.lane) + ") of CTA " + std::to_string(cta_) + " " +
           buffer + (place.file == nullptr ? "" : " (" + text_of(place) + ")"));
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
