#include <math.h>

#include "edgeattn/scalars.h"
#include "runtime.h"

namespace edgeattn::emulator {

namespace {

// Rounds to float such that rounding on to half_t is as rounding at once: to the neighbour whose
// last bit is 1 where inexact (Boldo and Melquiond, "When double rounding is odd", 2005).
float round_to_odd(double value) {
  float result = static_cast<float>(value);
  double const error = value - static_cast<double>(result);
  if (error == 0.0 || !isfinite(result) || (float_as_uint(result) & 1u) != 0) return result;
  return nextafterf(result, error > 0.0 ? INFINITY : -INFINITY);
}

template <typename F>
uint32_t for_both_halves(F f) {
  uint32_t const low = from_float<half_t>(f(0)).bits;
  uint32_t const high = from_float<half_t>(f(16)).bits;
  return low | high << 16;
}

double half_at(uint32_t pair, int32_t shift) {
  return static_cast<double>(to_float(half_t{static_cast<uint16_t>(pair >> shift)}));
}

}  // namespace

float flush_subnormal(float x) { return fpclassify(x) == FP_SUBNORMAL ? copysignf(0.0f, x) : x; }

// PTX ISA, cvt: to integers, values out of range saturate and NaN becomes 0.
int32_t float_to_int_rn(float x) {
  if (isnan(x)) return 0;
  if (x >= 0x1p31f) return INT32_MAX;
  if (x < -0x1p31f) return INT32_MIN;
  return static_cast<int32_t>(rintf(x));
}

// PTX ISA, prmt, the generic form.
uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint64_t const bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int32_t i = 0; i < 4; ++i) {
    uint32_t const control = selector >> (4 * i);
    uint32_t byte = static_cast<uint32_t>(bytes >> (control & 7u) * 8) & 0xffu;
    if ((control & 8u) != 0) byte = (byte & 0x80u) != 0 ? 0xffu : 0u;
    result |= byte << (8 * i);
  }
  return result;
}

uint32_t pack_int8(int32_t a, int32_t b, uint32_t upper) {
  auto const saturated = [](int32_t x) {
    return static_cast<uint32_t>(x < -128 ? -128 : x > 127 ? 127 : x) & 0xffu;
  };
  return upper << 16 | saturated(a) << 8 | saturated(b);
}

uint32_t half2_add(uint32_t a, uint32_t b) {
  return for_both_halves([&](int32_t shift) {
    return round_to_odd(half_at(a, shift) + half_at(b, shift));  // the sum is exact: 41 bits
  });
}

uint32_t half2_mul(uint32_t a, uint32_t b) {
  return for_both_halves([&](int32_t shift) {
    return static_cast<float>(half_at(a, shift) * half_at(b, shift));  // exact: 22 bits
  });
}

// The sum is exact, unless its parts are so far apart that the larger one is the result anyway.
uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
  return for_both_halves([&](int32_t shift) {
    return round_to_odd(half_at(a, shift) * half_at(b, shift) + half_at(c, shift));
  });
}

}  // namespace edgeattn::emulator
