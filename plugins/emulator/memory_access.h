/*!
 * \file
 * \brief Accesses to memory, judged and put into sentences.
 */
#pragma once

#include "machine.h"

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief The 16 bytes that ldmatrix reads at a lane's address, on behalf of its whole warp. */
unsigned char const* read_matrix_row(Thread const& thread, int32_t offset_bytes, Place place);

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
