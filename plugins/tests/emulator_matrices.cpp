// mma and ldmatrix against plain matrices. Where an element of a fragment stands is written here
// once more, index by index as the PTX ISA has it, and shares nothing with the emulator.

#include <string.h>

#include <cmath>
#include <limits>
#include <random>

#include "edgeattn/intrinsics.h"
#include "emulator_testing.h"

namespace edgeattn::testing {
namespace {

constexpr int32_t kLanes = 32;
constexpr int32_t kRows = 16;
constexpr int32_t kColumns = 8;

struct Position {
  int32_t row;
  int32_t column;
};

// PTX ISA 9.2, section 9.7.14.5.8: multiplicand A of m16n8k16, a_i for i = 0 … 7.
Position a_position_16(int32_t lane, int32_t i) {
  int32_t const group_id = lane >> 2;
  int32_t const thread_id_in_group = lane % 4;
  int32_t const row = (0 <= i && i < 2) || (4 <= i && i < 6) ? group_id : group_id + 8;
  int32_t const column = thread_id_in_group * 2 + (i & 0x1) + (i >= 4 ? 8 : 0);
  return {row, column};
}

// The same section: multiplicand B, b_i for i = 0 … 3.
Position b_position_16(int32_t lane, int32_t i) {
  int32_t const group_id = lane >> 2;
  int32_t const thread_id_in_group = lane % 4;
  return {thread_id_in_group * 2 + (i & 0x1) + (i >= 2 ? 8 : 0), group_id};
}

// Section 9.7.14.5.10: multiplicand A of m16n8k32, a_i for i = 0 … 15.
Position a_position_32(int32_t lane, int32_t i) {
  int32_t const group_id = lane >> 2;
  int32_t const thread_id_in_group = lane % 4;
  int32_t const row = (0 <= i && i < 4) || (8 <= i && i < 12) ? group_id : group_id + 8;
  int32_t const column = thread_id_in_group * 4 + (i & 0x3) + (i >= 8 ? 16 : 0);
  return {row, column};
}

// The same section: multiplicand B, b_i for i = 0 … 7.
Position b_position_32(int32_t lane, int32_t i) {
  int32_t const group_id = lane >> 2;
  int32_t const thread_id_in_group = lane % 4;
  return {thread_id_in_group * 4 + (i & 0x3) + (i >= 4 ? 16 : 0), group_id};
}

// Both sections: accumulator C, c_i for i = 0 … 3.
Position c_position(int32_t lane, int32_t i) {
  int32_t const group_id = lane >> 2;
  int32_t const thread_id_in_group = lane % 4;
  return {i < 2 ? group_id : group_id + 8, thread_id_in_group * 2 + (i & 0x1)};
}

// Registers of a warp, filled and read by the host.
template <typename Sum>
struct Registers {
  uint32_t a[kLanes][4];
  uint32_t b[kLanes][2];
  Sum d[kLanes][4];
};

template <typename T, typename Sum>
EDGEATTN_KERNEL void mma_kernel(Registers<Sum>* registers) {
  int32_t const lane = lane_index();
  if constexpr (std::is_same_v<T, int8_t>) {
    mma_m16n8k32_s8(registers->d[lane], registers->a[lane], registers->b[lane]);
  } else {
    mma_m16n8k16<T>(registers->d[lane], registers->a[lane], registers->b[lane]);
  }
}

template <typename T, int32_t kDepth>
struct Problem {
  T a[kRows][kDepth];
  T b[kDepth][kColumns];
};

// Puts the matrices where the ISA says, multiplies, and gives D.
template <typename Sum, typename T, int32_t kDepth>
void multiply(Problem<T, kDepth> const& problem, Sum (&d)[kRows][kColumns]) {
  constexpr bool kIntegers = kDepth == 32;
  constexpr int32_t kPerRegister = static_cast<int32_t>(4 / sizeof(T));
  Registers<Sum> registers;
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    T a[4 * kPerRegister];
    T b[2 * kPerRegister];
    for (int32_t i = 0; i < 4 * kPerRegister; ++i) {
      Position const at = kIntegers ? a_position_32(lane, i) : a_position_16(lane, i);
      a[i] = problem.a[at.row][at.column];
    }
    for (int32_t i = 0; i < 2 * kPerRegister; ++i) {
      Position const at = kIntegers ? b_position_32(lane, i) : b_position_16(lane, i);
      b[i] = problem.b[at.row][at.column];
    }
    memcpy(registers.a[lane], a, sizeof(a));
    memcpy(registers.b[lane], b, sizeof(b));
    for (int32_t i = 0; i < 4; ++i) {
      Position const at = c_position(lane, i);
      registers.d[lane][i] = d[at.row][at.column];
    }
  }
  Outcome const outcome = run(mma_kernel<T, Sum>, &registers, {1, 32, 0});
  EDGEATTN_CHECK(outcome.status == 0);
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    for (int32_t i = 0; i < 4; ++i) {
      Position const at = c_position(lane, i);
      d[at.row][at.column] = registers.d[lane][i];
    }
  }
}

