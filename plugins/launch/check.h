/*!
 * \file
 * \brief What the kernels refuse, and why.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/edgeattn.h"
#include "message.h"

namespace edgeattn {

/*! \brief Check the attributes for a pair of types.
 *  \return EDGEATTN_SUCCESS or EDGEATTN_INVALID_ARGUMENT, with a message. */
int32_t check_attributes(EdgeattnAttributes const* attributes, int32_t in_type, int32_t out_type,
                         Message const& message);

/*! \brief Check attributes and sizes. */
int32_t check_problem(EdgeattnAttributes const* attributes, EdgeattnProblem const* problem,
                      Message const& message);

/*! \brief Check that the tensors that the attributes call for are there and aligned. */
int32_t check_tensors(EdgeattnAttributes const& attributes, EdgeattnTensors const* tensors,
                      Message const& message);

}  // namespace edgeattn
