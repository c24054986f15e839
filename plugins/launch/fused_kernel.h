/*!
 * \file
 * \brief The definition of `fused_kernel`, for the sources that instantiate it.
 */
#pragma once

#include "edgeattn/window_attention_resident.h"
#include "edgeattn/window_attention_streamed.h"
#include "kernels.h"

namespace edgeattn {

/*! \brief The kernel of one variant; NULL where there is none. */
template <typename T, int kHeadDim, VariantId kId, bool kOneChunk>
AttentionKernel variant_kernel() {
  constexpr Variant kVariant = fused_variant(kId, kHeadDim, kOneChunk);
  if constexpr (kVariant.id == kNoVariant) {
    return nullptr;
  } else if constexpr (kVariant.id == kStreamed) {
    return window_attention_streamed_kernel<T, kHeadDim, kVariant.row_tiles, kVariant.key_tiles,
                                            kVariant.min_ctas>;
  } else {
    return window_attention_resident_kernel<T, kHeadDim, kVariant.row_tiles, kVariant.key_tiles,
                                            !kVariant.chunked, kVariant.min_ctas>;
  }
}

template <typename T, int kHeadDim, bool kOneChunk>
AttentionKernel fused_kernel(VariantId id) {
  switch (id) {
    case kSmallTiles:
      return variant_kernel<T, kHeadDim, kSmallTiles, kOneChunk>();
    case kWideTiles:
      return variant_kernel<T, kHeadDim, kWideTiles, kOneChunk>();
    case kOnePass:
      return variant_kernel<T, kHeadDim, kOnePass, kOneChunk>();
    case kStreamed:
      return variant_kernel<T, kHeadDim, kStreamed, kOneChunk>();
    default:
      return nullptr;
  }
}

template <typename T, int kHeadDim>
AttentionKernel fused_kernel(VariantId id, bool one_chunk) {
  return one_chunk ? fused_kernel<T, kHeadDim, true>(id) : fused_kernel<T, kHeadDim, false>(id);
}

}  // namespace edgeattn
