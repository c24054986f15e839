#include "step_plan.h"

#include <algorithm>

#include "limits.h"

namespace edgeattn {
namespace {

/*! \brief CTAs with so much shared memory that share an SM, of those that the registers allow. */
int32_t ctas_of_multiprocessor(Cut const& cut, DeviceSize const& device, int32_t shared_bytes) {
  return std::min(cut.variant.min_ctas, device.shared_bytes / (shared_bytes + kSystemSharedBytes));
}

/*! \brief Steps that all windows of a group make. */
int64_t count_steps(HeadGroup const& group, int64_t windows) {
  int64_t const head_blocks = ceil_div(group.num_heads, group.item_heads);
  return head_blocks * ((windows + group.step_windows - 1) / group.step_windows);
}

/*! \brief How well a choice of heads and windows for a step uses an SM: the share of its warps that
 *  are there and have work; 0 if the choice does not fit. */
double step_value(HeadGroup group, Cut const& cut, DeviceSize const& device, int32_t tiles) {
  if (!cut.variant.chunked) group.item_steps = kRowStages;
  int32_t const shared_bytes = cut.shared_bytes(group);
  if (shared_bytes > max_shared_bytes(device)) return 0.0;
  int32_t const step_tiles = tiles * group.item_heads * group.step_windows;
  double const of_warps = step_tiles / static_cast<double>(ceil_div(step_tiles, kWarps) * kWarps);
  int32_t const head_blocks = ceil_div(group.num_heads, group.item_heads);
  double const of_heads = static_cast<double>(group.num_heads) / (head_blocks * group.item_heads);
  int32_t const ctas = ctas_of_multiprocessor(cut, device, shared_bytes);
  return of_warps * of_heads * ctas / cut.variant.min_ctas;
}

}  // namespace

void choose_step(HeadGroup& group, Cut const& cut, DeviceSize const& device, int64_t windows) {
  int32_t const queries = round_up(group.rows.queries * group.cols.queries, cut.tile_queries);
  int32_t const tiles = queries / cut.tile_queries;
  HeadGroup choice = group;
  double best = 0.0;
  for (int32_t units = 1; units <= kMaxStepUnits; ++units) {
    bool const is_long = units * tiles > kMaxWarpTiles * kWarps;
    for (int32_t heads = 1; heads <= std::min<int32_t>(units, group.num_heads); ++heads) {
      if (units % heads != 0 || units / heads > windows) continue;
      choice.item_heads = static_cast<int8_t>(heads);
      choice.step_windows = static_cast<int16_t>(units / heads);
      bool const has_few_rows = heads > 1 && choice.step_windows * queries < kThreads / 2;
      double const value = step_value(choice, cut, device, tiles);
      bool const is_better = is_long || has_few_rows ? value > best : value >= best;
      if (value == 0.0 || !is_better) continue;
      best = value;
      group.item_heads = choice.item_heads;
      group.step_windows = choice.step_windows;
    }
  }
  // Rather all SMs at work than all warps.
  while (group.step_windows > 1 && count_steps(group, windows) < 2 * device.multiprocessors) {
    group.step_windows /= 2;
  }
}

void choose_item_steps(Cut const& cut, DeviceSize const& device, int64_t const* windows,
                       AttentionParams& params) {
  int64_t steps = 0;
  int32_t shared_bytes = 0;
  for (int32_t g = 0; g < params.num_groups; ++g) {
    HeadGroup group = params.groups[g];
    steps += count_steps(group, windows[g]);
    group.item_steps = kRowStages;
    shared_bytes = std::max(shared_bytes, cut.shared_bytes(group));
  }
  if (shared_bytes > max_shared_bytes(device)) return;
  int32_t const ctas = std::max(ctas_of_multiprocessor(cut, device, shared_bytes), 1);
  int64_t const at_a_time = int64_t{ctas} * device.multiprocessors;
  int64_t const item_steps = (steps + at_a_time - 1) / at_a_time;
  for (int32_t g = 0; g < params.num_groups; ++g) {
    params.groups[g].item_steps =
        static_cast<int16_t>(std::clamp<int64_t>(item_steps, 1, INT16_MAX));
  }
}

}  // namespace edgeattn
