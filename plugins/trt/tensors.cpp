#include "tensors.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "log.h"

namespace edgeattn::trt {
namespace {

using nvinfer1::DataType;

constexpr int64_t kAnySize = -1;

EdgeattnType kernel_type(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return EDGEATTN_FLOAT32;
    case DataType::kHALF:
      return EDGEATTN_FLOAT16;
    case DataType::kBF16:
      return EDGEATTN_BFLOAT16;
    case DataType::kINT8:
      return EDGEATTN_INT8;
    default:
      throw Refusal(text("a tensor is ", name_of(type), "; expected FP32, FP16, BF16 or INT8"));
  }
}

/*! Entries of the bias table: per group, one for each head and each distance of two tokens. */
int64_t bias_entries(NodeAttributes const& attributes) {
  int64_t entries = 0;
  for (size_t g = 0; g < attributes.group_num_heads.size(); ++g) {
    int64_t const rows = attributes.group_window[2 * g];
    int64_t const cols = attributes.group_window[2 * g + 1];
    entries += attributes.group_num_heads[g] * (2 * rows - 1) * (2 * cols - 1);
  }
  return entries;
}

void check_count(std::vector<TensorRule> const& rules, size_t count) {
  if (count == rules.size()) {
    return;
  }
  std::string names;
  for (TensorRule const& rule : rules) {
    names += text(names.empty() ? "" : ", ", rule.name);
  }
  throw Refusal(text("the node has ", count, count == 1 ? " input" : " inputs",
                     "; its attributes ask for ", rules.size(), ": ", names));
}

}  // namespace

std::vector<TensorRule> input_rules(NodeAttributes const& attributes) {
  int64_t const channels = int64_t{attributes.qkv_heads} * attributes.head_dim;
  std::vector<TensorRule> rules = {{"qkv", {kAnySize, kAnySize, kAnySize, 3 * channels}}};
  if (attributes.has_bias != 0) {
    rules.push_back({"bias_table", {bias_entries(attributes)}, &EdgeattnTensors::bias_table});
  }
  if (attributes.pad_mode != 0) {
    rules.push_back({"pad_kv", {2 * channels}, &EdgeattnTensors::pad_kv});
  }
  if (attributes.qk_mode != 0) {
    rules.push_back({"logit_scale", {attributes.qkv_heads}, &EdgeattnTensors::logit_scale});
  }
  return rules;
}

std::vector<TypeRule> type_rules(NodeAttributes const& attributes) {
  DataType const dequantized =
      attributes.out_quant_scale != 0.0F ? DataType::kINT8 : DataType::kHALF;
  std::vector<TypeRule> rules = {{DataType::kFLOAT, DataType::kFLOAT, {}},
                                 {DataType::kHALF, DataType::kHALF, {}},
                                 {DataType::kBF16, DataType::kBF16, {}},
                                 {DataType::kINT8, dequantized, {}}};
  EdgeattnAttributes const view = attributes.view();
  for (TypeRule& rule : rules) {
    std::array<char, EDGEATTN_MESSAGE_BYTES> message{};
    int32_t const status = edgeattn_check(&view, kernel_type(rule.in), kernel_type(rule.out),
                                          message.data(), message.size());
    if (status != EDGEATTN_SUCCESS) {
      rule.refusal = message.data();
    }
  }
  return rules;
}

TypeRule const* find_rule(std::vector<TypeRule> const& rules, DataType in) noexcept {
  auto const found = std::find_if(rules.begin(), rules.end(),
                                  [in](TypeRule const& rule) { return rule.in == in; });
  return found == rules.end() ? nullptr : &*found;
}

int64_t out_channels(NodeAttributes const& attributes) noexcept {
  int64_t heads = 0;
  for (int32_t const count : attributes.group_num_heads) {
    heads += count;
  }
  return heads * attributes.head_dim;
}

void check_shape(TensorRule const& rule, Shape const& shape) {
  bool const fits = std::equal(
      shape.begin(), shape.end(), rule.shape.begin(), rule.shape.end(),
      [](int64_t got, int64_t expected) { return got == expected || got < 0 || expected < 0; });
  if (!fits) {
    throw Refusal(text("tensor ", rule.name, " has the shape ", text_of(shape), "; expected ",
                       text_of(rule.shape)));
  }
}

void check_shapes(std::vector<TensorRule> const& rules, std::vector<Shape> const& shapes) {
  check_count(rules, shapes.size());
  for (size_t i = 0; i < rules.size(); ++i) {
    check_shape(rules[i], shapes[i]);
  }
}

void check_types(std::vector<TensorRule> const& rules, std::vector<TypeRule> const& types,
                 std::vector<DataType> const& got) {
  check_count(rules, got.size());
  TypeRule const* const rule = find_rule(types, got[0]);
  if (rule == nullptr) {
    throw Refusal(text("tensor qkv is ", name_of(got[0]), "; expected FP32, FP16, BF16 or INT8"));
  }
  if (!rule->refusal.empty()) {
    throw Refusal(text("tensor qkv is ", name_of(rule->in), ": ", rule->refusal));
  }
  for (size_t i = 1; i < rules.size(); ++i) {
    if (got[i] != DataType::kFLOAT) {
      throw Refusal(text("tensor ", rules[i].name, " is ", name_of(got[i]), "; expected FP32"));
    }
  }
}

EdgeattnProblem problem_of(nvinfer1::Dims const& qkv, DataType in, DataType out) {
  std::array<int32_t, 3> extents{};
  for (size_t axis = 0; axis < extents.size(); ++axis) {
    if (qkv.d[axis] > std::numeric_limits<int32_t>::max()) {
      throw Refusal(text("input qkv has the shape ", text_of(shape_of(qkv)),
                         "; expected extents of at most 2147483647"));
    }
    extents[axis] = static_cast<int32_t>(qkv.d[axis]);
  }
  return {kernel_type(in), kernel_type(out), extents[0], extents[1], extents[2]};
}

Shape shape_of(nvinfer1::Dims const& dims) {
  return Shape(dims.d, dims.d + std::max(dims.nbDims, 0));
}

Shape shape_of(nvinfer1::DimsExprs const& dims) {
  Shape shape;
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
    nvinfer1::IDimensionExpr const* const extent = dims.d[axis];
    shape.push_back(extent->isConstant() ? extent->getConstantValue() : kAnySize);
  }
  return shape;
}

std::string text_of(Shape const& shape) {
  std::string all;
  for (int64_t const extent : shape) {
    all += all.empty() ? "" : ", ";
    all += extent < 0 ? "?" : text(extent);
  }
  return "[" + all + "]";
}

char const* name_of(DataType type) noexcept {
  // By number: the newest ones have no name in the oldest headers.
  static constexpr char const* kNames[] = {"FP32", "FP16", "INT8",  "INT32", "BOOL", "UINT8",
                                           "FP8",  "BF16", "INT64", "INT4",  "FP4",  "E8M0"};
  auto const index = static_cast<size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "of an unknown type";
}

}  // namespace edgeattn::trt
