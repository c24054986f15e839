/*!
 * \file
 * \brief Run an engine of edgeattn without Python: a starting point for code of your own.
 *
 *     run_engine ENGINE [--plugin LIBRARY] [--input NAME=FILE]... [--outputs FOLDER] [--queries N]
 *
 * Input files hold the values alone, as `array.tofile` writes them; what is not named is zeros.
 * Inputs of free size take the shape that the engine was tuned for. With a folder, each output goes
 * to FOLDER/NAME.bin. What the engine needs stands in ENGINE.json, which `edgeattn inspect` reads:
 * TensorRT's version, the GPU, the plugin library. TensorRT refuses an engine of others.
 */
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(std::string const& what) { throw std::runtime_error(what); }

void check(cudaError_t status, char const* what) {
  if (status != cudaSuccess) fail(std::string(what) + ": " + cudaGetErrorString(status));
}

//! \brief Passes on what TensorRT says from warnings upwards.
class Logger : public nvinfer1::ILogger {
  void log(Severity severity, char const* text) noexcept override {
    if (severity <= Severity::kWARNING) std::cerr << "TensorRT: " << text << "\n";
  }
};

//! \brief An input or output with its memory on both sides; the host's is page-locked.
struct Tensor {
  std::string name;
  bool is_input{};
  size_t bytes{};
  std::shared_ptr<void> host, device;
};

struct Options {
  std::string engine;
  std::map<std::string, std::string> inputs;  // file by name
  std::map<std::string, std::string> others{
      {"--plugin", ""}, {"--outputs", ""}, {"--queries", "100"}};
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string const word = argv[i];
    if (word.rfind("--", 0) != 0) {
      options.engine = word;
      continue;
    }
    if (++i == argc) fail("nothing follows " + word);
    std::string const value = argv[i];
    if (auto const end = value.find('='); word == "--input" && end != std::string::npos) {
      options.inputs[value.substr(0, end)] = value.substr(end + 1);
    } else if (options.others.count(word) > 0) {
      options.others[word] = value;
    } else {
      fail("not understood: " + word + " " + value);
    }
  }
  if (options.engine.empty()) fail("name an engine");
  return options;
}

