/*!
 * \file
 * \brief The tensors that a node's attributes call for: which, of what shape and of what type.
 */
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "attributes.h"
#include "edgeattn/edgeattn.h"

namespace edgeattn::trt {

/*! A tensor's extents; -1 where one is not known yet. */
using Shape = std::vector<int64_t>;

/*! A tensor: its name in the operator's contract and its shape, -1 where any size will do. */
struct TensorRule {
  char const* name;
  Shape shape;
  float const* EdgeattnTensors::* slot = nullptr;  //!< where the kernels take it, qkv apart
};

/*! What becomes of an input type: the output's type, or why the kernels refuse the pair. */
struct TypeRule {
  nvinfer1::DataType in;
  nvinfer1::DataType out;
  std::string refusal;  //!< empty: accepted
};

/*! \brief The inputs in their order: `qkv`, then those that the attributes ask for. */
std::vector<TensorRule> input_rules(NodeAttributes const& attributes);

/*! \brief Ask the kernels about every type that `qkv` may have: FP32, FP16 and BF16 give the same;
 *  INT8 gives INT8 where `out_quant_scale` is set, and FP16 where it is 0. */
std::vector<TypeRule> type_rules(NodeAttributes const& attributes);

/*! \brief The rule of an input type, or null if no attention has that type. */
TypeRule const* find_rule(std::vector<TypeRule> const& rules, nvinfer1::DataType in) noexcept;

/*! \brief Channels of the output: `sum(group_num_heads) * head_dim`. */
int64_t out_channels(NodeAttributes const& attributes) noexcept;

/*! \throw Refusal unless the shape is the rule's, as far as it is known. */
void check_shape(TensorRule const& rule, Shape const& shape);

/*! \throw Refusal unless there are as many inputs as rules, each of its shape as far as known. */
void check_shapes(std::vector<TensorRule> const& rules, std::vector<Shape> const& shapes);

/*! \throw Refusal unless the kernels accept the type of `qkv` and all other inputs are FP32. */
void check_types(std::vector<TensorRule> const& inputs, std::vector<TypeRule> const& types,
                 std::vector<nvinfer1::DataType> const& got);

/*! \brief The problem of a call, from the tensors that TensorRT will pass.
 *  \throw Refusal if an extent of qkv is beyond 32 bits. */
EdgeattnProblem problem_of(nvinfer1::Dims const& qkv, nvinfer1::DataType in,
                           nvinfer1::DataType out);

Shape shape_of(nvinfer1::Dims const& dims);
Shape shape_of(nvinfer1::DimsExprs const& dims);

std::string text_of(Shape const& shape);
char const* name_of(nvinfer1::DataType type) noexcept;

}  // namespace edgeattn::trt
