/*!
 * \file
 * \brief The relative position bias, from its tables in shared or global memory.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/bias_layout.h"
#include "edgeattn/intrinsics.h"
#include "edgeattn/params.h"

namespace edgeattn {

/*! \brief Where a head of the group has its table in global memory. */
EDGEATTN_DEVICE Global<float const> global_bias_table(AttentionParams const& params,
                                                      HeadGroup const& group, int32_t head) {
  return Global<float const>(params.bias_table) + group.bias_offset +
         static_cast<int64_t>(head) * global_bias_entries(group);
}

/*! \brief Copy the tables of `num_heads` heads, in the units of scores.
 *  \param first_head  in the group. */
EDGEATTN_DEVICE void load_bias_tables(AttentionParams const& params, HeadGroup const& group,
                                      int32_t first_head, int32_t num_heads, Shared<float> to) {
  BiasLayout const layout = bias_layout(group);
  int32_t const table_rows = 2 * group.rows.keys - 1;
  int32_t const floats = shared_bias_floats(group);
  for (int32_t h = 0; h < num_heads; ++h) {
    Global<float const> const from = global_bias_table(params, group, first_head + h);
    for (int32_t row = warp_index(); row < table_rows; row += kWarps) {
      // The row of the global table: distances fall as entries of the shared one rise.
      int32_t const global_row = group.rows.keys - 1 - row + group.rows.window - 1;
      int32_t const global_pitch = 2 * group.cols.window - 1;
      bool const row_exists = global_row >= 0 && global_row < 2 * group.rows.window - 1;
      for (int32_t col = lane_index(); col < layout.pitch; col += 32) {
        int32_t const global_col = group.cols.keys - 1 - col + group.cols.window - 1;
        bool const exists = row_exists && global_col >= 0 && global_col < global_pitch;
        float value = 0.0f;
        if (exists) value = load(from + (global_row * global_pitch + global_col));
        Shared<float> const entry = to + (h * floats + row * layout.pitch + col);
        store(entry, value * params.bias_scale);
        if (layout.second_copy != 0) store(entry + layout.second_copy, value * params.bias_scale);
      }
    }
  }
}

/*! \brief The bias table of one head. */
struct BiasTable {
  BiasSource source;
  Shared<float> shared;        //!< entries in the units of scores, unless source is kGlobalBias
  Global<float const> global;  //!< entries as they are, if source is kGlobalBias
  int32_t last;                //!< the last one of these
  float scale;                 //!< from these to the units of scores
};

/*! \brief The bias between some queries and two neighbouring keys, from shared memory.
 *  \param queries  their rows of the table: its begin and the query's term.
 *  \param keys     the terms of all keys.
 *  \param key      the first of the two, even. */
template <BiasSource kSource, int kQueries>
EDGEATTN_DEVICE void look_up_bias(Shared<float> const (&queries)[kQueries], Shared<int32_t> keys,
                                  int32_t key, float (&bias)[kQueries][2]) {
  static_assert(kSource == kSharedBias || kSource == kSharedBiasPairs, "from shared memory");
  if constexpr (kSource == kSharedBiasPairs) {
    int32_t const term = load(keys + key);
    EDGEATTN_UNROLL
    for (int32_t q = 0; q < kQueries; ++q) {
      Vec8 const pair = load((queries[q] + term).template as<Vec8>());
      bias[q][0] = uint_as_float(pair.word[0]);
      bias[q][1] = uint_as_float(pair.word[1]);
    }
  } else {
    Vec8 const terms = load((keys + key).as<Vec8>());
    EDGEATTN_UNROLL
    for (int32_t q = 0; q < kQueries; ++q) {
      bias[q][0] = load(queries[q] + static_cast<int32_t>(terms.word[0]));
      bias[q][1] = load(queries[q] + static_cast<int32_t>(terms.word[1]));
    }
  }
}

/*! \brief The bias of one query and key, wherever the table is.
 *  \param query, key  their terms. */
template <bool kMayBeGlobal>
EDGEATTN_DEVICE float look_up_bias(BiasTable const& table, int32_t query, int32_t key) {
  int32_t const entry = query + key;
  if (table.source == kNoBias) return 0.0f;
  if (!kMayBeGlobal || table.source != kGlobalBias) return load(table.shared + entry);
  // Neighborhoods meet distances that the table lacks; those keys are masked.
  int32_t const existing = entry < 0 ? 0 : entry < table.last ? entry : table.last;
  return load(table.global + existing) * table.scale;
}

}  // namespace edgeattn
