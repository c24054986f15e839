/*!
 * \file
 * \brief 16-bit floating-point numbers as bits, and their conversions, on the device and on the
 * host alike.
 *
 * All conversions round to nearest, ties to even; what is too large becomes infinite, and every NaN
 * becomes 0x7fff, as `cvt.rn` of the PTX ISA has it.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#include "edgeattn/platform.h"

namespace edgeattn {

struct half_t {
  uint16_t bits;  //!< IEEE binary16: 1 sign, 5 exponent, 10 fraction bits
};

struct bf16_t {
  uint16_t bits;  //!< the upper half of an IEEE binary32
};

/*! \brief The bits of a float as an integer. */
EDGEATTN_HOST_DEVICE uint32_t float_as_uint(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

/*! \brief The float that has these bits. */
EDGEATTN_HOST_DEVICE float uint_as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

EDGEATTN_HOST_DEVICE float to_float(float value) { return value; }

EDGEATTN_HOST_DEVICE float to_float(bf16_t value) {
  return uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}

EDGEATTN_HOST_DEVICE float to_float(half_t value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  // The exponent's bias is 127 instead of 15: a multiplication by 2^112, which is exact and also
  // normalises subnormal numbers.
  float const magnitude = uint_as_float((value.bits & 0x7fffu) << 13) * 0x1p112f;
  uint32_t const special = (value.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  uint32_t const sign = (value.bits & 0x8000u) << 16;
  return uint_as_float(float_as_uint(magnitude) | special | sign);
#endif
}

/*! \brief Round a float to a 16-bit type, or keep it as it is. */
template <typename T>
EDGEATTN_HOST_DEVICE T from_float(float value);

template <>
EDGEATTN_HOST_DEVICE float from_float<float>(float value) {
  return value;
}

template <>
EDGEATTN_HOST_DEVICE half_t from_float<half_t>(float value) {
#if defined(__CUDA_ARCH__)
  half_t result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  uint32_t const bits = float_as_uint(value);
  uint32_t const magnitude = bits & 0x7fffffffu;
  uint32_t const sign = (bits >> 16) & 0x8000u;
  if (magnitude > 0x7f800000u) return {0x7fffu};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // >= 65520
  if (magnitude < 0x38800000u) {  // < 2^-14, subnormal: adding 0.5 leaves multiples of 2^-24
    uint32_t const fraction = float_as_uint(uint_as_float(magnitude) + 0.5f) - 0x3f000000u;
    return {static_cast<uint16_t>(sign | fraction)};
  }
  uint32_t const odd = (magnitude >> 13) & 1u;
  return {static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13))};
#endif
}

template <>
EDGEATTN_HOST_DEVICE bf16_t from_float<bf16_t>(float value) {
#if defined(__CUDA_ARCH__)
  bf16_t result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  uint32_t const bits = float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fffu};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}

/*! \brief Round two floats and put them into one register, `low` in its lower half. */
template <typename T>
EDGEATTN_HOST_DEVICE uint32_t pack2(float low, float high) {
  static_assert(sizeof(T) == 2, "two 16-bit numbers make a register");
  return static_cast<uint32_t>(from_float<T>(low).bits) |
         static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

#if defined(__CUDA_ARCH__)
template <>
EDGEATTN_HOST_DEVICE uint32_t pack2<half_t>(float low, float high) {
  uint32_t result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

template <>
EDGEATTN_HOST_DEVICE uint32_t pack2<bf16_t>(float low, float high) {
  uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}
#endif

}  // namespace edgeattn
