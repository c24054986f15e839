// The conversions and arithmetic of 16-bit numbers, for Python to compare with other
// implementations over all values.

#include "edgeattn/intrinsics.h"
#include "emulator_testing.h"

extern "C" {

#define EDGEATTN_CONVERSIONS(name, type)                                                         \
  EDGEATTN_API void edgeattn_##name##_to_float(uint16_t const* bits, float* values,              \
                                               int64_t count) {                                  \
    for (int64_t i = 0; i < count; ++i) values[i] = edgeattn::to_float(edgeattn::type{bits[i]}); \
  }                                                                                              \
  EDGEATTN_API void edgeattn_##name##_from_float(float const* values, uint16_t* bits,            \
                                                 int64_t count) {                                \
    for (int64_t i = 0; i < count; ++i)                                                          \
      bits[i] = edgeattn::from_float<edgeattn::type>(values[i]).bits;                            \
  }

EDGEATTN_CONVERSIONS(half, half_t)
EDGEATTN_CONVERSIONS(bf16, bf16_t)

/*! \brief [count] pairs of numbers; the operation is one of "+-*f". */
EDGEATTN_API void edgeattn_half2(char operation, uint32_t const* a, uint32_t const* b,
                                 uint32_t const* c, uint32_t* results, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    switch (operation) {
      case '+':
        results[i] = edgeattn::half2_add(a[i], b[i]);
        break;
      case '-':
        results[i] = edgeattn::half2_sub(a[i], b[i]);
        break;
      case '*':
        results[i] = edgeattn::half2_mul(a[i], b[i]);
        break;
      default:
        results[i] = edgeattn::half2_fma(a[i], b[i], c[i]);
    }
  }
}

}  // extern "C"
