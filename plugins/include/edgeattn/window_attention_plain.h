/*!
 * \file
 * \brief The FP32 kernel: plain arithmetic, any head_dim up to 256.
 *
 * The reference among the kernels: no tensor cores, no approximate functions. A CTA takes 16
 * queries of one window and head, 4 for each warp, and walks over the keys, 32 at a time, one for
 * each lane.
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include "edgeattn/bias_table.h"
#include "edgeattn/intrinsics.h"
#include "edgeattn/params.h"
#include "edgeattn/shared_layout.h"
#include "edgeattn/token_rows.h"
#include "edgeattn/work_item.h"

namespace edgeattn {

/*! \brief Copy a token's query (tensor 0), key (1) or value (2) of a head, by one warp. */
EDGEATTN_DEVICE void load_plain_row(AttentionParams const& params, int32_t token, int32_t head,
                                    int32_t tensor, Shared<float> to) {
  Global<float const> const of_token =
      Global<float const>(static_cast<float const*>(params.qkv)) +
      (static_cast<int64_t>(token < 0 ? 0 : token) * params.token_stride +
       head * params.head_stride + tensor * params.tensor_stride);
  Global<float const> const of_padding =
      Global<float const>(params.pad_kv) +
      (static_cast<int64_t>(tensor - 1) * params.qkv_heads + head) * params.head_dim;
  for (int32_t d = lane_index(); d < params.head_dim; d += kWarpLanes) {
    float value = 0.0f;
    if (token >= 0) value = load(of_token + d);
    if (token == kPadding && tensor > 0) value = load(of_padding + d);
    store(to + d, value);
  }
}

template <typename T>
EDGEATTN_DEVICE T sum_of_warp(T value) {
  for (int32_t mask = 1; mask < kWarpLanes; mask *= 2) value += shuffle_xor(value, mask);
  return value;
}

EDGEATTN_DEVICE float max_of_warp(float value) {
  for (int32_t mask = 1; mask < kWarpLanes; mask *= 2)
    value = fmaxf(value, shuffle_xor(value, mask));
  return value;
}

/*! \brief 1 / max(length, 1e-12) from the square of a vector's length. */
EDGEATTN_DEVICE float plain_inverse_length(float square) {
  return 1.0f / fmaxf(sqrt_rn(square), 1e-12f);
}

/*! \brief bias + mask of a query and a key: -inf for a key that it does not see. */
EDGEATTN_DEVICE float plain_addend(AttentionParams const& params, HeadGroup const& group,
                                   Global<float const> table, QueryRow const& query,
                                   KeyRow const& key) {
  float addend = 0.0f;
  if (is_outside(key.code, query.low, query.high)) {
    addend = key.code == kNoKey ? -INFINITY : outside_value(params, group);
    if (addend == -INFINITY) return addend;  // the distance may be one that the table lacks
  }
  return group.bias == kNoBias ? addend : addend + load(table + (query.bias + key.bias));
}

