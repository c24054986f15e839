/*!
 * \file
 * \brief How a variant cuts up the work of a problem.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/edgeattn.h"
#include "edgeattn/shared_layout.h"
#include "variants.h"

namespace edgeattn {

/*! \brief What a variant asks of the plan of its groups. */
struct Cut {
  Variant variant;
  bool cosine;
  int32_t head_dim;
  int32_t row_bytes;      // of K or V in shared memory
  int32_t tile_queries;   // of a warp
  int32_t chunk_keys;     // with scores in registers
  int32_t block_queries;  // of a CTA; 0: all queries of its windows

  bool is_resident() const { return block_queries == 0; }

  int32_t shared_bytes(HeadGroup const& group) const {
    if (variant.id == kPlain) return plain_layout(head_dim).floats * 4;
    if (variant.id == kStreamed) {
      return streamed_layout(group, row_bytes, block_queries, chunk_keys, cosine).bytes;
    }
    return resident_layout(group, row_bytes, tile_queries, cosine).bytes;
  }
};

inline Cut cut_of(EdgeattnAttributes const& attributes, Variant const& variant) {
  Cut cut{};
  cut.variant = variant;
  cut.cosine = attributes.qk_mode != 0;
  cut.head_dim = attributes.head_dim;
  cut.row_bytes = 2 * padded_head_dim(attributes.head_dim);
  cut.tile_queries = 16 * variant.row_tiles;
  cut.chunk_keys = 16 * variant.key_tiles;
  if (variant.id == kPlain) cut.block_queries = kPlainBlockQueries;
  if (variant.id == kStreamed) cut.block_queries = kWarps * cut.tile_queries;
  return cut;
}

}  // namespace edgeattn
