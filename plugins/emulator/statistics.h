/*!
 * \file
 * \brief What the launches did, counted.
 */
#pragma once

#include <stdint.h>

#include <string>

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief How shared memory is accessed, as far as bank conflicts are told apart. */
enum class SharedAccess : uint8_t { kLoad, kStore, kCopy, kLdmatrix };
constexpr int32_t kSharedAccesses = 4;

struct Statistics {
  int64_t ctas = 0;
  int64_t threads = 0;
  int64_t mma_m16n8k16 = 0;  //!< of a warp, as all collectives
  int64_t mma_m16n8k32_s8 = 0;
  int64_t ldmatrix = 0;
  int64_t cp_async_4 = 0;  //!< of a thread
  int64_t cp_async_8 = 0;
  int64_t cp_async_16 = 0;
  int64_t barriers = 0;
  int64_t warp_barriers = 0;
  int64_t global_read_bytes = 0;
  int64_t global_write_bytes = 0;
  int64_t bank_conflicts[kSharedAccesses] = {};  //!< wavefronts beyond the fewest possible
  int32_t shared_bytes_per_cta = 0;              //!< the most of all launches

  std::string to_json() const;
};

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
