// Single instructions whose results the PTX ISA fixes bit for bit.

#include <cmath>
#include <limits>

#include "edgeattn/intrinsics.h"
#include "emulator_testing.h"

namespace edgeattn::testing {
namespace {

uint32_t twice(uint32_t half) { return half | half << 16; }

EDGEATTN_TEST(byte_permute_picks_bytes_and_replicates_signs) {
  constexpr uint32_t kA = 0x83020100u;
  constexpr uint32_t kB = 0x07060584u;
  EDGEATTN_CHECK(byte_permute(kA, kB, 0x3210) == kA);
  EDGEATTN_CHECK(byte_permute(kA, kB, 0x7654) == kB);
  EDGEATTN_CHECK(byte_permute(kA, kB, 0x4160) == 0x84010600u);
  EDGEATTN_CHECK(byte_permute(kA, kB, 0xbc98) == 0xffff0000u);
  EDGEATTN_CHECK(byte_permute(kA, kB, 0xffff3210) == kA);  // upper bits are not looked at
}

EDGEATTN_TEST(halves_of_a_register_do_not_mix) {
  uint32_t const one_and_minus_two = 0xc0003c00u;
  EDGEATTN_CHECK(half2_add(one_and_minus_two, one_and_minus_two) == 0xc4004000u);
  EDGEATTN_CHECK(half2_sub(one_and_minus_two, 0x3c00u) == 0xc0000000u);
  EDGEATTN_CHECK(half2_mul(one_and_minus_two, one_and_minus_two) == 0x44003c00u);
  EDGEATTN_CHECK(half2_fma(one_and_minus_two, one_and_minus_two, one_and_minus_two) == 0x40004000u);
}

EDGEATTN_TEST(half_results_overflow_and_are_not_numbers_as_on_the_device) {
  EDGEATTN_CHECK(half2_add(twice(0x7bff), twice(0x7bff)) == twice(0x7c00));
  EDGEATTN_CHECK(half2_sub(twice(0x7c00), twice(0x7c00)) == twice(0x7fff));
  EDGEATTN_CHECK(half2_mul(twice(0x0001), twice(0x3800)) == 0u);  // a tie, to even
  EDGEATTN_CHECK(half2_mul(twice(0x0003), twice(0x3800)) == twice(0x0002));
  EDGEATTN_CHECK(half2_add(twice(0x8000), twice(0x8000)) == twice(0x8000));
  EDGEATTN_CHECK(half2_add(twice(0x8000), 0u) == 0u);
}

// Sums next to a tie between two half_t, which a float on the way would round onto the tie.
EDGEATTN_TEST(half_results_are_rounded_once) {
  // 3 * 683 / 2^11 = 1 + 2^-11, a tie of 1 and 1 + 2^-10; the smallest subnormal decides.
  EDGEATTN_CHECK(half2_fma(twice(0x4200), twice(0x3556), twice(0x0000)) == twice(0x3c00));
  EDGEATTN_CHECK(half2_fma(twice(0x4200), twice(0x3556), twice(0x0001)) == twice(0x3c01));
  EDGEATTN_CHECK(half2_fma(twice(0x4200), twice(0x3556), twice(0x8001)) == twice(0x3c00));
  // 2^-5 (1 + 2^-10) * 2^-6 (1 - 2^-10) = 2^-11 - 2^-31, and half a step are 2^-11.
  EDGEATTN_CHECK(half2_fma(twice(0x2801), twice(0x23fe), twice(0x3c01)) == twice(0x3c01));
  // 2048 + 1 is a tie of 2048 and 2050; 1 + 2^-10 is above it.
  EDGEATTN_CHECK(half2_add(twice(0x6800), twice(0x3c00)) == twice(0x6800));
  EDGEATTN_CHECK(half2_add(twice(0x6800), twice(0x3c01)) == twice(0x6801));
}

EDGEATTN_TEST(floats_round_to_integers_half_to_even_and_saturate) {
  EDGEATTN_CHECK(float_to_int_rn(0.5f) == 0);
  EDGEATTN_CHECK(float_to_int_rn(1.5f) == 2);
  EDGEATTN_CHECK(float_to_int_rn(-2.5f) == -2);
  EDGEATTN_CHECK(float_to_int_rn(-2.51f) == -3);
  EDGEATTN_CHECK(float_to_int_rn(3e9f) == std::numeric_limits<int32_t>::max());
  EDGEATTN_CHECK(float_to_int_rn(-3e9f) == std::numeric_limits<int32_t>::min());
  EDGEATTN_CHECK(float_to_int_rn(-0x1p31f) == std::numeric_limits<int32_t>::min());
  EDGEATTN_CHECK(float_to_int_rn(std::nanf("")) == 0);
  EDGEATTN_CHECK(int_to_float((1 << 24) + 1) == 0x1p24f);
}

EDGEATTN_TEST(approximations_flush_subnormal_numbers) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EDGEATTN_CHECK(exp2_approx(-kInfinity) == 0.0f);
  EDGEATTN_CHECK(exp2_approx(-126.0f) == 0x1p-126f);
  EDGEATTN_CHECK(exp2_approx(-126.5f) == 0.0f);
  EDGEATTN_CHECK(exp2_approx(0.0f) == 1.0f);
  EDGEATTN_CHECK(std::abs(exp2_approx(0.5f) - 1.41421356f) < 2e-7f);
  EDGEATTN_CHECK(reciprocal_approx(4.0f) == 0.25f);
  EDGEATTN_CHECK(reciprocal_approx(0.0f) == kInfinity);
  EDGEATTN_CHECK(reciprocal_approx(0x1p-127f) == kInfinity);
  EDGEATTN_CHECK(reciprocal_approx(0x1p127f) == 0.0f);
  EDGEATTN_CHECK(sqrt_rn(2.0f) == 1.41421354f);
}

EDGEATTN_TEST(pairs_of_16_bit_numbers_have_the_first_in_the_low_half) {
  EDGEATTN_CHECK(pack2<half_t>(1.0f, -2.0f) == 0xc0003c00u);
  EDGEATTN_CHECK(pack2<bf16_t>(1.0f, -2.0f) == 0xc0003f80u);
}

}  // namespace
}  // namespace edgeattn::testing
