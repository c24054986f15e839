/*!
 * \file
 * \brief Plugin fields that own their names and data, as an engine does.
 */
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace plugin_host {

struct Field {
  std::string name;
  nvinfer1::PluginFieldType type = nvinfer1::PluginFieldType::kUNKNOWN;
  int32_t length = 0;
  std::string data;  //!< raw bytes

  bool operator==(Field const& other) const;

  /*! \brief `name=value`, a list of integers in brackets. */
  std::string text() const;
};

/*! \brief A field of a case: `TYPE` is int32, int64, float32, float64 or char.
 *  \param values  of char: nothing or one word, stored with its NUL as the ONNX parser does. */
Field make_field(std::string const& name, std::string const& type,
                 std::vector<std::string> const& values);

std::vector<Field> copy_of(nvinfer1::PluginFieldCollection const& collection);

/*! Fields as TensorRT passes them; valid as long as `fields` and this object. The data of lists
 *  lie at odd addresses: a plugin may not count on any alignment. */
class Collection {
 public:
  explicit Collection(std::vector<Field> const& fields);
  Collection(Collection const&) = delete;
  Collection& operator=(Collection const&) = delete;

  nvinfer1::PluginFieldCollection const* get() const { return &collection_; }

 private:
  std::vector<std::string> unaligned_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace plugin_host