std::vector<char> read(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

size_t element_bytes(nvinfer1::DataType type) {
  using nvinfer1::DataType;
  static std::map<DataType, size_t> const bytes{
      {DataType::kINT64, 8}, {DataType::kFLOAT, 4}, {DataType::kINT32, 4},
      {DataType::kHALF, 2},  {DataType::kBF16, 2},  {DataType::kINT8, 1},
      {DataType::kUINT8, 1}, {DataType::kFP8, 1},   {DataType::kBOOL, 1}};
  auto const found = bytes.find(type);
  return found != bytes.end() ? found->second : throw std::runtime_error("a type of no known size");
}

//! \brief Settles all shapes, allocates the tensors and tells the context where they are.
std::vector<Tensor> bind(nvinfer1::ICudaEngine const& engine,
                         nvinfer1::IExecutionContext& context) {
  using nvinfer1::OptProfileSelector;
  using nvinfer1::TensorIOMode;
  std::vector<Tensor> tensors;
  for (int i = 0; i < engine.getNbIOTensors(); ++i) {
    char const* name = engine.getIOTensorName(i);
    if (engine.isShapeInferenceIO(name)) fail(std::string(name) + " holds a shape: not supported");
    bool const is_input = engine.getTensorIOMode(name) == TensorIOMode::kINPUT;
    auto const tuned = engine.getProfileShape(name, 0, OptProfileSelector::kOPT);
    if (is_input && !context.setInputShape(name, tuned)) fail(std::string("no shape for ") + name);
    tensors.push_back({name, is_input, 0, nullptr, nullptr});
  }
  for (auto& tensor : tensors) {  // outputs have shapes once all inputs have theirs
    auto const shape = context.getTensorShape(tensor.name.c_str());
    tensor.bytes = element_bytes(engine.getTensorDataType(tensor.name.c_str()));
    for (int d = 0; d < shape.nbDims; ++d) {
      if (shape.d[d] < 0) fail("the size of " + tensor.name + " depends on values: not supported");
      tensor.bytes *= static_cast<size_t>(shape.d[d]);
    }
    void* memory = nullptr;
    check(cudaMallocHost(&memory, std::max<size_t>(tensor.bytes, 1)), "page-locked memory");
    tensor.host.reset(memory, cudaFreeHost);
    std::memset(memory, 0, tensor.bytes);
    check(cudaMalloc(&memory, std::max<size_t>(tensor.bytes, 1)), "memory on the GPU");
    tensor.device.reset(memory, cudaFree);
    if (!context.setTensorAddress(tensor.name.c_str(), memory)) fail("no address: " + tensor.name);
  }
  return tensors;
}

void copy(std::vector<Tensor> const& tensors, bool inputs, cudaStream_t stream) {
  for (auto const& t : tensors) {
    if (t.is_input != inputs) continue;
    void* const to = inputs ? t.device.get() : t.host.get();
    void const* const from = inputs ? t.host.get() : t.device.get();
    check(cudaMemcpyAsync(to, from, t.bytes, cudaMemcpyDefault, stream), "copy");
  }
}

void run(Options const& options) {
  Logger logger;
  std::unique_ptr<nvinfer1::IRuntime> runtime{nvinfer1::createInferRuntime(logger)};
  if (!runtime) fail("TensorRT does not start");
  auto const& plugin = options.others.at("--plugin");
  if (!plugin.empty() && !runtime->getPluginRegistry().loadLibrary(plugin.c_str()))
    fail("TensorRT does not load " + plugin);
  auto const plan = read(options.engine);
  std::unique_ptr<nvinfer1::ICudaEngine> engine{
      runtime->deserializeCudaEngine(plan.data(), plan.size())};
  if (!engine) fail("TensorRT refuses " + options.engine + ": its messages are above");
  std::unique_ptr<nvinfer1::IExecutionContext> context{engine->createExecutionContext()};
  if (!context) fail("no memory for an execution context");
  auto const tensors = bind(*engine, *context);
  for (auto const& [name, path] : options.inputs) {
    auto const values = read(path);
    auto const is_it = [&name = name](Tensor const& t) { return t.is_input && t.name == name; };
    auto const found = std::find_if(tensors.begin(), tensors.end(), is_it);
    if (found == tensors.end()) fail("the engine has no input " + name);
    if (values.size() != found->bytes) fail(path + " does not have the size of " + name);
    std::memcpy(found->host.get(), values.data(), values.size());
  }
  cudaStream_t stream{};  // not the default one, which waits for all others; it ends with us
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  cudaEvent_t begin{}, end{};
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> latency_ms;
  int const queries = std::max(1, std::atoi(options.others.at("--queries").c_str()));
  for (int i = -10; i < queries; ++i) {  // ten to warm up
    check(cudaEventRecord(begin, stream), "event");
    copy(tensors, true, stream);
    if (!context->enqueueV3(stream)) fail("TensorRT cannot run the query");
    copy(tensors, false, stream);
    check(cudaEventRecord(end, stream), "event");
    check(cudaStreamSynchronize(stream), "query");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i >= 0) latency_ms.push_back(ms);
  }
  std::sort(latency_ms.begin(), latency_ms.end());
  std::cout << "latency with copies: median " << latency_ms[(latency_ms.size() - 1) / 2]
            << " ms, slowest " << latency_ms.back() << " ms of " << latency_ms.size() << "\n";
  auto const& folder = options.others.at("--outputs");
  for (auto const& t : tensors) {
    if (t.is_input || folder.empty()) continue;
    std::ofstream file(folder + "/" + t.name + ".bin", std::ios::binary);
    if (!file.write(static_cast<char const*>(t.host.get()), static_cast<std::streamsize>(t.bytes)))
      fail("cannot write " + t.name + ".bin to " + folder);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
  } catch (std::exception const& err) {
    std::cerr << "run_engine: " << err.what() << "\n";
    return 1;
  }
  return 0;
}
