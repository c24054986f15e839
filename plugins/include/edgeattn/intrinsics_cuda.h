/*!
 * \file
 * \brief The device form of intrinsics.h: thin names for CUDA's built-ins and PTX instructions.
 *
 * Sections of the PTX ISA are numbered as in version 9.2.
 */
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "edgeattn/platform.h"
#include "edgeattn/scalars.h"

namespace edgeattn {

constexpr int32_t kWarpLanes = 32;

EDGEATTN_DEVICE int32_t thread_index() { return static_cast<int32_t>(threadIdx.x); }
// Unsigned division tells the compiler that the results are not negative.
EDGEATTN_DEVICE int32_t lane_index() { return static_cast<int32_t>(threadIdx.x % kWarpLanes); }
EDGEATTN_DEVICE int32_t warp_index() { return static_cast<int32_t>(threadIdx.x / kWarpLanes); }
EDGEATTN_DEVICE int32_t cta_index() { return static_cast<int32_t>(blockIdx.x); }

EDGEATTN_DEVICE void sync_cta() { __syncthreads(); }
EDGEATTN_DEVICE void sync_warp() { __syncwarp(); }

template <typename T>
EDGEATTN_DEVICE T shuffle_xor(T value, int32_t lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

template <typename T>
EDGEATTN_DEVICE T shuffle(T value, int32_t source_lane) {
  return __shfl_sync(0xffffffffu, value, source_lane);
}

EDGEATTN_DEVICE bool warp_any(bool predicate) { return __any_sync(0xffffffffu, predicate) != 0; }
EDGEATTN_DEVICE bool warp_all(bool predicate) { return __all_sync(0xffffffffu, predicate) != 0; }

// Memory

namespace detail {

// The built-in type that one load or store instruction moves.
template <size_t kBytes>
struct WordOf;
template <>
struct WordOf<1> {
  using type = unsigned char;
};
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned int;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};
template <typename T>
using Word = typename WordOf<sizeof(T)>::type;

template <typename To, typename From>
EDGEATTN_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace detail

/*! \brief A pointer to global memory that only load, store and copy_async follow. */
template <typename T>
class Global {
 public:
  Global() = default;
  EDGEATTN_HOST_DEVICE explicit Global(T* pointer) : pointer_(pointer) {}
  EDGEATTN_HOST_DEVICE Global operator+(int64_t elements) const {
    return Global(pointer_ + elements);
  }
  template <typename U>
  EDGEATTN_HOST_DEVICE Global<U> as() const {
    return Global<U>(reinterpret_cast<U*>(pointer_));
  }
  EDGEATTN_HOST_DEVICE explicit operator bool() const { return pointer_ != nullptr; }
  EDGEATTN_HOST_DEVICE T* pointer() const { return pointer_; }

 private:
  T* pointer_;
};

/*! \brief A place in the CTA's shared memory: 32 bits, where a pointer would take 64. */
template <typename T>
class Shared {
 public:
  Shared() = default;
  EDGEATTN_DEVICE explicit Shared(uint32_t address) : address_(address) {}
  EDGEATTN_DEVICE Shared operator+(int32_t elements) const {
    return Shared(address_ + static_cast<uint32_t>(elements) * static_cast<uint32_t>(sizeof(T)));
  }
  template <typename U>
  EDGEATTN_DEVICE Shared<U> as() const {
    return Shared<U>(address_);
  }
  EDGEATTN_DEVICE uint32_t address() const { return address_; }

 private:
  uint32_t address_;
};

EDGEATTN_DEVICE Shared<unsigned char> shared_memory() {
  extern __shared__ __align__(128) unsigned char edgeattn_shared_memory[];
  return Shared<unsigned char>(
      static_cast<uint32_t>(__cvta_generic_to_shared(edgeattn_shared_memory)));
}

/*! \brief Load what no thread writes during the launch (`ld.global.nc`). */
template <typename T>
EDGEATTN_DEVICE T load(Global<T const> from) {
  return detail::bit_cast<T>(__ldg(reinterpret_cast<detail::Word<T> const*>(from.pointer())));
}

template <typename T>
EDGEATTN_DEVICE T load(Global<T> from) {
  return detail::bit_cast<T>(*reinterpret_cast<detail::Word<T> const*>(from.pointer()));
}

template <typename T>
EDGEATTN_DEVICE void store(Global<T> to, T value) {
  auto const word = detail::bit_cast<detail::Word<T>>(value);
  if constexpr (sizeof(T) == 16) {  // nvcc was seen to cut the assignment into four
    asm volatile(
        "st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to.pointer())),
        "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
        : "memory");
  } else {
    *reinterpret_cast<detail::Word<T>*>(to.pointer()) = word;
  }
}

template <typename T>
EDGEATTN_DEVICE std::remove_const_t<T> load(Shared<T> from) {
  void const* const pointer = __cvta_shared_to_generic(from.address());
  return detail::bit_cast<std::remove_const_t<T>>(*static_cast<detail::Word<T> const*>(pointer));
}

template <typename T>
EDGEATTN_DEVICE void store(Shared<T> to, T value) {
  void* const pointer = __cvta_shared_to_generic(to.address());
  *static_cast<detail::Word<T>*>(pointer) = detail::bit_cast<detail::Word<T>>(value);
}

/*! \brief Start copying `bytes_read` bytes (0 to kBytes) and zeros up to kBytes
 *  (PTX ISA, `cp.async`). 16 bytes go past L1; the line's other
 *  sectors come to L2, where neighbouring heads will look for them. */
template <int kBytes>
EDGEATTN_DEVICE void copy_async(Shared<unsigned char> to, Global<unsigned char const> from,
                                int32_t bytes_read) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  size_t const source = __cvta_generic_to_global(from.pointer());
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to.address()),
                 "l"(source), "r"(bytes_read)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to.address()), "l"(source),
                 "n"(kBytes), "r"(bytes_read)
                 : "memory");
  }
}