double as_double(half_t value) { return static_cast<double>(to_float(value)); }
double as_double(bf16_t value) { return static_cast<double>(to_float(value)); }

// Products of numbers with few bits, and sums of them, are exact in any order.
template <typename T>
void check_exact_products() {
  std::mt19937 random(1);
  std::uniform_int_distribution<int32_t> small(-15, 15);
  Problem<T, 16> problem;
  float d[kRows][kColumns];
  double expected[kRows][kColumns];
  for (auto& row : problem.a) {
    for (T& element : row) element = from_float<T>(static_cast<float>(small(random)) / 8);
  }
  for (auto& row : problem.b) {
    for (T& element : row) element = from_float<T>(static_cast<float>(small(random)) * 4);
  }
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t column = 0; column < kColumns; ++column) {
      d[row][column] = static_cast<float>(small(random)) / 2;
      expected[row][column] = static_cast<double>(d[row][column]);
      for (int32_t k = 0; k < 16; ++k) {
        expected[row][column] += as_double(problem.a[row][k]) * as_double(problem.b[k][column]);
      }
    }
  }
  multiply(problem, d);
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t column = 0; column < kColumns; ++column) {
      EDGEATTN_CHECK(static_cast<double>(d[row][column]) == expected[row][column]);
    }
  }
}

EDGEATTN_TEST(mma_of_half_is_the_matrix_product) { check_exact_products<half_t>(); }

EDGEATTN_TEST(mma_of_bf16_is_the_matrix_product) { check_exact_products<bf16_t>(); }

EDGEATTN_TEST(mma_takes_subnormal_and_special_numbers) {
  Problem<half_t, 16> problem = {};
  problem.a[0][0] = {0x0001};  // 2^-24
  problem.b[0][0] = {0x0001};
  problem.a[1][2] = {0x7c00};  // infinity
  problem.b[2][1] = {0x3c00};  // 1; the rest of row 1 meets infinity times 0
  float d[kRows][kColumns] = {};
  multiply(problem, d);
  EDGEATTN_CHECK(d[0][0] == 0x1p-48f);
  EDGEATTN_CHECK(std::isinf(d[1][1]));
  EDGEATTN_CHECK(std::isnan(d[1][0]));
  EDGEATTN_CHECK(d[2][1] == 0.0f);
}

EDGEATTN_TEST(mma_of_int8_is_the_matrix_product_and_wraps) {
  std::mt19937 random(2);
  std::uniform_int_distribution<int32_t> any(-128, 127);
  Problem<int8_t, 32> problem;
  int32_t d[kRows][kColumns];
  int64_t expected[kRows][kColumns];
  for (auto& row : problem.a) {
    for (int8_t& element : row) element = static_cast<int8_t>(any(random));
  }
  for (auto& row : problem.b) {
    for (int8_t& element : row) element = static_cast<int8_t>(any(random));
  }
  for (int32_t k = 0; k < 32; ++k) problem.a[3][k] = problem.b[k][5] = -128;
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t column = 0; column < kColumns; ++column) {
      d[row][column] = row == 3 && column == 5 ? std::numeric_limits<int32_t>::max() : any(random);
      expected[row][column] = d[row][column];
      for (int32_t k = 0; k < 32; ++k) {
        expected[row][column] += problem.a[row][k] * problem.b[k][column];
      }
    }
  }
  EDGEATTN_CHECK(expected[3][5] > std::numeric_limits<int32_t>::max());
  multiply(problem, d);
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t column = 0; column < kColumns; ++column) {
      EDGEATTN_CHECK(d[row][column] == static_cast<int32_t>(expected[row][column]));
    }
  }
}

// ldmatrix

constexpr int32_t kMatrices = 4;
constexpr int32_t kSharedBytes = 4096;

struct MatrixLoad {
  bool transposed;
  int32_t matrices;
  uint16_t const (*elements)[8][8];  // [kMatrices]
  int32_t const* row_offsets;        // [kMatrices * 8], bytes
  uint32_t (*registers)[kMatrices];  // [kLanes]
};

