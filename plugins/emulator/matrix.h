/*!
 * \file
 * \brief mma as the PTX ISA defines it, on the registers of 32 lanes.
 */
#pragma once

#include <stdint.h>

#include "runtime.h"

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief d += a·b of all lanes, for one of the mma kinds.
 *  \param lanes  [32], each with the addresses of its registers. */
void multiply_accumulate(Collective kind, Operands const* const* lanes);

/*! \brief Give each lane its elements of one 8x8 matrix.
 *  \param rows      [8], 16 bytes each.
 *  \param lanes     [32], each with the address of its registers.
 *  \param register_index  the register that receives this matrix. */
void distribute(unsigned char const* const* rows, bool transposed, int32_t register_index,
                Operands const* const* lanes);

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
