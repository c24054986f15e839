/*!
 * \file
 * \brief Rows of K and V from the packed projection into shared memory.
 *
 * A thread moves 16 bytes of a row at a time: 8 channels, or 16 of INT8. INT8 lands where its first
 * chunk will be and is widened in place by the thread that copied it, so that no barrier stands in
 * between.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/elements.h"
#include "edgeattn/intrinsics.h"
#include "edgeattn/params.h"
#include "edgeattn/row_tile.h"

namespace edgeattn {

/*! \brief K and V of `num_heads` heads of the same rows: tiles [head][K, V][row]. */
struct KeyValueTiles {
  Shared<unsigned char> begin;
  int32_t rows;  //!< of a tile
  int32_t num_heads;
};

template <typename T, int kHeadDim>
class KeyValueLoader {
 public:
  /*! \param first_head  first of the heads to load, in qkv. */
  EDGEATTN_DEVICE KeyValueLoader(AttentionParams const& params, int32_t first_head)
      : params_(params),
        qkv_(static_cast<unsigned char const*>(params.qkv)),
        first_head_(first_head) {}

  /*! \brief Start copying the tokens' keys and values; fill padding; zero what is absent.
   *  \param tokens  [rows], as in KeyRow. */
  EDGEATTN_DEVICE void start(KeyValueTiles const& tiles, Shared<int32_t> tokens) const {
    for_each_copy(tiles, [&](int32_t row, int32_t copy, int32_t offset) {
      int32_t const token = load(tokens + row);
      int32_t const channel = copy * kCopyChannels;
      int64_t const source =
          static_cast<int64_t>(token < 0 ? 0 : token) * params_.token_stride + channel;
      for (int32_t h = 0; h < tiles.num_heads; ++h) {
        EDGEATTN_UNROLL
        for (int32_t tensor = 0; tensor < 2; ++tensor) {  // K, then V
          Shared<unsigned char> const to = tile(tiles, h, tensor) + offset;
          if (token == kPadding) {
            store(to.as<Vec16>(), padding(first_head_ + h, tensor, channel));
          } else {
            int32_t const head = (first_head_ + h) * params_.head_stride;
            int32_t const of_token = head + (tensor + 1) * params_.tensor_stride;
            copy_row(to, qkv_ + (source + of_token) * sizeof(T), token >= 0 ? channel : kNothing);
          }
        }
      }
    });
    copy_async_commit();
  }

  /*! \brief After the copies of this thread have arrived: widen its INT8 to FP16. */
  EDGEATTN_DEVICE void finish(KeyValueTiles const& tiles) const {
    if constexpr (sizeof(T) == 1) {
      for_each_copy(tiles, [&](int32_t row, int32_t copy, int32_t offset) {
        int32_t const second = Tile::offset(row, 2 * copy + 1);
        for (int32_t t = 0; t < 2 * tiles.num_heads; ++t) {
          Shared<unsigned char> const base = tile(tiles, 0, t);
          Vec16 const bytes = load((base + offset).as<Vec16>());
          store((base + offset).as<Vec16>(), half_from_int8(bytes.word[0], bytes.word[1]));
          store((base + second).as<Vec16>(), half_from_int8(bytes.word[2], bytes.word[3]));
        }
      });
    }
  }

 private:
  using Tile = RowTile<kHeadDim>;
  static constexpr int32_t kCopyChannels = 16 / sizeof(T);
  static constexpr int32_t kCopies = kHeadDim / kCopyChannels;  // of a row
  static constexpr int32_t kNothing = 1 << 20;                  // a channel that no row has

  /*! \brief The copies of this thread: (row, number of the copy in it, where it goes in a tile). */
  template <typename Body>
  static EDGEATTN_DEVICE void for_each_copy(KeyValueTiles const& tiles, Body const& body) {
    for (int32_t i = thread_index(); i < tiles.rows * kCopies; i += kThreads) {
      int32_t const row = i / kCopies;
      int32_t const copy = i % kCopies;
      body(row, copy, Tile::offset(row, copy * (kCopyChannels / kChunkChannels)));
    }
  }

  static EDGEATTN_DEVICE Shared<unsigned char> tile(KeyValueTiles const& tiles, int32_t head,
                                                    int32_t tensor) {
    return tiles.begin + (2 * head + tensor) * tiles.rows * Tile::kRowBytes;
  }

  /*! \brief Copy the channels from `channel` on; zeros past the head's last one. */
  EDGEATTN_DEVICE void copy_row(Shared<unsigned char> to, Global<unsigned char const> from,
                                int32_t channel) const {
    constexpr int32_t kSize = sizeof(T);
    int32_t const bytes_left = (params_.head_dim - channel) * kSize;
    if (kSize == 1 && params_.head_dim % 16 != 0) {  // rows are aligned to 8 bytes alone
      copy_async<8>(to, bytes_left >= 8 ? from : qkv_, bytes_left >= 8 ? 8 : 0);
      copy_async<8>(to + 8, bytes_left >= 16 ? from + 8 : qkv_, bytes_left >= 16 ? 8 : 0);
    } else {
      copy_async<16>(to, bytes_left >= 16 ? from : qkv_, bytes_left >= 16 ? 16 : 0);
    }
  }

  /*! \brief 16 bytes of the key (tensor 0) or value (1) of a padded token. */
  EDGEATTN_DEVICE Vec16 padding(int32_t head, int32_t tensor, int32_t channel) const {
    Global<float const> const from =
        Global<float const>(params_.pad_kv) +
        (static_cast<int64_t>(tensor) * params_.qkv_heads + head) * params_.head_dim;
    Vec16 packed;
    EDGEATTN_UNROLL
    for (int32_t w = 0; w < 4; ++w) {
      int32_t const first = channel + w * (kCopyChannels / 4);
      if constexpr (sizeof(T) == 1) {
        uint32_t bytes[4];
        EDGEATTN_UNROLL
        for (int32_t i = 0; i < 4; ++i) {
          float const value = first + i < params_.head_dim ? load(from + first + i) : 0.0f;
          bytes[i] = int8_bits(value / params_.pad_quant_scale);
        }
        packed.word[w] = pack_bytes(bytes[0], bytes[1], bytes[2], bytes[3]);
      } else {
        float const low = first < params_.head_dim ? load(from + first) : 0.0f;
        float const high = first < params_.head_dim ? load(from + first + 1) : 0.0f;
        packed.word[w] = pack2<T>(low, high);
      }
    }
    return packed;
  }

  AttentionParams const& params_;
  Global<unsigned char const> qkv_;
  int32_t first_head_;
};

}  // namespace edgeattn
