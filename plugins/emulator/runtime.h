/*!
 * \file
 * \brief What a kernel calls in the emulator, behind the names of intrinsics_emulated.h.
 */
#pragma once

#include <stdint.h>

#include "place.h"

// Hidden, so that the calls need no indirection in a shared library.
#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief What a kernel asks of the thread that runs it. */
struct ThreadId {
  int32_t index;  //!< in its CTA
  int32_t cta;
};

extern ThreadId* current_thread;

/*! \brief Operations that a warp's lanes carry out together. */
enum class Collective : uint8_t {
  kSyncWarp,
  kShuffleXor,
  kShuffle,
  kAny,
  kAll,
  kLdmatrixX2,
  kLdmatrixX2Trans,
  kLdmatrixX4,
  kLdmatrixX4Trans,
  kMmaHalf,
  kMmaBf16,
  kMmaS8,
};

/*! \brief One lane's part in a collective; the pointers lead into the lane's stack. */
struct Operands {
  void* d;
  void const* a;
  void const* b;
  int32_t argument;  //!< a lane, a mask, or an offset in shared memory
};

/*! \brief Wait for the other lanes of the warp; the last one carries the operation out for all. */
void join(Collective kind, Operands const& operands, Place place);

void sync_cta(Place place);

/*! \brief Check an access to shared memory; gives where to read the bytes, or zeros. */
void const* read_shared(int32_t offset_bytes, int32_t bytes, Place place);

/*! \brief Check an access to shared memory; gives where to write, or a place that nobody reads. */
void* write_shared(int32_t offset_bytes, int32_t bytes, Place place);

constexpr int32_t kNoRegion = -1;

/*! \brief The region that an address lies in or ends, of the launch that is running. */
int32_t region_of(uintptr_t address);

void const* read_global(uintptr_t address, int32_t region, int32_t bytes, Place place);
void* write_global(uintptr_t address, int32_t region, int32_t bytes, Place place);

void copy_async(int32_t to_offset_bytes, uintptr_t from, int32_t region, int32_t bytes,
                int32_t bytes_read, Place place);
void copy_async_commit();
void copy_async_wait(int32_t pending_groups);

// Arithmetic whose result C++ does not define as the PTX ISA does.

float flush_subnormal(float x);
int32_t float_to_int_rn(float x);
uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector);
uint32_t pack_int8(int32_t a, int32_t b, uint32_t upper);
uint32_t half2_add(uint32_t a, uint32_t b);
uint32_t half2_mul(uint32_t a, uint32_t b);
uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c);

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
