/*!
 * \file
 * \brief The node's attributes: kept by the plugin, read from and written to TensorRT's fields.
 */
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "edgeattn/edgeattn.h"

namespace edgeattn::trt {

/*! The attributes with their defaults, by the names they have in the graph (docs/operator.md). */
struct NodeAttributes {
  int32_t head_dim = 0;
  int32_t qkv_heads = 0;
  float softmax_scale = 0.0F;
  int32_t qkv_layout = 0;
  int32_t has_bias = 0;
  int32_t pad_mode = 0;
  int32_t shift_pad_order = 0;
  float mask_value = -std::numeric_limits<float>::infinity();
  int32_t qk_mode = 0;
  std::vector<int32_t> group_head_offset;
  std::vector<int32_t> group_num_heads;
  std::vector<int32_t> group_window;
  std::vector<int32_t> group_shift;
  std::vector<int32_t> group_mode;
  std::vector<int32_t> group_dilation;
  std::vector<int32_t> group_causal;
  float qkv_quant_scale = 0.0F;
  float out_quant_scale = 0.0F;

  /*! \brief The attributes as the kernels take them; valid as long as this object. */
  EdgeattnAttributes view() const noexcept;
};

/*! One attribute: where it is kept, and what stands there if the node does not say. */
struct AttributeRule {
  using Member = std::variant<int32_t NodeAttributes::*, float NodeAttributes::*,
                              std::vector<int32_t> NodeAttributes::*>;
  char const* name;
  Member member;
  bool required = false;
  int32_t entries_per_group = 0;  //!< of a list
  int32_t group_default = 0;      //!< each entry of a list that is not given

  nvinfer1::PluginFieldType type() const noexcept;
};

/*! \brief Every attribute, in the order of `ATTRIBUTE_KINDS` (edgeattn/spec.py). */
std::vector<AttributeRule> const& attribute_rules();

/*! \brief Read one attribute from a field.
 *  \throw Refusal if its type, its number of entries or its data is not what the rule wants. */
void read_attribute(AttributeRule const& rule, nvinfer1::PluginField const& field,
                    NodeAttributes& attributes);

/*! \brief Read a field that holds one integer.
 *  \throw Refusal if it holds anything else. */
int32_t read_integer(nvinfer1::PluginField const& field);

/*! \throw Refusal unless the field is of that type. */
void check_type(nvinfer1::PluginField const& field, nvinfer1::PluginFieldType expected);

/*! \brief Fill in the lists that were not given, and hold all of them against the group count.
 *  \throw Refusal if a list has another number of entries than the head groups call for. */
void complete_groups(NodeAttributes& attributes);

/*! \brief Show one attribute as a field that points into `attributes`. */
nvinfer1::PluginField field_of(AttributeRule const& rule, NodeAttributes const& attributes);

/*! \brief All attributes as `name=value` pairs, lists in brackets: equal attributes, equal text. */
std::string describe(NodeAttributes const& attributes);

/*! \brief TensorRT's name of a field type, for messages. */
char const* name_of(nvinfer1::PluginFieldType type) noexcept;

}  // namespace edgeattn::trt
