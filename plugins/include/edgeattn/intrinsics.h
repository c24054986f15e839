/*!
 * \file
 * \brief The one door to the hardware. Kernels touch threads, barriers, memory, `cp.async`,
 * `ldmatrix` and `mma` through these names alone, so that the same source runs on the GPU
 * (intrinsics_cuda.h) and, with every access checked, on the CPU (plugins/emulator).
 *
 * Both forms offer, in namespace edgeattn:
 *
 *   thread_index() lane_index() warp_index() cta_index()        1-D; a warp has 32 lanes
 *   sync_cta() sync_warp()                                      barriers; they order memory
 *   shuffle_xor(value, mask) shuffle(value, lane)               float, int32_t, uint32_t
 *   warp_any(predicate) warp_all(predicate)
 *
 *   Global<T>(T*)                                               a pointer to global memory
 *   shared_memory()                                             the CTA's, 128-byte aligned
 *   load(from) store(to, value)                                 1, 2, 4, 8 or 16 bytes, aligned
 *   copy_async<kBytes>(to, from, bytes_read)                    cp.async; zeros after bytes_read
 *   copy_async_commit() copy_async_wait<kPendingGroups>()
 *
 *   ldmatrix_x4(r, row) ldmatrix_x2(r, row) and _trans          lane i gives the address of row i
 *   mma_m16n8k16<T>(d, a, b) mma_m16n8k32_s8(d, a, b)           d += a·b
 *
 *   exp2_approx(x) reciprocal_approx(x) sqrt_rn(x)
 *   float_to_int_rn(x) int_to_float(i)
 *   byte_permute(a, b, selector) pack_int8(a, b, upper)
 *   half2_add(a, b) half2_sub(a, b) half2_mul(a, b) half2_fma(a, b, c)
 *
 * The collectives (shuffles, votes, sync_warp, ldmatrix, mma) are to be reached by all 32 lanes of
 * a warp at the same place, sync_cta by all threads of the CTA. Only barriers order memory: after
 * ldmatrix, too, a warp has to pass one before a lane may overwrite the rows that were read.
 */
#pragma once

#include "edgeattn/platform.h"
#include "edgeattn/scalars.h"

namespace edgeattn {

/*! \brief 8 bytes moved by one instruction. */
struct alignas(8) Vec8 {
  uint32_t word[2];
};

/*! \brief 16 bytes moved by one instruction. */
struct alignas(16) Vec16 {
  uint32_t word[4];
};

}  // namespace edgeattn

#if defined(EDGEATTN_EMULATOR)
#include "../../emulator/intrinsics_emulated.h"
#else
#include "edgeattn/intrinsics_cuda.h"
#endif
