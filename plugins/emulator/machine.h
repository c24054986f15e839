/*!
 * \file
 * \brief The emulated machine: one CTA at a time, its warps and threads, and who runs next.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "bank_conflicts.h"
#include "edgeattn/launch.h"
#include "fiber.h"
#include "global_memory.h"
#include "place.h"
#include "runtime.h"
#include "shared_memory.h"
#include "statistics.h"
#include "violations.h"

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

constexpr int32_t kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr int32_t kMostThreads = 1024;

/*! \brief A cp.async under way. */
struct Copy {
  int32_t offset_bytes;
  int32_t bytes;
  int32_t group;
};

struct Warp;

struct Thread : ThreadId {
  enum State : uint8_t { kRunning, kAtBarrier, kEnded };

  int32_t lane;
  Warp* warp;
  Fiber fiber;
  State state;               //!< kRunning also of those that wait in a collective of their warp
  Place barrier;             //!< where it waits at one
  std::vector<Copy> copies;  //!< oldest first
  int32_t copy_group;        //!< that its next copies will belong to
};

struct Warp {
  int32_t index;
  Thread* threads;   //!< [32]
  uint32_t ready;    //!< lanes that can run, the running one among them
  uint32_t arrived;  //!< lanes that wait in a collective: this kind, at this place
  Collective kind;
  Place place;
  Operands const* operands[kLanes];  //!< of the lanes that wait
  uint8_t const* order;              //!< in which lanes get their turn
  int32_t turn;
  uint32_t step;  //!< counts sync_warp
  WarpAccesses accesses;
};

/*! \brief Numbers that depend on a seed alone (splitmix64). */
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint32_t below(uint32_t limit) {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t mixed = state_;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>(((mixed ^ mixed >> 31) >> 32) * limit >> 32);
  }

 private:
  uint64_t state_;
};

class Machine {
 public:
  Machine();

  /*! \brief See launch(). */
  int32_t launch(Work const& work, LaunchShape shape, MemoryRegion const* regions,
                 int32_t num_regions, uint64_t seed);

  // What the threads call.
  void yield(Thread& thread);
  void complete(Thread& thread);
  [[noreturn]] void diverge(Thread& thread, Collective kind, Place place);
  void sync_cta(Thread& thread, Place place);
  [[noreturn]] void end(Thread& thread);
  void run_thread();

  Accessor accessor(Thread const& thread) const {
    return {thread.index, thread.warp->index, thread.warp->step, 1u << thread.lane};
  }

  /*! \brief Note that a thread did something wrong: `what` completes "thread 3 …". The first thread
   *  at a place is told of, others are counted. Returns unless that was enough for this launch. */
  void violation(Thread const& thread, Place place, char const* what, ...)
      __attribute__((format(printf, 4, 5)));

  LaunchShape shape{};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  SharedMemory shared;
  GlobalMemory global;
  Statistics statistics;
  Violations violations;         //!< since they were last asked for
  Violations launch_violations;  //!< of the last launch

 private:
  bool accept(LaunchShape shape);
  void run_cta(int32_t cta);
  void execute(Warp& warp);
  void wake_all(Warp& warp);
  Warp* next_warp();
  Thread* next_thread();
  [[noreturn]] void abandon();
  [[noreturn]] void stuck();
  std::string whereabouts(Thread const& thread) const;
  void report(std::string const& sentence);
  void shuffle_orders();

  static constexpr int32_t kOrders = 64;

  Work work_{};
  Stacks stacks_;
  Fiber scheduler_{};
  Random random_{0};
  bool shuffled_ = false;
  uint8_t orders_[kOrders][kLanes];
  Warp* running_warp_ = nullptr;
  int32_t cta_ = 0;
  std::vector<Place> told_;  // where violations were in this launch
  int32_t at_barrier_ = 0;   // threads
  Thread const* first_at_barrier_ = nullptr;
  int32_t ended_ = 0;  // threads
};

/*! \brief The one machine; launches take turns. */
extern Machine* machine;

char const* name_of(Collective kind);

/*! \brief "kernel.h:12", without the folders. */
std::string text_of(Place place);

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
