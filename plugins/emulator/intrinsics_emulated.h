/*!
 * \file
 * \brief The emulated form of intrinsics.h: the same names, with every access checked.
 *
 * The last argument of a function that may complain is the place of its call; kernels leave it out.
 */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "edgeattn/platform.h"
#include "edgeattn/scalars.h"
#include "place.h"
#include "runtime.h"

namespace edgeattn {

constexpr int32_t kWarpLanes = 32;

EDGEATTN_DEVICE int32_t thread_index() { return emulator::current_thread->index; }
EDGEATTN_DEVICE int32_t lane_index() { return thread_index() % kWarpLanes; }
EDGEATTN_DEVICE int32_t warp_index() { return thread_index() / kWarpLanes; }
EDGEATTN_DEVICE int32_t cta_index() { return emulator::current_thread->cta; }

EDGEATTN_DEVICE void sync_cta(emulator::Place place = emulator::Place::here()) {
  emulator::sync_cta(place);
}

EDGEATTN_DEVICE void sync_warp(emulator::Place place = emulator::Place::here()) {
  emulator::join(emulator::Collective::kSyncWarp, {}, place);
}

namespace detail {

template <typename To, typename From>
EDGEATTN_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename T>
EDGEATTN_DEVICE T exchange(emulator::Collective kind, T value, int32_t argument,
                           emulator::Place place) {
  static_assert(sizeof(T) == 4, "shuffles move float, int32_t or uint32_t");
  T result = value;
  emulator::join(kind, {&result, &value, nullptr, argument}, place);
  return result;
}

}  // namespace detail

template <typename T>
EDGEATTN_DEVICE T shuffle_xor(T value, int32_t lane_mask,
                              emulator::Place place = emulator::Place::here()) {
  return detail::exchange(emulator::Collective::kShuffleXor, value, lane_mask, place);
}

template <typename T>
EDGEATTN_DEVICE T shuffle(T value, int32_t source_lane,
                          emulator::Place place = emulator::Place::here()) {
  return detail::exchange(emulator::Collective::kShuffle, value, source_lane, place);
}

EDGEATTN_DEVICE bool warp_any(bool predicate, emulator::Place place = emulator::Place::here()) {
  return detail::exchange<int32_t>(emulator::Collective::kAny, predicate, 0, place) != 0;
}

EDGEATTN_DEVICE bool warp_all(bool predicate, emulator::Place place = emulator::Place::here()) {
  return detail::exchange<int32_t>(emulator::Collective::kAll, predicate, 0, place) != 0;
}

// Memory

/*! \brief A pointer to global memory that remembers from which region it was derived. */
template <typename T>
class Global {
 public:
  Global() = default;
  explicit Global(T* pointer)
      : address_(reinterpret_cast<uintptr_t>(pointer)), region_(emulator::region_of(address_)) {}
  Global operator+(int64_t elements) const {
    return Global(address_ + static_cast<uintptr_t>(elements) * sizeof(T), region_);
  }
  template <typename U>
  Global<U> as() const {
    static_assert(std::is_const_v<U> || !std::is_const_v<T>, "the memory is read-only");
    return Global<U>(address_, region_);
  }
  explicit operator bool() const { return address_ != 0; }

  Global(uintptr_t address, int32_t region) : address_(address), region_(region) {}
  uintptr_t address() const { return address_; }
  int32_t region() const { return region_; }

 private:
  uintptr_t address_ = 0;
  int32_t region_ = emulator::kNoRegion;
};

/*! \brief A place in the CTA's shared memory. */
template <typename T>
class Shared {
 public:
  Shared() = default;
  explicit Shared(int32_t offset_bytes) : offset_bytes_(offset_bytes) {}
  Shared operator+(int32_t elements) const {
    return Shared(offset_bytes_ + elements * static_cast<int32_t>(sizeof(T)));
  }
  template <typename U>
  Shared<U> as() const {
    return Shared<U>(offset_bytes_);
  }
  int32_t offset_bytes() const { return offset_bytes_; }

