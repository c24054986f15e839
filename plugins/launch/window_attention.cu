/*!
 * \file
 * \brief The C interface: check, choose a variant, plan, launch.
 */
#include <stdint.h>

#include <utility>

#include "check.h"
#include "edgeattn/edgeattn.h"
#include "edgeattn/launch.h"
#include "edgeattn/scalars.h"
#include "kernels.h"
#include "plan.h"

namespace edgeattn {
namespace {

template <typename T>
AttentionKernel fused_kernel_for(int32_t head_dim, VariantId id, bool one_chunk) {
  switch (padded_head_dim(head_dim)) {
    case 32:
      return fused_kernel<T, 32>(id, one_chunk);
    case 64:
      return fused_kernel<T, 64>(id, one_chunk);
    case 96:
      return fused_kernel<T, 96>(id, one_chunk);
    case 128:
      return fused_kernel<T, 128>(id, one_chunk);
  }
  return nullptr;
}

AttentionKernel kernel_for(int32_t in_type, int32_t head_dim, VariantId id, bool one_chunk) {
  switch (in_type) {
    case EDGEATTN_FLOAT32:
      return plain_kernel(head_dim);
    case EDGEATTN_FLOAT16:
      return fused_kernel_for<half_t>(head_dim, id, one_chunk);
    case EDGEATTN_BFLOAT16:
      return fused_kernel_for<bf16_t>(head_dim, id, one_chunk);
    case EDGEATTN_INT8:
      return fused_kernel_for<int8_t>(head_dim, id, one_chunk);
  }
  return nullptr;
}

constexpr int32_t kMaxVariants = 4;

/*! \brief Whether every window of a plan is one tile of queries. */
bool has_small_windows_alone(AttentionParams const& params) {
  for (int32_t g = 0; g < params.num_groups; ++g) {
    if (params.groups[g].rows.queries * params.groups[g].cols.queries > 16) return false;
  }
  return true;
}

/*! \brief Order the variants that can serve a problem by how fast they should be.
 *
 * Tiles of 32 queries read K and V from shared memory half as often; windows of 16 tokens would
 * fill only half of such a tile.
 *  \return How many there are. */
int32_t rank_variants(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem,
                      VariantId (&ids)[kMaxVariants]) {
  if (problem.in_type == EDGEATTN_FLOAT32) {
    ids[0] = kPlain;
    return 1;
  }
  int32_t count = 0;
  bool small_windows = false;
  Plan plan;
  for (VariantId const id : {kWideTiles, kSmallTiles, kOnePass, kStreamed}) {
    if (make_plan(attributes, problem, id, current_device_size(), plan, Message(nullptr, 0)) != 0)
      continue;
    small_windows = has_small_windows_alone(plan.params);
    ids[count++] = id;
  }
  if (small_windows && count > 1 && ids[1] == kSmallTiles) std::swap(ids[0], ids[1]);
  return count;
}

/*! \brief The memory that a launch may touch. */
struct Regions {
  MemoryRegion region[5];
  int32_t count = 0;

  void add(void const* begin, int64_t bytes, bool writable, char const* name) {
    region[count++] = {begin, bytes, writable, name};
  }
};

constexpr int32_t kElementBytes[] = {4, 2, 2, 1};  // by EdgeattnType

Regions regions_of(AttentionParams const& params, EdgeattnProblem const& problem) {
  int64_t const tokens = int64_t{params.batch} * params.height * params.width;
  HeadGroup const& last = params.groups[params.num_groups - 1];
  int64_t bias_entries = last.bias_offset;
  bias_entries += int64_t{last.num_heads} * (2 * last.rows.window - 1) * (2 * last.cols.window - 1);
  Regions regions;
  regions.add(params.qkv, tokens * params.token_stride * kElementBytes[problem.in_type], false,
              "qkv");
  if (params.bias_table != nullptr) {
    regions.add(params.bias_table, bias_entries * 4, false, "bias_table");
  }
  if (params.pad_kv != nullptr) {
    regions.add(params.pad_kv, int64_t{8} * params.qkv_heads * params.head_dim, false, "pad_kv");
  }
  if (params.logit_scale != nullptr) {
    regions.add(params.logit_scale, int64_t{4} * params.qkv_heads, false, "logit_scale");
  }
  regions.add(params.out, tokens * params.out_token_stride * kElementBytes[problem.out_type], true,
              "out");
  return regions;
}

int32_t run(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem,
            EdgeattnTensors const& tensors, int32_t variant_id, void* stream,
            Message const& message) {
  if (variant_id == 0) {
    VariantId ids[kMaxVariants];
    if (rank_variants(attributes, problem, ids) > 0) variant_id = ids[0];
  }
  Plan plan;
  if (int32_t const status =
          make_plan(attributes, problem, variant_id, current_device_size(), plan, message)) {
    return status;
  }
  plan.params.qkv = tensors.qkv;
  plan.params.bias_table = attributes.has_bias ? tensors.bias_table : nullptr;
  plan.params.pad_kv = attributes.pad_mode ? tensors.pad_kv : nullptr;
  plan.params.logit_scale = attributes.qk_mode ? tensors.logit_scale : nullptr;
  plan.params.out = tensors.out;
  AttentionKernel const kernel =
      kernel_for(problem.in_type, attributes.head_dim, plan.variant.id, plan.one_chunk);
  Regions const regions = regions_of(plan.params, problem);
  int32_t const status = launch_kernel(kernel, {plan.ctas, kThreads, plan.shared_bytes},
                                       plan.params, stream, regions.region, regions.count);
  if (status != EDGEATTN_SUCCESS) message.set(launch_status_text(status));
  return status;
}

}  // namespace
}  // namespace edgeattn

int32_t edgeattn_check(EdgeattnAttributes const* attributes, int32_t in_type, int32_t out_type,
                       char* message, size_t message_bytes) {
  return edgeattn::check_attributes(attributes, in_type, out_type,
                                    edgeattn::Message(message, message_bytes));
}

int32_t edgeattn_variants(EdgeattnAttributes const* attributes, EdgeattnProblem const* problem,
                          int32_t* ids, int32_t capacity) {
  edgeattn::Message const silent(nullptr, 0);
  if (int32_t const status = edgeattn::check_problem(attributes, problem, silent)) return status;
  edgeattn::VariantId ranked[edgeattn::kMaxVariants];
  int32_t const count = edgeattn::rank_variants(*attributes, *problem, ranked);
  for (int32_t i = 0; ids != nullptr && i < count && i < capacity; ++i) ids[i] = ranked[i];
  return count;
}

int32_t edgeattn_window_attention(EdgeattnAttributes const* attributes,
                                  EdgeattnProblem const* problem, EdgeattnTensors const* tensors,
                                  int32_t variant, void* stream, char* message,
                                  size_t message_bytes) {
  edgeattn::Message const text(message, message_bytes);
  if (int32_t const status = edgeattn::check_problem(attributes, problem, text)) return status;
  if (problem->batch == 0) return EDGEATTN_SUCCESS;
  if (int32_t const status = edgeattn::check_tensors(*attributes, tensors, text)) return status;
  return edgeattn::run(*attributes, *problem, *tensors, variant, stream, text);
}
