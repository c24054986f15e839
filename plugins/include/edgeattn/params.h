/*!
 * \file
 * \brief What a launch of the attention kernels is told: plain data, passed by value.
 */
#pragma once

#include <stdint.h>

#include "edgeattn/divisor.h"
#include "edgeattn/edgeattn.h"
#include "edgeattn/window_index.h"

namespace edgeattn {

/*! Threads of a CTA of every kernel: 4 warps. */
constexpr int32_t kThreads = 128;
constexpr int32_t kWarps = kThreads / 32;

/*! Heads times windows that a step of the resident kernel may take. */
constexpr int32_t kMaxStepUnits = 8;

/*! \brief Where the relative position bias is looked up. */
enum BiasSource : int8_t {
  kNoBias = 0,
  kSharedBias = 1,       //!< one entry at a time, in shared memory
  kSharedBiasPairs = 2,  //!< two neighbouring keys at a time: windows of even width
  kGlobalBias = 3,       //!< a table that does not fit into shared memory
};

/*! \brief Heads that attend through windows of one size, and how their work is cut into items.
 *
 * An item is the work of one CTA: `item_heads` consecutive heads of `item_steps` times
 * `step_windows` consecutive windows, a step at a time; or, where a window is cut up, a block of
 * its queries times one head. */
struct HeadGroup {
  Axis rows;
  Axis cols;
  int32_t first_item;   //!< the group's first CTA
  int32_t head_offset;  //!< first head in qkv
  int32_t out_head;     //!< first head in the output
  int32_t bias_offset;  //!< first entry in the bias table
  int16_t num_heads;
  int16_t num_head_blocks;  //!< ceil(num_heads / item_heads)
  int16_t item_steps;
  int16_t step_windows;
  int8_t item_heads;
  int8_t mode;  //!< Mode
  int8_t causal;
  int8_t bias;           //!< BiasSource
  Divisor head_blocks;   //!< num_head_blocks
  Divisor query_blocks;  //!< blocks that the queries of a window are cut into; 1 if they are not
  Divisor windows;       //!< rows.num_windows * cols.num_windows: of one image
  Divisor window_cols;   //!< cols.num_windows
  Divisor query_cols;    //!< cols.queries
  Divisor key_cols;      //!< cols.keys
};

/*! \brief Parameters of every attention kernel. Strides are in elements. */
struct AttentionParams {
  void const* qkv;           //!< [batch, height, width, 3*Hd*D]
  float const* bias_table;   //!< [groups' num_heads * (2*wh-1)*(2*ww-1), one after the other]
  float const* pad_kv;       //!< [2, Hd, D]
  float const* logit_scale;  //!< [Hd]
  void* out;                 //!< [batch, height, width, heads of all groups * D]
  int32_t batch;
  int32_t height;
  int32_t width;
  int32_t head_dim;       //!< D
  int32_t qkv_heads;      //!< Hd
  int32_t token_stride;   //!< 3*Hd*D
  int32_t head_stride;    //!< from one head to the next
  int32_t tensor_stride;  //!< from query to key to value of a head
  int32_t out_token_stride;
  int32_t num_groups;
  float score_scale;       //!< log2(e) times what a score, with its bias, has to be multiplied by
  float bias_scale;        //!< what bias and mask_value are divided by score_scale for
  float mask_value;        //!< in the units of a score
  float pad_quant_scale;   //!< INT8: real value of a step of qkv
  float out_scale;         //!< INT8: from steps of V to output
  int8_t pads_attend;      //!< pad_mode 1
  int8_t shift_pad_order;  //!< ShiftPadOrder
  int8_t cosine;           //!< qk_mode 1
  int8_t out_is_int8;
  HeadGroup groups[EDGEATTN_MAX_HEAD_GROUPS];
};

static_assert(sizeof(AttentionParams) <= 4096, "parameters of a kernel take at most 4 KiB");

}  // namespace edgeattn
