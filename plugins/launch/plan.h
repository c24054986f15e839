/*!
 * \file
 * \brief From attributes and sizes to the parameters of a launch.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/device_size.h"
#include "edgeattn/edgeattn.h"
#include "edgeattn/params.h"
#include "message.h"
#include "variants.h"

namespace edgeattn {

/*! \brief A launch, but for the tensors' addresses. */
struct Plan {
  AttentionParams params;
  Variant variant;
  bool one_chunk;  //!< the kernel for windows of up to 64 keys
  int32_t ctas;
  int32_t shared_bytes;
};

/*! \brief Plan a variant for a problem that passed `check_problem`.
 *  \param id      of a variant.
 *  \param device  what items are made for: as many as run at a time.
 *  \return EDGEATTN_SUCCESS; or EDGEATTN_INVALID_ARGUMENT if the variant cannot serve it, with a
 *  message. */
int32_t make_plan(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem, int32_t id,
                  DeviceSize const& device, Plan& plan, Message const& message);

constexpr int32_t kMaxVariants = 4;

/*! \brief Order the variants by how fast they should be, whether or not they can serve the problem.
 *  \return How many there are. */
int32_t order_variants(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem,
                       VariantId (&ids)[kMaxVariants]);

}  // namespace edgeattn
