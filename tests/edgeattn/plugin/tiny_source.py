"""A `plugins/` folder that compiles in seconds: the project's CMake around one small kernel."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeattn.plugin.source import plugin_source

KERNEL = """
#include "edgeattn/edgeattn.h"

#include <cuda_runtime.h>

namespace {
__global__ void double_kernel(float* x) { x[threadIdx.x] *= 2.0F; }
}  // namespace

int32_t edgeattn_check(EdgeattnAttributes const* attributes, int32_t, int32_t, char* message,
                       size_t message_bytes) {
  if (attributes->head_dim % 8 == 0) return EDGEATTN_SUCCESS;
  if (message != nullptr && message_bytes > 1) message[0] = 'x', message[1] = 0;
  return EDGEATTN_INVALID_ARGUMENT;
}

int32_t edgeattn_variants(EdgeattnAttributes const*, EdgeattnProblem const*, int32_t*, int32_t) {
  return 0;
}

int32_t edgeattn_window_attention(EdgeattnAttributes const*, EdgeattnProblem const*,
                                  EdgeattnTensors const* tensors, int32_t, void* stream, char*,
                                  size_t) {
  double_kernel<<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<float*>(tensors->out));
  return cudaGetLastError();
}
"""
ADAPTER = """
#include <NvInferVersion.h>

extern "C" __attribute__((visibility("default"))) void* getCreators(int* count) {
  *count = NV_TENSORRT_MAJOR;
  return nullptr;
}
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(void*) {}
"""
HEADER = """
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 3
#define NV_TENSORRT_PATCH 0
"""


def tiny_source(folder: Path) -> Path:
    """Write the source."""
    real = plugin_source()
    shutil.copytree(real / "cmake", folder / "cmake")
    for name in (
        "CMakeLists.txt",
        "include/edgeattn/edgeattn.h",
        "launch/build_info.cpp",
        "launch/exports.map",
        "trt/exports.map",
        "trt/identity.h",
        "trt/plugin_info.cpp",
        "tests/load_library.cpp",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real / name, folder / name)
    (folder / "launch/double.cu").write_text(KERNEL)
    (folder / "trt/adapter.cpp").write_text(ADAPTER)
    return folder


def tiny_headers(folder: Path) -> Path:
    """Write headers that say they are TensorRT 10.3's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "NvInfer.h").touch()
    (folder / "NvInferVersion.h").write_text(HEADER)
    return folder
