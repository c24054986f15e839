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
        first_key_(Global<T const>(static_cast<T const*>(params.qkv)) +
                   (static_cast<int64_t>(first_head) * params.head_stride + params.tensor_stride)),
        first_head_(first_head) {}

  /*! \brief Start copying the tokens' keys and values; fill padding; zero what is absent.
   *  \param tokens  [rows], as in KeyRow. */
  EDGEATTN_DEVICE void start(KeyValueTiles const& tiles, Shared<int32_t> tokens) const {
    int32_t const tile_bytes = tiles.rows * Tile::kRowBytes;
    for_each_copy(tiles, [&](int32_t row, int32_t copy, int32_t offset) {
      int32_t const token = load(tokens + row);
      int32_t const channel = copy * kCopyChannels;
      Shared<unsigned char> to = tiles.begin + offset;  // in the tile of K, then of V
      if (token == kPadding) {
        EDGEATTN_NO_UNROLL
        for (int32_t t = 0; t < 2 * tiles.num_heads; ++t, to = to + tile_bytes) {
          fill_padding(to, first_head_ + t / 2, t % 2, channel);
        }
        return;
      }
      int32_t const bytes = token < 0 ? 0 : (params_.head_dim - channel) * kElementBytes;
      Global<T const> from =
          first_key_ +
          (static_cast<int64_t>(token < 0 ? 0 : token) * params_.token_stride + channel);
      // A few heads do not make up for the code and registers that unrolling takes.
      EDGEATTN_NO_UNROLL
      for (int32_t h = 0; h < tiles.num_heads; ++h, to = to + 2 * tile_bytes) {
        copy_16(to, from.template as<unsigned char const>(), bytes);
        copy_16(to + tile_bytes, (from + params_.tensor_stride).template as<unsigned char const>(),
                bytes);
        from = from + params_.head_stride;
      }
    });
    copy_async_commit();
  }

  /*! \brief After the copies of this thread have arrived: widen its INT8 to FP16. */
  EDGEATTN_DEVICE void finish(KeyValueTiles const& tiles) const {
    if constexpr (sizeof(T) == 1) {
      for_each_copy(tiles, [&](int32_t row, int32_t copy, int32_t offset) {
        int32_t const second = Tile::offset(row, 2 * copy + 1);
        Shared<unsigned char> tile = tiles.begin;
        EDGEATTN_NO_UNROLL
        for (int32_t t = 0; t < 2 * tiles.num_heads; ++t) {
          Vec16 const bytes = load((tile + offset).template as<Vec16>());
          Vec16 const low = half_from_int8(bytes.word[0], bytes.word[1]);
          Vec16 const high = half_from_int8(bytes.word[2], bytes.word[3]);
          store((tile + offset).template as<Vec16>(), low);
          store((tile + second).template as<Vec16>(), high);
          tile = tile + tiles.rows * Tile::kRowBytes;
        }
      });
    }
  }

 private:
  using Tile = RowTile<kHeadDim>;
  static constexpr int32_t kCopyChannels = 16 / sizeof(T);
  static constexpr int32_t kCopies = kHeadDim / kCopyChannels;  // of a row
  static constexpr int32_t kElementBytes = sizeof(T);

  /*! Copies of a row that neighbouring lanes make. Those of INT8 fill every second chunk: eight
   *  lanes with a whole row would meet in half of the banks. Two copies are a sector of L2. */
  static constexpr int32_t kRun = kElementBytes == 1 ? 2 : kCopies;

  /*! \brief The copies of this thread: (row, number of the copy in it, where it goes in a tile). */
  template <typename Body>
  static EDGEATTN_DEVICE void for_each_copy(KeyValueTiles const& tiles, Body const& body) {
    for (int32_t i = thread_index(); i < tiles.rows * kCopies; i += kThreads) {
      uint32_t const run = static_cast<uint32_t>(i) / kRun;
      uint32_t const runs = run / 8;  // of 8 rows
      int32_t const row = static_cast<int32_t>(runs / (kCopies / kRun) * 8 + run % 8);
      int32_t const copy = static_cast<int32_t>(runs % (kCopies / kRun) * kRun) + i % kRun;
      body(row, copy, Tile::offset(row, copy * (kCopyChannels / kChunkChannels)));
    }
  }

  /*! \brief Copy 16 bytes, of which the row has `bytes` left; zeros past these. */
  EDGEATTN_DEVICE void copy_16(Shared<unsigned char> to, Global<unsigned char const> from,
                               int32_t bytes) const {
    if (kElementBytes == 1 && params_.head_dim % 16 != 0) {  // rows are aligned to 8 bytes alone
      copy_async<8>(to, from, bytes >= 8 ? 8 : 0);
      copy_async<8>(to + 8, from + 8, bytes >= 16 ? 8 : 0);
    } else {
      copy_async<16>(to, from, bytes >= 16 ? 16 : 0);
    }
  }

  /*! \brief Write 16 bytes of the key (tensor 0) or value (1) of a padded token. */
  EDGEATTN_DEVICE void fill_padding(Shared<unsigned char> to, int32_t head, int32_t tensor,
                                    int32_t channel) const {
    constexpr int32_t kWordChannels = 4 / kElementBytes;
    Global<float const> const from =
        Global<float const>(params_.pad_kv) +
        (static_cast<int64_t>(tensor) * params_.qkv_heads + head) * params_.head_dim;
    EDGEATTN_NO_UNROLL
    for (int32_t w = 0; w < 4; ++w, channel += kWordChannels) {
      float value[kWordChannels];
      EDGEATTN_UNROLL
      for (int32_t i = 0; i < kWordChannels; ++i) {
        value[i] = channel + i < params_.head_dim ? load(from + (channel + i)) : 0.0f;
      }
      uint32_t word;
      if constexpr (kElementBytes == 1) {
        float const step = params_.pad_quant_scale;
        word = pack_int8(float_to_int_rn(value[0] / step), float_to_int_rn(value[1] / step),
                         float_to_int_rn(value[2] / step), float_to_int_rn(value[3] / step));
      } else {
        word = pack2<T>(value[0], value[1]);
      }
      store(to.as<uint32_t>() + w, word);
    }
  }

  AttentionParams const& params_;
  Global<T const> first_key_;  // of the first head's keys, of the first token
  int32_t first_head_;
};

}  // namespace edgeattn
