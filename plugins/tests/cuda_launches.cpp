/*!
 * \file
 * \brief What a launch asks of the CUDA runtime, against a runtime that keeps the book.
 *
 * It has one GPU and no kernels: functions are loaded when they are first asked about, as with lazy
 * loading, and a launch is refused where the runtime would refuse it. The exit code is 0 if all
 * went well; else a line tells what did not.
 */
#include <cstdio>
#include <functional>
#include <map>
#include <utility>

#include "edgeattn/launch.h"

namespace {

struct Params {
  int32_t number;
};

void kernel(Params) {}
void other_kernel(Params) {}

constexpr int32_t kOptinBytes = 99 << 10;
std::map<void const*, cudaFuncAttributes> functions;  // those that are loaded
cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
bool is_capturing = false;
int32_t attributes_set = 0;
int32_t launched = 0;
std::function<void()> before_launch;  // what another thread does just then

cudaFuncAttributes* load(void const* function) {
  auto const found = functions.find(function);
  if (found != functions.end()) return &found->second;
  if (is_capturing && capture_mode != cudaStreamCaptureModeRelaxed) return nullptr;
  cudaFuncAttributes fresh{};
  fresh.sharedSizeBytes = 256;
  fresh.maxDynamicSharedSizeBytes = (48 << 10) - 256;
  fresh.preferredShmemCarveout = cudaSharedmemCarveoutDefault;
  return &functions.emplace(function, fresh).first->second;
}

int32_t launch(void (*function)(Params), int32_t shared_bytes) {
  Params const params{7};
  edgeattn::LaunchShape const shape{3, 128, shared_bytes};
  return edgeattn::launch_kernel(function, shape, params, nullptr, nullptr, 0);
}

int failures = 0;

void check(bool holds, char const* what) {
  if (holds) return;
  std::printf("%s\n", what);
  ++failures;
}

}  // namespace

extern "C" {

cudaError_t cudaGetDevice(int* device) {
  *device = 3;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 3 || attribute != cudaDevAttrMaxSharedMemoryPerBlockOptin) {
    return cudaErrorInvalidValue;
  }
  *value = kOptinBytes;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, capture_mode);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void const* function) {
  cudaFuncAttributes const* const loaded = load(function);
  if (loaded == nullptr) return cudaErrorStreamCaptureUnsupported;
  *attributes = *loaded;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(void const* function, cudaFuncAttribute attribute, int value) {
  ++attributes_set;
  cudaFuncAttributes* const loaded = load(function);
  if (loaded == nullptr) return cudaErrorStreamCaptureUnsupported;
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) {
    loaded->preferredShmemCarveout = value;
    return cudaSuccess;
  }
  bool const fits = value + static_cast<int>(loaded->sharedSizeBytes) <= kOptinBytes;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || !fits) {
    return cudaErrorInvalidValue;
  }
  loaded->maxDynamicSharedSizeBytes = value;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(void const* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t) {
  if (before_launch) {
    std::function<void()> const other = std::move(before_launch);
    before_launch = nullptr;
    other();
  }
  cudaFuncAttributes const* const loaded = load(function);
  if (loaded == nullptr) return cudaErrorStreamCaptureUnsupported;
  if (static_cast<int>(shared_bytes) > loaded->maxDynamicSharedSizeBytes) {
    return cudaErrorInvalidValue;
  }
  check(grid.x == 3 && block.x == 128, "the launch has another shape");
  check(static_cast<Params const*>(arguments[0])->number == 7, "the launch has other parameters");
  ++launched;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }
char const* cudaGetErrorString(cudaError_t) { return ""; }

}  // extern "C"

int main() {
  check(launch(kernel, 80 << 10) == cudaSuccess, "a launch with 80 KiB fails");
  check(functions[reinterpret_cast<void const*>(kernel)].preferredShmemCarveout ==
            cudaSharedmemCarveoutMaxShared,
        "no room is made for more CTAs");

  before_launch = [] { check(launch(kernel, 50 << 10) == cudaSuccess, "the other launch fails"); };
  check(launch(kernel, 90 << 10) == cudaSuccess, "a smaller launch of another thread stops one");

  int32_t const set_before = attributes_set;
  launch(kernel, 60 << 10);
  launch(kernel, 1 << 10);
  check(attributes_set == set_before, "what is so already is set again");

  check(launch(kernel, 99 << 10) == cudaErrorInvalidValue, "more than fits is launched");

  is_capturing = true;
  check(launch(other_kernel, 80 << 10) == cudaSuccess, "a first launch cannot be captured");
  check(capture_mode == cudaStreamCaptureModeGlobal, "the thread's capture mode is another now");

  check(launched == 6, "the number of launches is another");
  return failures == 0 ? 0 : 1;
}
