#include "matrix.h"

#include <string.h>

#include <type_traits>

#include "edgeattn/scalars.h"

// The inner loops compile twice on x86-64; both give the same bits (no fused multiply-add).
#if defined(__x86_64__) && defined(__GLIBC__)
#define EDGEATTN_FOR_AVX2 __attribute__((target_clones("default", "avx2")))
#else
#define EDGEATTN_FOR_AVX2
#endif

namespace edgeattn::emulator {

namespace {

constexpr int32_t kLanes = 32;
constexpr int32_t kRows = 16;      // M
constexpr int32_t kColumns = 8;    // N
constexpr int32_t kRowBytes = 32;  // of A, and of a column of B: 16 elements of 2 bytes or 32 of 1

// Fragments, in registers of 4 bytes, after sections 9.7.14.5.8 (m16n8k16 of floating-point
// numbers) and 9.7.14.5.10 (m16n8k32 of integers) of the PTX ISA 9.2. The two differ only in how
// many elements a register holds. With group = lane / 4 and member = lane % 4, register i of
//   A holds row group + 8 (i odd), bytes 4 member + 16 (i >= 2) and following of that row;
//   B holds column group, bytes 4 member + 16 i and following of that column;
// and element i of
//   C stands in row group + 8 (i >= 2), column 2 member + i % 2.

using Row = float __attribute__((vector_size(kColumns * sizeof(float))));

struct Tiles {
  alignas(32) unsigned char a[kRows][kRowBytes];
  alignas(32) unsigned char b[kColumns][kRowBytes];
};

void gather(Operands const* const* lanes, Tiles& tiles) {
  for (int32_t group = 0; group < 8; ++group) {
    for (int32_t member = 0; member < 4; ++member) {
      Operands const& lane = *lanes[4 * group + member];
      unsigned char const* const a = static_cast<unsigned char const*>(lane.a);
      unsigned char const* const b = static_cast<unsigned char const*>(lane.b);
      memcpy(&tiles.a[group][4 * member], a, 4);
      memcpy(&tiles.a[group + 8][4 * member], a + 4, 4);
      memcpy(&tiles.a[group][4 * member + 16], a + 8, 4);
      memcpy(&tiles.a[group + 8][4 * member + 16], a + 12, 4);
      memcpy(&tiles.b[group][4 * member], b, 4);
      memcpy(&tiles.b[group][4 * member + 16], b + 4, 4);
    }
  }
}

// Float holds all elements exactly.
template <typename T>
inline __attribute__((always_inline)) void widen(unsigned char const* bytes, int32_t count,
                                                 float* values) {
  for (int32_t i = 0; i < count; ++i) {
    T element;
    memcpy(&element, bytes + i * sizeof(T), sizeof(T));
    if constexpr (std::is_integral_v<T>) {
      values[i] = static_cast<float>(element);
    } else {
      values[i] = to_float(element);
    }
  }
}

template <typename T>
inline __attribute__((always_inline)) void multiply(Tiles const& tiles,
                                                    float (&d)[kRows][kColumns]) {
  constexpr int32_t kDepth = kRowBytes / static_cast<int32_t>(sizeof(T));  // K
  alignas(32) float a[kRows][kDepth];
  alignas(32) float b[kColumns][kDepth];
  alignas(32) float b_rows[kDepth][kColumns];
  widen<T>(&tiles.a[0][0], kRows * kDepth, &a[0][0]);
  widen<T>(&tiles.b[0][0], kColumns * kDepth, &b[0][0]);
  for (int32_t k = 0; k < kDepth; ++k) {
    for (int32_t column = 0; column < kColumns; ++column) b_rows[k][column] = b[column][k];
  }
  for (int32_t row = 0; row < kRows; ++row) {
    Row sum;
    memcpy(&sum, d[row], sizeof(sum));
    for (int32_t k = 0; k < kDepth; ++k) {
      Row right;
      memcpy(&right, b_rows[k], sizeof(right));
      sum += a[row][k] * right;
    }
    memcpy(d[row], &sum, sizeof(sum));
  }
}

EDGEATTN_FOR_AVX2 void multiply_half(Tiles const& tiles, float (&d)[kRows][kColumns]) {
  multiply<half_t>(tiles, d);
}

EDGEATTN_FOR_AVX2 void multiply_bf16(Tiles const& tiles, float (&d)[kRows][kColumns]) {
  multiply<bf16_t>(tiles, d);
}

// Exact: sums are at most 32 * 128 * 128 = 2^19.
EDGEATTN_FOR_AVX2 void multiply_s8(Tiles const& tiles, float (&d)[kRows][kColumns]) {
  multiply<int8_t>(tiles, d);
}

// Where two neighbouring elements of a lane's fragment of C stand.
struct Pair {
  int32_t lane;
  int32_t element;
  int32_t row;
  int32_t column;
};

template <typename F>
inline __attribute__((always_inline)) void for_each_pair(F f) {
  for (int32_t group = 0; group < 8; ++group) {
    for (int32_t member = 0; member < 4; ++member) {
      f(Pair{4 * group + member, 0, group, 2 * member});
      f(Pair{4 * group + member, 2, group + 8, 2 * member});
    }
  }
}

}  // namespace

void multiply_accumulate(Collective kind, Operands const* const* lanes) {
  Tiles tiles;
  gather(lanes, tiles);
  alignas(32) float d[kRows][kColumns];
  if (kind == Collective::kMmaS8) {
    memset(d, 0, sizeof(d));
    multiply_s8(tiles, d);
    for_each_pair([&](Pair at) {
      uint32_t* const sums = static_cast<uint32_t*>(lanes[at.lane]->d) + at.element;  // they wrap
      sums[0] += static_cast<uint32_t>(static_cast<int32_t>(d[at.row][at.column]));
      sums[1] += static_cast<uint32_t>(static_cast<int32_t>(d[at.row][at.column + 1]));
    });
    return;
  }
  constexpr size_t kPairBytes = 2 * sizeof(float);
  for_each_pair([&](Pair at) {
    memcpy(&d[at.row][at.column], static_cast<float*>(lanes[at.lane]->d) + at.element, kPairBytes);
  });
  if (kind == Collective::kMmaHalf) {
    multiply_half(tiles, d);
  } else {
    multiply_bf16(tiles, d);
  }
  for_each_pair([&](Pair at) {
    memcpy(static_cast<float*>(lanes[at.lane]->d) + at.element, &d[at.row][at.column], kPairBytes);
  });
}

// Section 9.7.14.5.15: lane 4r + c receives elements 2c and 2c + 1 of row r; of the transposed
// matrix with .trans.
void distribute(unsigned char const* const* rows, bool transposed, int32_t register_index,
                Operands const* const* lanes) {
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    int32_t const r = lane / 4;
    int32_t const c = lane % 4;
    uint16_t elements[2];
    if (transposed) {
      memcpy(&elements[0], rows[2 * c] + 2 * r, 2);
      memcpy(&elements[1], rows[2 * c + 1] + 2 * r, 2);
    } else {
      memcpy(elements, rows[r] + 4 * c, 4);
    }
    memcpy(static_cast<uint32_t*>(lanes[lane]->d) + register_index, elements, 4);
  }
}

}  // namespace edgeattn::emulator