EDGEATTN_KERNEL void ldmatrix_kernel(MatrixLoad p) {
  int32_t const lane = lane_index();
  Shared<unsigned char> const shared = shared_memory();
  Shared<unsigned char> const own_row = shared + p.row_offsets[lane];
  for (int32_t i = 0; i < 8; ++i) {
    store(own_row.as<uint16_t>() + i, p.elements[lane / 8][lane % 8][i]);
  }
  sync_warp();
  uint32_t (&all)[4] = p.registers[lane];
  uint32_t two[2];
  // With two matrices, the addresses of lanes 16 to 31 are not looked at.
  Shared<unsigned char> const row = p.matrices == 4 || lane < 16 ? own_row : shared + -7;
  if (p.matrices == 4 && p.transposed) {
    ldmatrix_x4_trans(all, row);
  } else if (p.matrices == 4) {
    ldmatrix_x4(all, row);
  } else if (p.transposed) {
    ldmatrix_x2_trans(two, row);
  } else {
    ldmatrix_x2(two, row);
  }
  if (p.matrices == 2) memcpy(all, two, sizeof(two));
}

EDGEATTN_TEST(ldmatrix_gives_each_lane_its_two_elements_of_each_matrix) {
  uint16_t elements[kMatrices][8][8];
  int32_t row_offsets[kMatrices * 8];
  for (int32_t i = 0; i < kMatrices * 64; ++i) elements[i / 64][i / 8 % 8][i % 8] = 1000 + i;
  // Rows stand anywhere, 16 bytes aligned.
  for (int32_t i = 0; i < kMatrices * 8; ++i) row_offsets[i] = i * 13 % 256 * 16;
  for (bool const transposed : {false, true}) {
    for (int32_t const matrices : {2, 4}) {
      uint32_t registers[kLanes][kMatrices] = {};
      MatrixLoad const params{transposed, matrices, elements, row_offsets, registers};
      EDGEATTN_CHECK_CLEAN(ldmatrix_kernel, params, LaunchShape{1, 32, kSharedBytes}, {});
      for (int32_t lane = 0; lane < kLanes; ++lane) {
        for (int32_t i = 0; i < matrices; ++i) {
          // Section 9.7.14.5.15: a row goes to four consecutive lanes, two elements to each.
          int32_t const row = lane / 4;
          int32_t const column = lane % 4 * 2;
          uint32_t const low = transposed ? elements[i][column][row] : elements[i][row][column];
          uint32_t const high =
              transposed ? elements[i][column + 1][row] : elements[i][row][column + 1];
          EDGEATTN_CHECK(registers[lane][i] == (low | high << 16));
        }
      }
    }
  }
}

// As attention uses both: D = A·Bᵀ with A and B in rows, and E = P·V with V in rows.
struct Product {
  half_t const* left;     // [16, 16]
  half_t const* right;    // [8, 16] or [16, 8]
  bool rows_are_columns;  // right is [8, 16]
  float* out;             // [16, 8]
};

EDGEATTN_KERNEL void product_kernel(Product p) {
  int32_t const lane = lane_index();
  Shared<half_t> const left = shared_memory().as<half_t>();
  Shared<half_t> const right = left + 256;
  for (int32_t i = lane; i < 256; i += kLanes) store(left + i, p.left[i]);
  for (int32_t i = lane; i < 128; i += kLanes) store(right + i, p.right[i]);
  sync_warp();
  uint32_t a[4];
  uint32_t b[2];
  float d[4] = {};
  ldmatrix_x4(a, (left + (lane % 16 * 16 + lane / 16 * 8)).as<unsigned char>());
  if (p.rows_are_columns) {
    ldmatrix_x2(b, (right + (lane % 8 * 16 + lane / 8 % 2 * 8)).as<unsigned char>());
  } else {
    ldmatrix_x2_trans(b, (right + lane % 16 * 8).as<unsigned char>());
  }
  mma_m16n8k16<half_t>(d, a, b);
  for (int32_t i = 0; i < 4; ++i) {
    Position const at = c_position(lane, i);
    p.out[at.row * kColumns + at.column] = d[i];
  }
}

EDGEATTN_TEST(ldmatrix_feeds_mma) {
  std::mt19937 random(3);
  std::uniform_int_distribution<int32_t> small(-9, 9);
  half_t left[256];
  half_t right[128];
  for (half_t& element : left) element = from_float<half_t>(static_cast<float>(small(random)));
  for (half_t& element : right) element = from_float<half_t>(static_cast<float>(small(random)));
  for (bool const rows_are_columns : {true, false}) {
    float out[kRows * kColumns];
    Product const params{left, right, rows_are_columns, out};
    EDGEATTN_CHECK_CLEAN(product_kernel, params, LaunchShape{1, 32, 768}, {});
    for (int32_t row = 0; row < kRows; ++row) {
      for (int32_t column = 0; column < kColumns; ++column) {
        float expected = 0;
        for (int32_t k = 0; k < 16; ++k) {
          half_t const other = rows_are_columns ? right[column * 16 + k] : right[k * 8 + column];
          expected += to_float(left[row * 16 + k]) * to_float(other);
        }
        EDGEATTN_CHECK(out[row * kColumns + column] == expected);
      }
    }
  }
}

}  // namespace
}  // namespace edgeattn::testing
