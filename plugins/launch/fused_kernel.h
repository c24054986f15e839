/*!
 * \file
 * \brief The definition of `fused_kernel`, for the sources that instantiate it.
 */
#pragma once

#include "edgeattn/window_attention_resident.h"
#include "edgeattn/window_attention_streamed.h"
#include "kernels.h"

namespace edgeattn {

template <typename T, int kHeadDim>
AttentionKernel fused_kernel(VariantId id) {
  constexpr Variant kSmall = fused_variant(kSmallTiles, kHeadDim);
  constexpr Variant kStream = fused_variant(kStreamed, kHeadDim);
  if (id == kSmall.id) {
    return window_attention_resident_kernel<T, kHeadDim, kSmall.row_tiles, kSmall.key_tiles,
                                            kSmall.min_ctas>;
  }
  if (id == kStream.id) {
    return window_attention_streamed_kernel<T, kHeadDim, kStream.row_tiles, kStream.key_tiles,
                                            kStream.min_ctas>;
  }
  constexpr Variant kWide = fused_variant(kWideTiles, kHeadDim);
  constexpr Variant kOne = fused_variant(kOnePass, kHeadDim);
  if constexpr (kWide.id != kNoVariant) {
    if (id == kWide.id) {
      return window_attention_resident_kernel<T, kHeadDim, kWide.row_tiles, kWide.key_tiles,
                                              kWide.min_ctas>;
    }
  }
  if constexpr (kOne.id != kNoVariant) {
    if (id == kOne.id) {
      return window_attention_resident_kernel<T, kHeadDim, kOne.row_tiles, kOne.key_tiles,
                                              kOne.min_ctas>;
    }
  }
  return nullptr;
}

}  // namespace edgeattn
