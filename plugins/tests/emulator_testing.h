/*!
 * \file
 * \brief What the tests of the emulator share: a list of tests, checks, and launches that must be
 * clean or must be caught.
 *
 * A suite is a file. tests/plugins/test_emulator.py builds all of them into one library with the
 * emulator and calls edgeattn_emulator_test for each; main does the same without Python.
 */
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "../emulator/emulator.h"
#include "edgeattn/launch.h"

namespace edgeattn::testing {

struct Test {
  char const* file;
  char const* name;
  void (*run)();
};

std::vector<Test>& tests();

struct Registration {
  Registration(char const* file, char const* name, void (*run)()) {
    tests().push_back({file, name, run});
  }
};

/*! \brief Note a failure of the running test. */
void fail(char const* file, int32_t line, std::string const& what);

struct Outcome {
  int32_t status;
  int64_t violations;
  std::string report;
};

/*! \brief What went wrong since the last call. */
Outcome outcome_of(int32_t status);

/*! \brief The counters since the last call, as JSON. */
std::string statistics();

template <typename Params>
Outcome run(void (*kernel)(Params), Params const& params, LaunchShape shape,
            std::vector<MemoryRegion> const& regions = {}, uint64_t seed = 0) {
  edgeattn_emulator_set_seed(seed);
  return outcome_of(launch_kernel(kernel, shape, params, nullptr, regions.data(),
                                  static_cast<int32_t>(regions.size())));
}

constexpr uint64_t kSeeds[] = {0, 1, 2, 3};

/*! \brief A kernel that needs no parameters. */
struct Nothing {};

}  // namespace edgeattn::testing

#define EDGEATTN_TEST(name)                                                                     \
  static void name();                                                                           \
  static ::edgeattn::testing::Registration const registration_of_##name(__FILE__, #name, name); \
  static void name()

#define EDGEATTN_CHECK(condition)                                                \
  do {                                                                           \
    if (!(condition)) ::edgeattn::testing::fail(__FILE__, __LINE__, #condition); \
  } while (false)

/*! \brief The launch must be clean in any order of threads. */
#define EDGEATTN_CHECK_CLEAN(...)                                                             \
  do {                                                                                        \
    for (uint64_t const seed : ::edgeattn::testing::kSeeds) {                                 \
      auto const outcome = ::edgeattn::testing::run(__VA_ARGS__, seed);                       \
      if (outcome.status != 0) ::edgeattn::testing::fail(__FILE__, __LINE__, outcome.report); \
    }                                                                                         \
  } while (false)

/*! \brief The launch must be reported with this text in any order of threads. */
#define EDGEATTN_CHECK_CAUGHT(text, ...)                                                          \
  do {                                                                                            \
    for (uint64_t const seed : ::edgeattn::testing::kSeeds) {                                     \
      auto const outcome = ::edgeattn::testing::run(__VA_ARGS__, seed);                           \
      if (outcome.status != EDGEATTN_EMULATOR_VIOLATION || outcome.violations == 0 ||             \
          outcome.report.find(text) == std::string::npos) {                                       \
        ::edgeattn::testing::fail(__FILE__, __LINE__,                                             \
                                  "expected \"" + std::string(text) + "\" with seed " +           \
                                      std::to_string(seed) + ", got \"" + outcome.report + "\""); \
      }                                                                                           \
    }                                                                                             \
  } while (false)
