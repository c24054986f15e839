#include "fields.h"

#include <cstring>
#include <limits>
#include <sstream>

#include "rules.h"

namespace plugin_host {
namespace {

using nvinfer1::PluginFieldType;

template <typename T>
void append(std::string& data, T value) {
  data.append(reinterpret_cast<char const*>(&value), sizeof value);
}

template <typename T>
T entry(std::string const& data, int32_t index) {
  T value;
  std::memcpy(&value, data.data() + index * sizeof value, sizeof value);
  return value;
}

size_t entry_bytes(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kINT32:
    case PluginFieldType::kFLOAT32:
      return 4;
    case PluginFieldType::kINT64:
    case PluginFieldType::kFLOAT64:
      return 8;
    case PluginFieldType::kCHAR:
    case PluginFieldType::kUNKNOWN:
      return 1;
    default:
      throw Broken("a field of a type that this driver does not know");
  }
}

}  // namespace

bool Field::operator==(Field const& other) const {
  return name == other.name && type == other.type && length == other.length && data == other.data;
}

std::string Field::text() const {
  if (type == PluginFieldType::kCHAR) {
    return name + '=' + data.c_str();
  }
  std::ostringstream text;
  text.precision(std::numeric_limits<float>::max_digits10);
  bool const is_list = name.rfind("group_", 0) == 0;
  text << name << (is_list ? "=[" : "=");
  for (int32_t i = 0; i < length; ++i) {
    text << (i > 0 ? "," : "");
    if (type == PluginFieldType::kFLOAT32) {
      text << entry<float>(data, i);
    } else {
      text << entry<int32_t>(data, i);
    }
  }
  text << (is_list ? "]" : "");
  return text.str();
}

Field make_field(std::string const& name, std::string const& type,
                 std::vector<std::string> const& values) {
  Field field{name, PluginFieldType::kUNKNOWN, static_cast<int32_t>(values.size()), {}};
  if (type == "char") {
    field.type = PluginFieldType::kCHAR;
    field.data = values.empty() ? "" : values[0];
    field.data.push_back('\0');
    field.length = static_cast<int32_t>(field.data.size());
    return field;
  }
  for (std::string const& value : values) {
    if (type == "int32") {
      field.type = PluginFieldType::kINT32;
      append(field.data, static_cast<int32_t>(std::stol(value)));
    } else if (type == "int64") {
      field.type = PluginFieldType::kINT64;
      append(field.data, static_cast<int64_t>(std::stoll(value)));
    } else if (type == "float32") {
      field.type = PluginFieldType::kFLOAT32;
      append(field.data, std::stof(value));
    } else if (type == "float64") {
      field.type = PluginFieldType::kFLOAT64;
      append(field.data, std::stod(value));
    } else {
      throw Broken("the case has a field of type " + type);
    }
  }
  if (values.empty()) {
    field.type = type == "float32" ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
  }
  return field;
}

std::vector<Field> copy_of(nvinfer1::PluginFieldCollection const& collection) {
  std::vector<Field> fields;
  for (int32_t i = 0; i < collection.nbFields; ++i) {
    nvinfer1::PluginField const& field = collection.fields[i];
    require(field.name != nullptr && std::strlen(field.name) > 0, "a field without a name");
    require(field.data != nullptr && field.length > 0, std::string("no data in ") + field.name);
    fields.push_back({field.name, field.type, field.length,
                      std::string(static_cast<char const*>(field.data),
                                  field.length * entry_bytes(field.type))});
  }
  return fields;
}

Collection::Collection(std::vector<Field> const& fields) {
  for (Field const& field : fields) {
    unaligned_.push_back(std::string(1, '#') + field.data);
  }
  for (size_t i = 0; i < fields.size(); ++i) {
    fields_.emplace_back(fields[i].name.c_str(),
                         fields[i].length == 0 ? nullptr : unaligned_[i].data() + 1, fields[i].type,
                         fields[i].length);
  }
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

}  // namespace plugin_host
