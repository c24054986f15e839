#include "attributes.h"

#include <cstring>
#include <iterator>

#include "log.h"

namespace edgeattn::trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using List = std::vector<int32_t> NodeAttributes::*;

std::string entries(int64_t count) { return text(count, count == 1 ? " entry" : " entries"); }

void check_filled(PluginField const& field) {
  if (field.length < 1 || field.data == nullptr) {
    throw Refusal(text("attribute ", field.name, " has no entries; expected at least 1"));
  }
}

template <typename T>
T read_one(PluginField const& field, PluginFieldType type) {
  check_type(field, type);
  check_filled(field);
  if (field.length != 1) {
    throw Refusal(text("attribute ", field.name, " has ", entries(field.length), "; expected 1"));
  }
  T value;
  std::memcpy(&value, field.data, sizeof value);  // out of an engine: of any alignment
  return value;
}

std::vector<int32_t> read_list(PluginField const& field) {
  check_type(field, PluginFieldType::kINT32);
  check_filled(field);
  std::vector<int32_t> list(field.length);
  std::memcpy(list.data(), field.data, list.size() * sizeof list[0]);
  return list;
}

}  // namespace

EdgeattnAttributes NodeAttributes::view() const noexcept {
  EdgeattnAttributes view{};
  view.head_dim = head_dim;
  view.qkv_heads = qkv_heads;
  view.softmax_scale = softmax_scale;
  view.qkv_layout = qkv_layout;
  view.has_bias = has_bias;
  view.pad_mode = pad_mode;
  view.shift_pad_order = shift_pad_order;
  view.mask_value = mask_value;
  view.qk_mode = qk_mode;
  view.num_groups = static_cast<int32_t>(group_num_heads.size());
  view.group_head_offset = group_head_offset.data();
  view.group_num_heads = group_num_heads.data();
  view.group_window = group_window.data();
  view.group_shift = group_shift.data();
  view.group_mode = group_mode.data();
  view.group_dilation = group_dilation.data();
  view.group_causal = group_causal.data();
  view.qkv_quant_scale = qkv_quant_scale;
  view.out_quant_scale = out_quant_scale;
  return view;
}

PluginFieldType AttributeRule::type() const noexcept {
  return std::holds_alternative<float NodeAttributes::*>(member) ? PluginFieldType::kFLOAT32
                                                                 : PluginFieldType::kINT32;
}

std::vector<AttributeRule> const& attribute_rules() {
  using A = NodeAttributes;
  static std::vector<AttributeRule> const rules = {
      {"head_dim", &A::head_dim, true},
      {"qkv_heads", &A::qkv_heads, true},
      {"softmax_scale", &A::softmax_scale},
      {"qkv_layout", &A::qkv_layout},
      {"has_bias", &A::has_bias},
      {"pad_mode", &A::pad_mode},
      {"shift_pad_order", &A::shift_pad_order},
      {"mask_value", &A::mask_value},
      {"qk_mode", &A::qk_mode},
      {"group_head_offset", &A::group_head_offset, false, 1, 0},
      {"group_num_heads", &A::group_num_heads, true, 1},
      {"group_window", &A::group_window, true, 2},
      {"group_shift", &A::group_shift, false, 2, 0},
      {"group_mode", &A::group_mode, false, 1, 0},
      {"group_dilation", &A::group_dilation, false, 2, 1},
      {"group_causal", &A::group_causal, false, 1, 0},
      {"qkv_quant_scale", &A::qkv_quant_scale},
      {"out_quant_scale", &A::out_quant_scale},
  };
  return rules;
}

void check_type(PluginField const& field, PluginFieldType expected) {
  if (field.type != expected) {
    throw Refusal(text("attribute ", field.name, " is of type ", name_of(field.type), "; expected ",
                       name_of(expected)));
  }
}

int32_t read_integer(PluginField const& field) {
  return read_one<int32_t>(field, PluginFieldType::kINT32);
}

void read_attribute(AttributeRule const& rule, PluginField const& field,
                    NodeAttributes& attributes) {
  if (auto const* integer = std::get_if<int32_t NodeAttributes::*>(&rule.member)) {
    attributes.*(*integer) = read_integer(field);
  } else if (auto const* number = std::get_if<float NodeAttributes::*>(&rule.member)) {
    attributes.*(*number) = read_one<float>(field, PluginFieldType::kFLOAT32);
  } else {
    attributes.*std::get<List>(rule.member) = read_list(field);
  }
}

void complete_groups(NodeAttributes& attributes) {
  auto const groups = static_cast<int64_t>(attributes.group_num_heads.size());
  for (AttributeRule const& rule : attribute_rules()) {
    auto const* const member = std::get_if<List>(&rule.member);
    if (member == nullptr) {
      continue;
    }
    std::vector<int32_t>& list = attributes.*(*member);
    int64_t const expected = groups * rule.entries_per_group;
    if (list.empty()) {
      list.assign(expected, rule.group_default);
    } else if (static_cast<int64_t>(list.size()) != expected) {
      throw Refusal(text("attribute ", rule.name, " has ", entries(list.size()), "; expected ",
                         expected, " for ", groups, " head group", groups == 1 ? "" : "s"));
    }
  }
}

PluginField field_of(AttributeRule const& rule, NodeAttributes const& attributes) {
  if (auto const* integer = std::get_if<int32_t NodeAttributes::*>(&rule.member)) {
    return {rule.name, &(attributes.*(*integer)), rule.type(), 1};
  }
  if (auto const* number = std::get_if<float NodeAttributes::*>(&rule.member)) {
    return {rule.name, &(attributes.*(*number)), rule.type(), 1};
  }
  std::vector<int32_t> const& list = attributes.*std::get<List>(rule.member);
  return {rule.name, list.data(), rule.type(), static_cast<int32_t>(list.size())};
}

std::string describe(NodeAttributes const& attributes) {
  std::string all;
  for (AttributeRule const& rule : attribute_rules()) {
    PluginField const field = field_of(rule, attributes);
    bool const is_list = rule.entries_per_group > 0;
    all += text(all.empty() ? "" : " ", rule.name, is_list ? "=[" : "=");
    for (int32_t i = 0; i < field.length; ++i) {
      all += i > 0 ? "," : "";
      all += field.type == PluginFieldType::kFLOAT32
                 ? text(static_cast<float const*>(field.data)[i])
                 : text(static_cast<int32_t const*>(field.data)[i]);
    }
    all += is_list ? "]" : "";
  }
  return all;
}

char const* name_of(PluginFieldType type) noexcept {
  // By number: the newest ones have no name in the oldest headers.
  static constexpr char const* kNames[] = {"kFLOAT16", "kFLOAT32", "kFLOAT64", "kINT8",    "kINT16",
                                           "kINT32",   "kCHAR",    "kDIMS",    "kUNKNOWN", "kBF16",
                                           "kINT64",   "kFP8",     "kINT4",    "kFP4"};
  auto const index = static_cast<size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

}  // namespace edgeattn::trt
