/*!
 * \file
 * \brief The C functions that libedgeattn_emulator.so has beyond edgeattn.h.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "edgeattn/edgeattn.h"

#ifdef __cplusplus
extern "C" {
#endif

/*! \brief Choose the order in which CTAs and threads take turns; 0, the default, is the natural
 *  one. It holds for the launches that follow. */
EDGEATTN_API void edgeattn_emulator_set_seed(uint64_t seed);

/*! \brief Tell what launches did wrong since the last call, and forget it.
 *  \param text  receives a line for each of the first violations; may be NULL.
 *  \return How many there were; a launch ends early, so a broken one has at most a few. */
EDGEATTN_API int64_t edgeattn_emulator_report(char* text, size_t bytes);

/*! \brief Tell what launches did since the last call, as one JSON object, and forget it.
 *  \param json  receives it, cut off if `bytes` are too few; may be NULL.
 *  \return Its length, without the NUL. */
EDGEATTN_API int64_t edgeattn_emulator_statistics(char* json, size_t bytes);

#ifdef __cplusplus
}  // extern "C"
#endif