 private:
  int32_t offset_bytes_ = -1;
};

EDGEATTN_DEVICE Shared<unsigned char> shared_memory() { return Shared<unsigned char>(0); }

namespace detail {

template <typename T>
constexpr int32_t moved_bytes() {
  constexpr size_t kBytes = sizeof(T);
  static_assert(kBytes == 1 || kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes == 16,
                "one instruction moves 1, 2, 4, 8 or 16 bytes");
  static_assert(std::is_trivially_copyable_v<T>, "values move as bytes");
  return static_cast<int32_t>(kBytes);
}

template <typename T>
EDGEATTN_DEVICE T value_at(void const* from) {
  T value;
  memcpy(&value, from, sizeof(T));
  return value;
}

}  // namespace detail

template <typename T>
EDGEATTN_DEVICE T load(Global<T const> from, emulator::Place place = emulator::Place::here()) {
  return detail::value_at<T>(
      emulator::read_global(from.address(), from.region(), detail::moved_bytes<T>(), place));
}

template <typename T>
EDGEATTN_DEVICE T load(Global<T> from, emulator::Place place = emulator::Place::here()) {
  return load(from.template as<T const>(), place);
}

template <typename T>
EDGEATTN_DEVICE void store(Global<T> to, T value, emulator::Place place = emulator::Place::here()) {
  memcpy(emulator::write_global(to.address(), to.region(), detail::moved_bytes<T>(), place), &value,
         sizeof(T));
}

template <typename T>
EDGEATTN_DEVICE std::remove_const_t<T> load(Shared<T> from,
                                            emulator::Place place = emulator::Place::here()) {
  return detail::value_at<std::remove_const_t<T>>(
      emulator::read_shared(from.offset_bytes(), detail::moved_bytes<T>(), place));
}

template <typename T>
EDGEATTN_DEVICE void store(Shared<T> to, T value, emulator::Place place = emulator::Place::here()) {
  memcpy(emulator::write_shared(to.offset_bytes(), detail::moved_bytes<T>(), place), &value,
         sizeof(T));
}

template <int kBytes>
EDGEATTN_DEVICE void copy_async(Shared<unsigned char> to, Global<unsigned char const> from,
                                int32_t bytes_read,
                                emulator::Place place = emulator::Place::here()) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  emulator::copy_async(to.offset_bytes(), from.address(), from.region(), kBytes, bytes_read, place);
}

EDGEATTN_DEVICE void copy_async_commit() { emulator::copy_async_commit(); }

template <int kPendingGroups>
EDGEATTN_DEVICE void copy_async_wait() {
  emulator::copy_async_wait(kPendingGroups);
}

// Matrices

EDGEATTN_DEVICE void ldmatrix_x4(uint32_t (&r)[4], Shared<unsigned char> row,
                                 emulator::Place place = emulator::Place::here()) {
  emulator::join(emulator::Collective::kLdmatrixX4, {r, nullptr, nullptr, row.offset_bytes()},
                 place);
}

EDGEATTN_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<unsigned char> row,
                                       emulator::Place place = emulator::Place::here()) {
  emulator::join(emulator::Collective::kLdmatrixX4Trans, {r, nullptr, nullptr, row.offset_bytes()},
                 place);
}

EDGEATTN_DEVICE void ldmatrix_x2(uint32_t (&r)[2], Shared<unsigned char> row,
                                 emulator::Place place = emulator::Place::here()) {
  emulator::join(emulator::Collective::kLdmatrixX2, {r, nullptr, nullptr, row.offset_bytes()},
                 place);
}

EDGEATTN_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], Shared<unsigned char> row,
                                       emulator::Place place = emulator::Place::here()) {
  emulator::join(emulator::Collective::kLdmatrixX2Trans, {r, nullptr, nullptr, row.offset_bytes()},
                 place);
}

template <typename T>
EDGEATTN_DEVICE void mma_m16n8k16(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2],
                                  emulator::Place place = emulator::Place::here()) {
  static_assert(std::is_same_v<T, half_t> || std::is_same_v<T, bf16_t>, "half_t or bf16_t");
  constexpr auto kKind =
      std::is_same_v<T, half_t> ? emulator::Collective::kMmaHalf : emulator::Collective::kMmaBf16;
  emulator::join(kKind, {d, a, b, 0}, place);
}

EDGEATTN_DEVICE void mma_m16n8k32_s8(int32_t (&d)[4], uint32_t const (&a)[4],
                                     uint32_t const (&b)[2],
                                     emulator::Place place = emulator::Place::here()) {
  emulator::join(emulator::Collective::kMmaS8, {d, a, b, 0}, place);
}

// Arithmetic

EDGEATTN_DEVICE float exp2_approx(float x) { return emulator::flush_subnormal(exp2f(x)); }

EDGEATTN_DEVICE float reciprocal_approx(float x) {
  return emulator::flush_subnormal(1.0f / emulator::flush_subnormal(x));
}

EDGEATTN_DEVICE float sqrt_rn(float x) { return sqrtf(x); }
EDGEATTN_DEVICE int32_t float_to_int_rn(float x) { return emulator::float_to_int_rn(x); }
EDGEATTN_DEVICE float int_to_float(int32_t x) { return static_cast<float>(x); }

EDGEATTN_DEVICE uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
  return emulator::byte_permute(a, b, selector);
}

EDGEATTN_DEVICE uint32_t pack_int8(int32_t a, int32_t b, uint32_t upper) {
  return emulator::pack_int8(a, b, upper);
}

EDGEATTN_DEVICE uint32_t half2_add(uint32_t a, uint32_t b) { return emulator::half2_add(a, b); }
EDGEATTN_DEVICE uint32_t half2_sub(uint32_t a, uint32_t b) {
  return emulator::half2_add(a, b ^ 0x80008000u);
}
EDGEATTN_DEVICE uint32_t half2_mul(uint32_t a, uint32_t b) { return emulator::half2_mul(a, b); }
EDGEATTN_DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
  return emulator::half2_fma(a, b, c);
}

}  // namespace edgeattn
