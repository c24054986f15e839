/*!
 * \file
 * \brief The words that differ between the compilers of one kernel source: nvcc, and g++ for the
 * emulator and for host code.
 */
#pragma once

#if defined(__CUDACC__) && !defined(EDGEATTN_EMULATOR)

#define EDGEATTN_HOST_DEVICE __host__ __device__ __forceinline__
#define EDGEATTN_DEVICE __device__ __forceinline__
#define EDGEATTN_KERNEL __global__
#define EDGEATTN_GRID_CONSTANT __grid_constant__
#define EDGEATTN_LAUNCH_BOUNDS(threads, min_ctas) __launch_bounds__(threads, min_ctas)
#define EDGEATTN_UNROLL _Pragma("unroll")
#define EDGEATTN_NO_UNROLL _Pragma("unroll 1")

#else

#define EDGEATTN_HOST_DEVICE inline
#define EDGEATTN_DEVICE inline
#define EDGEATTN_KERNEL
#define EDGEATTN_GRID_CONSTANT
#define EDGEATTN_LAUNCH_BOUNDS(threads, min_ctas)
#define EDGEATTN_UNROLL
#define EDGEATTN_NO_UNROLL

#endif
