/*!
 * \file
 * \brief How the elements of qkv become the 16-bit numbers that the tensor cores multiply.
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include "edgeattn/intrinsics.h"

namespace edgeattn {

/*! \brief The type of the products: FP16 for INT8, whose integers it holds exactly. */
template <typename T>
struct MathOf {
  using type = T;
};
template <>
struct MathOf<int8_t> {
  using type = half_t;
};
template <typename T>
using Math = typename MathOf<T>::type;

/*! \brief Four INT8 in a register to FP16, exactly: the byte x + 128 is the fraction of the number
 *  1024 + (x + 128). */
EDGEATTN_DEVICE void half_from_int8(uint32_t bytes, uint32_t (&halves)[2]) {
  uint32_t const offset = bytes ^ 0x80808080u;
  halves[0] = half2_sub(byte_permute(offset, 0x64646464u, 0x4140), 0x64806480u);
  halves[1] = half2_sub(byte_permute(offset, 0x64646464u, 0x4342), 0x64806480u);
}

/*! \brief Eight INT8 to eight FP16. */
EDGEATTN_DEVICE Vec16 half_from_int8(uint32_t low, uint32_t high) {
  uint32_t halves[2][2];
  half_from_int8(low, halves[0]);
  half_from_int8(high, halves[1]);
  return {{halves[0][0], halves[0][1], halves[1][0], halves[1][1]}};
}

/*! \brief Round value * factor, of less than 2^22, to nearest, ties to even: adding 1.5 * 2^23
 * leaves no bits for a fraction. */
EDGEATTN_DEVICE int32_t rounded_product(float value, float factor) {
  constexpr int32_t kZero = 0x4b400000;  // the bits of 1.5 * 2^23
  return static_cast<int32_t>(float_as_uint(fmaf(value, factor, 12582912.0f))) - kZero;
}

/*! \brief Saturate four integers to INT8, `a` lowest. */
EDGEATTN_DEVICE uint32_t pack_int8(int32_t a, int32_t b, int32_t c, int32_t d) {
  return pack_int8(b, a, pack_int8(d, c, 0u));
}

/*! \brief Sum of the squares of two 16-bit numbers in a register. */
template <typename T>
EDGEATTN_DEVICE float sum_of_squares(uint32_t pair) {
  float const low = to_float(T{static_cast<uint16_t>(pair & 0xffffu)});
  float const high = to_float(T{static_cast<uint16_t>(pair >> 16)});
  return low * low + high * high;
}

}  // namespace edgeattn
