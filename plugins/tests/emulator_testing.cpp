#include "emulator_testing.h"

#include <stdio.h>
#include <string.h>

#include <algorithm>

namespace edgeattn::testing {

namespace {

std::string failures;  // of the running test, a line each

// "…/emulator_matrices.cpp" is the suite "matrices".
std::string suite_of(char const* file) {
  std::string name = file;
  name.erase(0, name.rfind("emulator_") + strlen("emulator_"));
  return name.substr(0, name.rfind('.'));
}

// Runs the tests of a suite; gives how many there are.
int32_t run_suite(std::string const& suite, std::string& report) {
  int32_t count = 0;
  for (Test const& test : tests()) {
    if (suite_of(test.file) != suite) continue;
    ++count;
    failures.clear();
    statistics();
    test.run();
    if (!failures.empty()) report += std::string(test.name) + ":\n" + failures;
  }
  return count;
}

}  // namespace

std::vector<Test>& tests() {
  static std::vector<Test> list;
  return list;
}

void fail(char const* file, int32_t line, std::string const& what) {
  failures += "  " + suite_of(file) + ", line " + std::to_string(line) + ": " + what + "\n";
}

Outcome outcome_of(int32_t status) {
  char text[4096];
  int64_t const violations = edgeattn_emulator_report(text, sizeof(text));
  return {status, violations, text};
}

std::string statistics() {
  char text[2048];
  edgeattn_emulator_statistics(text, sizeof(text));
  return text;
}

}  // namespace edgeattn::testing

extern "C" {

/*! \brief Run a suite; `report` receives what failed, or nothing.
 *  \return how many tests it has. */
EDGEATTN_API int32_t edgeattn_emulator_test(char const* suite, char* report, size_t bytes) {
  std::string text;
  int32_t const count = edgeattn::testing::run_suite(suite, text);
  size_t const length = std::min(text.size(), bytes - 1);
  memcpy(report, text.data(), length);
  report[length] = '\0';
  return count;
}

}  // extern "C"

int main(int argc, char** argv) {
  bool passed = argc > 1;
  for (int i = 1; i < argc; ++i) {
    std::string report;
    int32_t const count = edgeattn::testing::run_suite(argv[i], report);
    passed = passed && count > 0 && report.empty();
    fputs((std::string(argv[i]) + ": " + std::to_string(count) + " tests\n" + report).c_str(),
          stdout);
  }
  return passed ? 0 : 1;
}