/*! \brief Make one group of the copies that this thread started since its last commit. */
EDGEATTN_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/*! \brief Wait until at most the kPendingGroups youngest groups of this thread are in flight. */
template <int kPendingGroups>
EDGEATTN_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPendingGroups) : "memory");
}

// Matrices

/*! \brief Load four 8x8 matrices of 16-bit elements; lane 8i + j gives the address of row j of
 *  matrix i (PTX ISA 9.7.14.5.15, `ldmatrix`). */
EDGEATTN_DEVICE void ldmatrix_x4(uint32_t (&r)[4], Shared<unsigned char> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address())
               : "memory");
}

/*! \brief The same, each matrix transposed. */
EDGEATTN_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<unsigned char> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address())
               : "memory");
}

/*! \brief Load two matrices: rows from lanes 0 to 15, the others' addresses are not used. */
EDGEATTN_DEVICE void ldmatrix_x2(uint32_t (&r)[2], Shared<unsigned char> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row.address())
               : "memory");
}

/*! \brief The same, each matrix transposed. */
EDGEATTN_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], Shared<unsigned char> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row.address())
               : "memory");
}

/*! \brief d += a·b: a [16, 16] row-major, b [16, 8] column-major, d [16, 8] in FP32 (PTX ISA
 *  9.7.14.5.8, fragments of `mma.m16n8k16`). */
template <typename T>
EDGEATTN_DEVICE void mma_m16n8k16(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2]) {
  static_assert(std::is_same_v<T, half_t> || std::is_same_v<T, bf16_t>, "half_t or bf16_t");
  if constexpr (std::is_same_v<T, half_t>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

/*! \brief d += a·b in integers: a [16, 32] row-major, b [32, 8] column-major, d [16, 8] (PTX ISA
 *  9.7.14.5.10, fragments of `mma.m16n8k32`). */
EDGEATTN_DEVICE void mma_m16n8k32_s8(int32_t (&d)[4], uint32_t const (&a)[4],
                                     uint32_t const (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Arithmetic

/*! \brief 2^x, at most 2 ulp off; subnormal results are 0. */
EDGEATTN_DEVICE float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/*! \brief 1/x, at most 1 ulp off; subnormal inputs and results count as 0. */
EDGEATTN_DEVICE float reciprocal_approx(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

EDGEATTN_DEVICE float sqrt_rn(float x) { return __fsqrt_rn(x); }

/*! \brief Round to the nearest integer, ties to even; saturating, NaN is 0. */
EDGEATTN_DEVICE int32_t float_to_int_rn(float x) { return __float2int_rn(x); }

EDGEATTN_DEVICE float int_to_float(int32_t x) { return __int2float_rn(x); }

/*! \brief Byte i of the result is the one that nibble i of the selector names: 0 to 3 of a, 4 to 7
 *  of b; with the nibble's top bit, that byte's sign 8 times (PTX ISA, `prmt`). */
EDGEATTN_DEVICE uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
  return result;
}

/*! \brief Saturate to INT8: b in the lowest byte, a above it, the lower half of `upper` above both
 *  (PTX ISA 9.7.9.22, `cvt.pack`). */
EDGEATTN_DEVICE uint32_t pack_int8(int32_t a, int32_t b, uint32_t upper) {
  uint32_t result;
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(upper));
  return result;
}

/*! \brief Two half_t sums in a register. */
EDGEATTN_DEVICE uint32_t half2_add(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

EDGEATTN_DEVICE uint32_t half2_sub(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

EDGEATTN_DEVICE uint32_t half2_mul(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

/*! \brief a·b + c, rounded once. */
EDGEATTN_DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

}  // namespace edgeattn
