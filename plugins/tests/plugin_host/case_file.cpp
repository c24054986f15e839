#include "case_file.h"

#include <fstream>
#include <iterator>
#include <map>
#include <sstream>

#include "rules.h"

namespace plugin_host {
namespace {

using nvinfer1::DataType;

std::map<std::string, DataType> const& types() {
  static std::map<std::string, DataType> const all = {
      {"float32", DataType::kFLOAT}, {"float16", DataType::kHALF}, {"bfloat16", DataType::kBF16},
      {"int8", DataType::kINT8},     {"int32", DataType::kINT32},  {"int64", DataType::kINT64}};
  return all;
}

DataType type_of(std::string const& name) {
  auto const found = types().find(name);
  require(found != types().end(), "the case has a tensor of type " + name);
  return found->second;
}

Field read_field(std::istringstream& words) {
  std::string name, type;
  words >> name >> type;
  return make_field(name, type, {std::istream_iterator<std::string>(words), {}});
}

Map read_map(std::istringstream& words) {
  Map map{};
  words >> map[0] >> map[1] >> map[2];
  return map;
}

}  // namespace

Case read_case(std::string const& path) {
  std::ifstream file(path);
  require(file.good(), "cannot read " + path);
  Case all;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key, name, type;
    words >> key;
    if (key == "field") {
      all.fields.push_back(read_field(words));
    } else if (key == "engine") {
      all.replaced.push_back(read_field(words));
    } else if (key == "lost") {
      words >> name;
      all.lost.push_back(name);
    } else if (key == "qkv") {
      int64_t channels = 0;
      words >> type >> channels;
      all.inputs.insert(all.inputs.begin(),
                        Input{"qkv", type_of(type), "", {-1, -1, -1, channels}});
    } else if (key == "input") {
      Input input{};
      words >> input.name >> type >> input.file;
      input.type = type_of(type);
      input.shape.assign(std::istream_iterator<int64_t>(words), {});
      all.inputs.push_back(input);
    } else if (key == "range") {
      all.min = read_map(words);
      all.opt = read_map(words);
      all.max = read_map(words);
    } else if (key == "run") {
      Run run{read_map(words), "", ""};
      words >> run.qkv_file >> run.out_file;
      all.runs.push_back(run);
    } else if (key == "tactics") {
      all.all_tactics = true;
    } else {
      throw Broken("the case has a line of an unknown kind: " + line);
    }
  }
  return all;
}

std::string name_of(DataType type) {
  for (auto const& [name, value] : types()) {
    if (value == type) {
      return name;
    }
  }
  return "another";
}

std::string read_bytes(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), "cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_bytes(std::string const& path, std::string const& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  require(file.good(), "cannot write " + path);
}

}  // namespace plugin_host
