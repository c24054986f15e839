#include "plan.h"

#include <math.h>

#include <algorithm>

#include "cut.h"
#include "edgeattn/axis_plan.h"
#include "edgeattn/token_rows.h"
#include "limits.h"
#include "step_plan.h"

namespace edgeattn {
namespace {

// Groups

/*! \brief Where the group looks up its bias, if there is one: in shared memory if it fits. */
BiasSource choose_bias(HeadGroup group, Cut const& cut, int32_t max_bytes) {
  if (cut.variant.id == kPlain) return kGlobalBias;
  int64_t const entries = int64_t{4} * group.rows.keys * group.cols.keys;  // and a few less
  if (entries * 4 > max_bytes) return kGlobalBias;
  for (BiasSource const source : {kSharedBiasPairs, kSharedBias}) {
    if (source == kSharedBiasPairs && group.cols.keys % 2 != 0) continue;
    group.bias = source;
    if (cut.shared_bytes(group) <= max_bytes) return source;
  }
  return kGlobalBias;
}

/*! Queries that share their keys in a tile of the resident kernel's neighborhoods. */
constexpr int32_t kResidentTileQueries = 64;

void plan_axes(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem, int32_t g,
               Cut const& cut, HeadGroup& group) {
  int32_t const length[2] = {problem.height, problem.width};
  int32_t const* const window = attributes.group_window + 2 * g;
  if (group.mode != kNeighborhood) {
    int32_t const* const shift = attributes.group_shift + 2 * g;
    Mode const mode = static_cast<Mode>(group.mode);
    group.rows = plan_window_axis(length[0], window[0], shift[0], mode);
    group.cols = plan_window_axis(length[1], window[1], shift[1], mode);
    return;
  }
  int32_t const tile_queries = cut.is_resident() ? kResidentTileQueries : cut.block_queries;
  Axis axis[2];
  plan_neighborhood_axes(length, window, attributes.group_dilation + 2 * g, tile_queries, axis);
  group.rows = axis[0];
  group.cols = axis[1];
}

/*! \brief Queries and keys of the largest windows, as the resident kernel has them. */
struct LargestWindow {
  int64_t queries;
  int64_t keys;
};

LargestWindow largest_window(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem) {
  Cut const resident{};
  LargestWindow largest{0, 0};
  for (int32_t g = 0; g < attributes.num_groups; ++g) {
    HeadGroup group{};
    group.mode = static_cast<int8_t>(attributes.group_mode[g]);
    plan_axes(attributes, problem, g, resident, group);
    largest.queries = std::max(largest.queries, int64_t{group.rows.queries} * group.cols.queries);
    largest.keys = std::max(largest.keys, int64_t{group.rows.keys} * group.cols.keys);
  }
  return largest;
}

int32_t check_sizes(HeadGroup const& group, int32_t g, Message const& message) {
  int64_t const keys = int64_t{group.rows.keys} * group.cols.keys;
  if (keys > kMaxWindowTokens) {
    return message.refuse(
        "a window of head group %d holds %d x %d keys; expected at most %d; use a smaller window",
        g, group.rows.keys, group.cols.keys, kMaxWindowTokens);
  }
  if (group.mode == kNeighborhood && std::max(group.rows.keys, group.cols.keys) > kMaxBoxKeys) {
    return message.refuse(
        "queries of head group %d see %d x %d keys; expected at most %d on an axis in neighborhood "
        "mode; use a smaller window",
        g, group.rows.keys, group.cols.keys, kMaxBoxKeys);
  }
  return EDGEATTN_SUCCESS;
}

/*! \brief Plan group `g`, but for its place among all groups.
 *  \param windows  receives the windows of the whole batch. */
int32_t plan_group(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem, int32_t g,
                   Cut const& cut, DeviceSize const& device, HeadGroup& group, int64_t& windows,
                   Message const& message) {
  group = HeadGroup{};
  group.head_offset = attributes.group_head_offset[g];
  group.num_heads = static_cast<int16_t>(attributes.group_num_heads[g]);
  group.mode = static_cast<int8_t>(attributes.group_mode[g]);
  group.causal = static_cast<int8_t>(attributes.group_causal[g]);
  plan_axes(attributes, problem, g, cut, group);
  if (int32_t const status = check_sizes(group, g, message)) return status;
  windows = int64_t{group.rows.num_windows} * group.cols.num_windows * problem.batch;
  if (windows > INT32_MAX) {
    return message.refuse("head group %d has %lld windows; expected at most %d; cut the batch", g,
                          static_cast<long long>(windows), INT32_MAX);
  }

  int32_t const max_bytes = max_shared_bytes(device);
  group.item_heads = 1;
  group.step_windows = 1;
  group.item_steps = 1;
  if (attributes.has_bias) group.bias = choose_bias(group, cut, max_bytes);
  if (cut.is_resident()) {
    int32_t const keys = group.rows.keys * group.cols.keys;
    if (!cut.variant.chunked && keys > cut.chunk_keys) {
      return message.refuse(
          "queries of head group %d see %d x %d keys; expected at most %d in variant %d; use "
          "variant %d",
          g, group.rows.keys, group.cols.keys, cut.chunk_keys, cut.variant.id, kStreamed);
    }
    if (group.bias == kGlobalBias || cut.shared_bytes(group) > max_bytes) {
      return message.refuse(
          "a window of head group %d, of %d x %d keys of %d channels, does not fit into %d bytes "
          "of shared memory; expected another variant; use variant %d",
          g, group.rows.keys, group.cols.keys, attributes.head_dim, max_bytes, kStreamed);
    }
    choose_step(group, cut, device, windows);
  }
  group.num_head_blocks = static_cast<int16_t>(ceil_div(group.num_heads, group.item_heads));

  int32_t const queries = group.rows.queries * group.cols.queries;
  group.head_blocks = make_divisor(group.num_head_blocks);
  group.query_blocks = make_divisor(cut.is_resident() ? 1 : ceil_div(queries, cut.block_queries));
  group.windows = make_divisor(group.rows.num_windows * group.cols.num_windows);
  group.window_cols = make_divisor(group.cols.num_windows);
  group.query_cols = make_divisor(group.cols.queries);
  group.key_cols = make_divisor(group.cols.keys);
  return EDGEATTN_SUCCESS;
}

// Scales

constexpr float kLog2E = 1.44269504088896340736f;

/*! \brief The units of scores, see scores.h and window_attention_plain.h. */
void set_scales(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem,
                AttentionParams& params) {
  bool const cosine = attributes.qk_mode != 0;
  float scale = attributes.softmax_scale != 0.0f
                    ? attributes.softmax_scale
                    : 1.0f / sqrtf(static_cast<float>(attributes.head_dim));
  if (problem.in_type == EDGEATTN_INT8) {
    float const step = attributes.qkv_quant_scale;
    scale *= step * step;
    params.pad_quant_scale = step;
    params.out_scale = params.out_is_int8 ? step / attributes.out_quant_scale : step;
  }
  params.mask_value = attributes.mask_value;
  params.bias_scale = 1.0f;
  if (problem.in_type == EDGEATTN_FLOAT32) {
    params.score_scale = cosine ? 1.0f : scale;
  } else if (cosine) {
    params.score_scale = kLog2E;
  } else {
    params.score_scale = scale * kLog2E;
    params.bias_scale = 1.0f / scale;
    params.mask_value *= params.bias_scale;
  }
}

}  // namespace

int32_t make_plan(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem, int32_t id,
                  DeviceSize const& device, Plan& plan, Message const& message) {
  plan = Plan{};
  AttentionParams& params = plan.params;
  bool const by_head = attributes.qkv_layout != 0;  // (Hd, 3, D)
  params.batch = problem.batch;
  params.height = problem.height;
  params.width = problem.width;
  params.head_dim = attributes.head_dim;
  params.qkv_heads = attributes.qkv_heads;
  params.token_stride = 3 * attributes.qkv_heads * attributes.head_dim;
  params.head_stride = by_head ? 3 * attributes.head_dim : attributes.head_dim;
  params.tensor_stride = by_head ? attributes.head_dim : attributes.qkv_heads * attributes.head_dim;
  params.pads_attend = attributes.pad_mode != 0;
  params.shift_pad_order = static_cast<int8_t>(attributes.shift_pad_order);
  params.cosine = attributes.qk_mode != 0;
  params.out_is_int8 = problem.out_type == EDGEATTN_INT8;
  set_scales(attributes, problem, params);

  plan.one_chunk = largest_window(attributes, problem).keys <= kOneChunkKeys;
  plan.variant = find_variant(id, problem.in_type, attributes.head_dim, plan.one_chunk);
  if (plan.variant.id == kNoVariant) {
    return message.refuse("variant is %d; expected 0 or one that edgeattn_variants lists", id);
  }
  Cut const cut = cut_of(attributes, plan.variant);
  params.num_groups = attributes.num_groups;
  int64_t windows[EDGEATTN_MAX_HEAD_GROUPS];
  for (int32_t g = 0; g < params.num_groups; ++g) {
    if (int32_t const status = plan_group(attributes, problem, g, cut, device, params.groups[g],
                                          windows[g], message)) {
      return status;
    }
  }
  if (cut.is_resident() && !cut.variant.chunked) choose_item_steps(cut, device, windows, params);

  int64_t items = 0;
  int32_t out_head = 0;
  int32_t bias_offset = 0;
  for (int32_t g = 0; g < params.num_groups; ++g) {
    HeadGroup& group = params.groups[g];
    group.first_item = static_cast<int32_t>(items);
    group.out_head = out_head;
    group.bias_offset = bias_offset;
    out_head += group.num_heads;
    if (attributes.has_bias) bias_offset += group.num_heads * global_bias_entries(group);

    int64_t const item_windows = int64_t{group.step_windows} * group.item_steps;
    int64_t const window_blocks = (windows[g] + item_windows - 1) / item_windows;
    int32_t const queries = group.rows.queries * group.cols.queries;
    int32_t const query_blocks = cut.is_resident() ? 1 : ceil_div(queries, cut.block_queries);
    items += window_blocks * query_blocks * group.num_head_blocks;
    if (items > INT32_MAX) {
      return message.refuse(
          "the heads' windows make %lld work items; expected at most %d; cut the batch",
          static_cast<long long>(items), INT32_MAX);
    }
    plan.shared_bytes = std::max(plan.shared_bytes, cut.shared_bytes(group));
  }
  params.out_token_stride = out_head * attributes.head_dim;
  plan.ctas = static_cast<int32_t>(items);
  return EDGEATTN_SUCCESS;
}

int32_t order_variants(EdgeattnAttributes const& attributes, EdgeattnProblem const& problem,
                       VariantId (&ids)[kMaxVariants]) {
  if (problem.in_type == EDGEATTN_FLOAT32) {
    ids[0] = kPlain;
    return 1;
  }
  // Tiles of 32 queries read K and V from shared memory half as often as those of 16. But windows
  // of 16 tokens would fill only half of such a tile, and with 64 channels its registers leave room
  // for two CTAs on an SM, not four.
  bool const small_tiles =
      attributes.head_dim > 32 || largest_window(attributes, problem).queries <= 16;
  ids[0] = small_tiles ? kSmallTiles : kWideTiles;
  ids[1] = small_tiles ? kWideTiles : kSmallTiles;
  ids[2] = kOnePass;
  ids[3] = kStreamed;
  return kMaxVariants;
}

}  // namespace edgeattn
