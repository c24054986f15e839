# Builds for an aarch64 board on an x86-64 machine, with g++-aarch64-linux-gnu:
#
#   cmake -S plugins -B build/aarch64 --toolchain "$PWD/plugins/cmake/aarch64-linux-gnu.cmake" \
#     -DCMAKE_CUDA_ARCHITECTURES=110 -DCMAKE_CUDA_FLAGS="-isystem CUDA/include -L RUNTIME/lib"
#
# CUDA is the toolkit at hand; RUNTIME holds libcudart_static.a of aarch64, from the wheel
# nvidia-cuda-runtime of that machine. `edgeattn plugin build` fetches it and fills this in.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CUDA_HOST_COMPILER aarch64-linux-gnu-g++)
