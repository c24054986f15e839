/*!
 * \file
 * \brief The queries that a warp works on at a time.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/intrinsics.h"
#include "edgeattn/params.h"
#include "edgeattn/query_fragment.h"
#include "edgeattn/token_rows.h"

namespace edgeattn {

/*! \brief kRowTiles * 16 queries of one head. */
template <int kHeadDim, int kRowTiles>
struct QueryTile {
  Shared<QueryRow> rows;  //!< [16 * kRowTiles]
  QueryFragment<kHeadDim> fragment[kRowTiles];
  int32_t bias[2 * kRowTiles];         //!< QueryRow::bias of the rows g, g + 8, g + 16, …
  float cosine_factor[2 * kRowTiles];  //!< logit_scale / length of these rows; cosine attention
};

/*! \brief Start loading queries.
 *  \param head  in qkv. */
template <typename T, int kHeadDim, int kRowTiles>
EDGEATTN_DEVICE void start_queries(AttentionParams const& params, Shared<QueryRow> rows,
                                   int32_t head, QueryTile<kHeadDim, kRowTiles>& query) {
  query.rows = rows;
  EDGEATTN_UNROLL
  for (int32_t r = 0; r < kRowTiles; ++r) {
    load_queries<T>(params, rows + 16 * r, head, query.fragment[r]);
  }
}

/*! \brief Make loaded queries ready for use. */
template <typename T, int kHeadDim, int kRowTiles>
EDGEATTN_DEVICE void finish_queries(AttentionParams const& params, int32_t head,
                                    QueryTile<kHeadDim, kRowTiles>& query) {
  Shared<QueryRow> const of_lane = query.rows + lane_index() / 4;
  EDGEATTN_UNROLL
  for (int32_t row = 0; row < 2 * kRowTiles; ++row) {
    query.bias[row] = load((of_lane + 8 * row).template as<int32_t>() + 1);
    query.cosine_factor[row] = 0.0f;
  }
  EDGEATTN_UNROLL
  for (int32_t r = 0; r < kRowTiles; ++r) widen_queries<T>(query.fragment[r]);
  if (params.cosine) {
    float const scale = load(Global<float const>(params.logit_scale) + head);
    EDGEATTN_UNROLL
    for (int32_t r = 0; r < kRowTiles; ++r) {
      float inverse[2];
      inverse_lengths<T>(query.fragment[r], inverse);
      query.cosine_factor[2 * r] = scale * inverse[0];
      query.cosine_factor[2 * r + 1] = scale * inverse[1];
    }
  }
}

}  // namespace edgeattn
