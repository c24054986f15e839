/*!
 * \file
 * \brief Starting a kernel: on a CUDA stream, or in the emulator.
 */
#pragma once

#include <stdint.h>

#include <type_traits>

#include "edgeattn/device_size.h"
#include "edgeattn/platform.h"

namespace edgeattn {

struct LaunchShape {
  int32_t ctas;             //!< 0: nothing is launched
  int32_t threads_per_cta;  //!< a multiple of 32, at most 1024
  int32_t shared_bytes;     //!< dynamic shared memory per CTA
};

/*! \brief Global memory that a kernel may touch; the emulator takes every access outside of these
 *  for an error, and so reads of a writable region before the kernel wrote there. */
struct MemoryRegion {
  void const* begin;
  int64_t bytes;
  bool writable;
  char const* name;  //!< for messages: "qkv"
};

}  // namespace edgeattn

#if defined(EDGEATTN_EMULATOR)
#include "../../emulator/launch_emulated.h"
#else

#include <cuda_runtime_api.h>

namespace edgeattn {

/*! \brief Let a kernel's CTAs have all the shared memory of the current device, and as many of them
 * as fit an SM, not as few as need be: more of L1 for shared memory.
 *
 * Attributes belong to the function, and between this call and its launch may come those of other
 * threads: so all launches ask for the same. Setting an attribute may wait for copies, hence only
 * what is not so yet is set. */
inline cudaError_t give_shared_memory(void const* function) {
  int device = 0;
  int cta_bytes = 0;
  cudaFuncAttributes now{};
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&cta_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (status == cudaSuccess) status = cudaFuncGetAttributes(&now, function);
  cta_bytes -= static_cast<int>(now.sharedSizeBytes);
  if (status == cudaSuccess && now.maxDynamicSharedSizeBytes != cta_bytes) {
    status = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, cta_bytes);
  }
  if (status == cudaSuccess && now.preferredShmemCarveout != cudaSharedmemCarveoutMaxShared) {
    status = cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared);
  }
  return status;
}

/*! \brief Enqueue `kernel(params)`.
 *  \param stream   a `cudaStream_t`; may be capturing.
 *  \param regions  [num_regions], what the kernel may touch; only the emulator looks.
 *  \return 0 or a `cudaError_t`. */
template <typename Params>
int32_t launch_kernel(void (*kernel)(Params), LaunchShape shape, Params const& params, void* stream,
                      MemoryRegion const* /*regions*/, int32_t /*num_regions*/) {
  static_assert(std::is_trivially_copyable_v<Params>, "parameters travel as bytes");
  static_assert(sizeof(Params) <= 4096, "parameters of a kernel take at most 4 KiB");
  if (shape.ctas == 0) return cudaSuccess;
  void const* const function = reinterpret_cast<void const*>(kernel);
  // The first call loads the kernel, which a capture of this thread would not have otherwise.
  cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeRelaxed;
  cudaError_t status = cudaThreadExchangeStreamCaptureMode(&capture_mode);
  if (status != cudaSuccess) return status;
  status = give_shared_memory(function);
  cudaThreadExchangeStreamCaptureMode(&capture_mode);  // as it was
  if (status != cudaSuccess) return status;
  void* arguments[] = {const_cast<Params*>(&params)};
  return cudaLaunchKernel(function, dim3(static_cast<uint32_t>(shape.ctas)),
                          dim3(static_cast<uint32_t>(shape.threads_per_cta)), arguments,
                          static_cast<size_t>(shape.shared_bytes),
                          static_cast<cudaStream_t>(stream));
}

/*! \brief The size of the current device; where there is none, of the smallest one that is served.
 */
inline DeviceSize current_device_size() {
  DeviceSize const smallest{8, 164 << 10, 163 << 10};  // Orin Nano
  DeviceSize size = smallest;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&size.multiprocessors, cudaDevAttrMultiProcessorCount, device) !=
          cudaSuccess ||
      cudaDeviceGetAttribute(&size.shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor,
                             device) != cudaSuccess ||
      cudaDeviceGetAttribute(&size.cta_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                             device) != cudaSuccess) {
    cudaGetLastError();  // a launch will tell the caller
    return smallest;
  }
  return size;
}

/*! \brief What a status of launch_kernel means. */
inline char const* launch_status_text(int32_t status) {
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}

}  // namespace edgeattn

#endif
