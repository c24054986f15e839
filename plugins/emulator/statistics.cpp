#include "statistics.h"

#include <initializer_list>
#include <utility>

namespace edgeattn::emulator {

namespace {

std::string json_object(std::initializer_list<std::pair<char const*, std::string>> members) {
  std::string text;
  for (auto const& [name, value] : members) {
    text += (text.empty() ? "{\"" : ", \"") + std::string(name) + "\": " + value;
  }
  return text + "}";
}

}  // namespace

std::string Statistics::to_json() const {
  auto const conflicts = [&](SharedAccess access) {
    return bank_conflicts[static_cast<int32_t>(access)];
  };
  int64_t total_conflicts = 0;
  for (int64_t const count : bank_conflicts) total_conflicts += count;
  using std::to_string;
  return json_object({
      {"ctas", to_string(ctas)},
      {"threads", to_string(threads)},
      {"mma", json_object({{"m16n8k16", to_string(mma_m16n8k16)},
                           {"m16n8k32_s8", to_string(mma_m16n8k32_s8)}})},
      {"ldmatrix", to_string(ldmatrix)},
      {"cp_async_4", to_string(cp_async_4)},
      {"cp_async_8", to_string(cp_async_8)},
      {"cp_async_16", to_string(cp_async_16)},
      {"barriers", to_string(barriers)},
      {"warp_barriers", to_string(warp_barriers)},
      {"global_read_bytes", to_string(global_read_bytes)},
      {"global_write_bytes", to_string(global_write_bytes)},
      {"shared_bank_conflicts", to_string(total_conflicts)},
      {"shared_bank_conflicts_of",
       json_object({{"load", to_string(conflicts(SharedAccess::kLoad))},
                    {"store", to_string(conflicts(SharedAccess::kStore))},
                    {"cp_async", to_string(conflicts(SharedAccess::kCopy))},
                    {"ldmatrix", to_string(conflicts(SharedAccess::kLdmatrix))}})},
      {"shared_bytes_per_cta", to_string(shared_bytes_per_cta)},
  });
}

}  // namespace edgeattn::emulator
