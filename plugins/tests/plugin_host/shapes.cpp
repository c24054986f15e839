#include "shapes.h"

#include <deque>
#include <limits>
#include <string>

#include "rules.h"

namespace plugin_host {
namespace {

using namespace nvinfer1;

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::min();

class Extent final : public IDimensionExpr {
 public:
  explicit Extent(int64_t value) : value_(value) { mImpl = &value_; }

 private:
  struct Value final : apiv::VDimensionExpr {
    explicit Value(int64_t v) : value(v) {}
    bool isConstant() const override { return value != kUnknown; }
    int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
    int64_t value;
  };
  Value value_;
};

/*! Makes constants; what else a shape may be made of, this plugin has no use for. */
class Builder final : public IExprBuilder {
 public:
  Builder() { mImpl = &extents_; }

  IDimensionExpr const* make(int64_t value) { return extents_.constant(value); }

 private:
  struct Extents final : apiv::VExprBuilder {
    IDimensionExpr const* constant(int64_t value) override { return &made.emplace_back(value); }
    IDimensionExpr const* operation(DimensionOperation /*op*/, IDimensionExpr const& /*first*/,
                                    IDimensionExpr const& /*second*/) override {
      return nullptr;
    }
    IDimensionExpr const* declareSizeTensor(int32_t /*index*/, IDimensionExpr const& /*opt*/,
                                            IDimensionExpr const& /*upper*/) override {
      return nullptr;
    }
    std::deque<Extent> made;  // addresses stay
  };
  Extents extents_;
};

}  // namespace

std::vector<int64_t> output_shape(IPluginV3OneBuild& build, std::vector<Input> const& inputs,
                                  Map const& map, bool is_known) {
  Builder builder;
  std::vector<DimsExprs> dims(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    dims[i].nbDims = static_cast<int32_t>(inputs[i].shape.size());
    for (int32_t axis = 0; axis < dims[i].nbDims; ++axis) {
      bool const is_of_map = i == 0 && axis < 3;
      dims[i].d[axis] = builder.make(!is_of_map ? inputs[i].shape[axis]
                                     : is_known ? map[axis]
                                                : kUnknown);
    }
  }
  DimsExprs output{};
  accept(build.getOutputShapes(dims.data(), static_cast<int32_t>(dims.size()), nullptr, 0, &output,
                               1, builder),
         "shapes");
  require(output.nbDims == 4, "the output's shape has " + std::to_string(output.nbDims) + " axes");
  std::vector<int64_t> shape;
  for (int32_t axis = 0; axis < 4; ++axis) {
    require(output.d[axis] != nullptr, "the output's shape lacks an axis");
    bool const is_map = axis < 3;
    bool const passed = is_map && output.d[axis] == dims[0].d[axis];
    require(passed == is_map, "the output's map is not that of qkv");
    shape.push_back(output.d[axis]->isConstant() ? output.d[axis]->getConstantValue() : -1);
  }
  return shape;
}

}  // namespace plugin_host
