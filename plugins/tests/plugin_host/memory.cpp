#include "memory.h"

#include <cstdlib>
#include <cstring>

#include "rules.h"

namespace plugin_host {
namespace {

constexpr size_t kGuardBytes = 256;  // keeps the alignment of cudaMalloc
constexpr char kGuard = '\x5A';

#ifdef EDGEATTN_EMULATOR

std::shared_ptr<void> allocate(size_t bytes) {
  size_t const rounded = (bytes + kGuardBytes - 1) / kGuardBytes * kGuardBytes;
  void* const memory = std::aligned_alloc(kGuardBytes, rounded);
  require(memory != nullptr, "out of memory");
  return {memory, std::free};
}

void copy(void* to, void const* from, size_t bytes) { std::memcpy(to, from, bytes); }
void set(void* to, char byte, size_t bytes) { std::memset(to, byte, bytes); }

#else

void succeed(cudaError_t error) {
  if (error != cudaSuccess) {
    throw Broken(std::string("CUDA: ") + cudaGetErrorString(error));
  }
}

std::shared_ptr<void> allocate(size_t bytes) {
  void* memory = nullptr;
  succeed(cudaMalloc(&memory, bytes));
  return {memory, [](void* m) { cudaFree(m); }};
}

// Streams here are non-blocking, and a copy from pageable memory may return before it is there.
void copy(void* to, void const* from, size_t bytes) {
  succeed(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
  succeed(cudaDeviceSynchronize());
}

void set(void* to, char byte, size_t bytes) {
  succeed(cudaMemset(to, byte, bytes));
  succeed(cudaDeviceSynchronize());
}

#endif

}  // namespace

Buffer::Buffer(size_t bytes) : bytes_(bytes), memory_(allocate(bytes + 2 * kGuardBytes)) {
  set(memory_.get(), kGuard, bytes_ + 2 * kGuardBytes);
  fill('\xFF');
}

Buffer::Buffer(std::string const& bytes) : Buffer(bytes.size()) {
  copy(data(), bytes.data(), bytes.size());
}

void* Buffer::data() const { return static_cast<char*>(memory_.get()) + kGuardBytes; }

void Buffer::fill(char byte) { set(data(), byte, bytes_); }

std::string Buffer::download() const {
  std::string all(bytes_ + 2 * kGuardBytes, '\0');
  copy(all.data(), memory_.get(), all.size());
  std::string const guard(kGuardBytes, kGuard);
  require(all.compare(0, kGuardBytes, guard) == 0, "a write before the tensor");
  require(all.compare(kGuardBytes + bytes_, kGuardBytes, guard) == 0, "a write behind the tensor");
  return all.substr(kGuardBytes, bytes_);
}

#ifdef EDGEATTN_EMULATOR

Stream::Stream() = default;

void Stream::synchronize() const {}

bool Stream::capture_and_launch(std::function<void()> const& /*work*/) const { return false; }

#else

Stream::Stream() {
  cudaStream_t stream = nullptr;
  succeed(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  stream_ = {stream, [](void* s) { cudaStreamDestroy(static_cast<cudaStream_t>(s)); }};
}

void Stream::synchronize() const { succeed(cudaStreamSynchronize(get())); }

bool Stream::capture_and_launch(std::function<void()> const& work) const {
  succeed(cudaStreamBeginCapture(get(), cudaStreamCaptureModeThreadLocal));
  work();
  cudaGraph_t graph = nullptr;
  succeed(cudaStreamEndCapture(get(), &graph));
  size_t nodes = 0;
  succeed(cudaGraphGetNodes(graph, nullptr, &nodes));
  require(nodes <= 1, "expected one kernel launch, captured " + std::to_string(nodes) + " nodes");
  cudaGraphExec_t executable = nullptr;
  succeed(cudaGraphInstantiateWithFlags(&executable, graph, 0));
  succeed(cudaGraphLaunch(executable, get()));
  synchronize();
  succeed(cudaGraphExecDestroy(executable));
  succeed(cudaGraphDestroy(graph));
  return true;
}

#endif

}  // namespace plugin_host