/*! \brief Attention in FP32; kLaneChannels * 32 is at least head_dim. */
template <int kLaneChannels>
EDGEATTN_KERNEL void EDGEATTN_LAUNCH_BOUNDS(kThreads, 2)
    window_attention_plain_kernel(EDGEATTN_GRID_CONSTANT AttentionParams const params) {
  WorkItem const item = find_work_item(params, kPlainBlockQueries);
  HeadGroup const& group = item.group;
  int32_t const head = group.head_offset + item.first_head;
  int32_t const lane = lane_index();
  PlainLayout const layout = plain_layout(params.head_dim);
  Shared<float> const keys = shared_memory().as<float>();
  Shared<float> const values = keys + layout.values;
  Shared<float> const queries =
      keys + (layout.queries + warp_index() * kPlainWarpQueries * params.head_dim);
  WindowPlace const place = window_place(group, item.first_window);
  Global<float const> const table = group.bias == kNoBias
                                        ? Global<float const>(params.bias_table)
                                        : global_bias_table(params, group, item.first_head);

  QueryRow query[kPlainWarpQueries];
  float scale[kPlainWarpQueries];
  float largest[kPlainWarpQueries];
  float sum[kPlainWarpQueries];                 // this lane's part
  float out[kPlainWarpQueries][kLaneChannels];  // channels lane, lane + 32, …
  EDGEATTN_UNROLL
  for (int32_t q = 0; q < kPlainWarpQueries; ++q) {
    int32_t const row = warp_index() * kPlainWarpQueries + q;
    query[q] = query_row(params, group, place, item.query_block * kPlainBlockQueries + row);
    load_plain_row(params, query[q].token, head, 0, queries + q * params.head_dim);
    largest[q] = -INFINITY;
    sum[q] = 0.0f;
    EDGEATTN_UNROLL
    for (int32_t i = 0; i < kLaneChannels; ++i) out[q][i] = 0.0f;
  }
  EDGEATTN_UNROLL
  for (int32_t q = 0; q < kPlainWarpQueries; ++q) {
    scale[q] = params.score_scale;
    if (params.cosine) {
      float square = 0.0f;
      for (int32_t d = lane; d < params.head_dim; d += kWarpLanes) {  // what this lane wrote
        float const x = load(queries + (q * params.head_dim + d));
        square += x * x;
      }
      scale[q] = load(Global<float const>(params.logit_scale) + head) *
                 plain_inverse_length(sum_of_warp(square));
    }
  }

  int32_t const num_keys = group.rows.keys * group.cols.keys;
  for (int32_t first = 0; first < num_keys; first += kPlainChunkKeys) {
    KeyRow const key = key_row(params, group, place, first + lane);
    sync_cta();  // all warps are done with the chunk before, whose place is taken now
    for (int32_t row = warp_index(); row < kPlainChunkKeys; row += kWarps) {
      int32_t const token = shuffle(key.token, row);
      load_plain_row(params, token, head, 1, keys + row * layout.pitch);
      load_plain_row(params, token, head, 2, values + row * params.head_dim);
    }
    sync_cta();  // the rows of all warps are there

    float dot[kPlainWarpQueries] = {};
    float square = 0.0f;
    for (int32_t d = 0; d < params.head_dim; ++d) {
      float const k = load(keys + (lane * layout.pitch + d));
      square += k * k;
      EDGEATTN_UNROLL
      for (int32_t q = 0; q < kPlainWarpQueries; ++q) {
        dot[q] += k * load(queries + (q * params.head_dim + d));
      }
    }
    float const key_factor = params.cosine ? plain_inverse_length(square) : 1.0f;
    EDGEATTN_UNROLL
    for (int32_t q = 0; q < kPlainWarpQueries; ++q) {
      float const logit =
          dot[q] * key_factor * scale[q] + plain_addend(params, group, table, query[q], key);
      float const raised = fmaxf(largest[q], max_of_warp(logit));
      // A query that has seen no key yet: all its weights are 0, and -inf - (-inf) would be NaN.
      float const offset = raised == -INFINITY ? 0.0f : raised;
      float const factor = expf(largest[q] - offset);
      float const weight = expf(logit - offset);
      largest[q] = raised;
      sum[q] = sum[q] * factor + weight;
      EDGEATTN_UNROLL
      for (int32_t i = 0; i < kLaneChannels; ++i) out[q][i] *= factor;
      for (int32_t row = 0; row < kPlainChunkKeys; ++row) {
        float const of_row = shuffle(weight, row);
        EDGEATTN_UNROLL
        for (int32_t i = 0; i < kLaneChannels; ++i) {
          int32_t const d = lane + kWarpLanes * i;
          if (d < params.head_dim) out[q][i] += of_row * load(values + (row * params.head_dim + d));
        }
      }
    }
  }

  EDGEATTN_UNROLL
  for (int32_t q = 0; q < kPlainWarpQueries; ++q) {
    float const total = sum_of_warp(sum[q]);
    if (query[q].token < 0) continue;
    Global<float> const to = Global<float>(static_cast<float*>(params.out)) +
                             (static_cast<int64_t>(query[q].token) * params.out_token_stride +
                              (group.out_head + item.first_head) * params.head_dim);
    EDGEATTN_UNROLL
    for (int32_t i = 0; i < kLaneChannels; ++i) {
      int32_t const d = lane + kWarpLanes * i;
      if (d < params.head_dim) store(to + d, out[q][i] / total);
    }
  }
}

}  // namespace edgeattn
