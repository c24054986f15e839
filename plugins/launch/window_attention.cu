/*!
 * \file
 * \brief The C interface: check, choose a variant, plan, launch.
 */
#include <stdint.h>

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

/*! \brief Plan a variant, or the first one that can serve the problem if its id is 0. */
int32_t choose_plan(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem,
                    int32_t variant_id, Plan& plan, Message const& message) {
  DeviceSize const device = current_device_size();
  if (variant_id != 0) return make_plan(attributes, problem, variant_id, device, plan, message);
  VariantId ids[kMaxVariants];
  int32_t const count = order_variants(attributes, problem, ids);
  int32_t status = EDGEATTN_INVALID_ARGUMENT;
  for (int32_t i = 0; i < count && status != EDGEATTN_SUCCESS; ++i) {
    status = make_plan(attributes, problem, ids[i], device, plan, message);
  }
  return status;
}

int32_t run(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem,
            EdgeattnTensors const& tensors, int32_t variant_id, void* stream,
            Message const& message) {
  Plan plan;
  if (int32_t const status = choose_plan(attributes, problem, variant_id, plan, message)) {
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
  edgeattn::DeviceSize const device = edgeattn::current_device_size();
  edgeattn::VariantId ordered[edgeattn::kMaxVariants];
  int32_t const candidates = edgeattn::order_variants(*attributes, *problem, ordered);
  int32_t count = 0;
  for (int32_t i = 0; i < candidates; ++i) {
    edgeattn::Plan plan;
    if (edgeattn::make_plan(*attributes, *problem, ordered[i], device, plan, silent) != 0) continue;
    if (ids != nullptr && count < capacity) ids[count] = ordered[i];
    ++count;
  }
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
