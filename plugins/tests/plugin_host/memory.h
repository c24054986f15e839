/*!
 * \file
 * \brief Memory and streams where the kernels run: on the GPU, or on the host for the emulator.
 */
#pragma once

#include <NvInferRuntime.h>

#include <functional>
#include <memory>
#include <string>

namespace plugin_host {

/*! Memory with guarded ends. */
class Buffer {
 public:
  /*! Every byte is 0xFF at first: NaN, or -1 as INT8. */
  explicit Buffer(size_t bytes);
  explicit Buffer(std::string const& bytes);

  void* data() const;
  void fill(char byte);

  /*! \throw Broken if a byte before or behind the memory was written. */
  std::string download() const;

 private:
  size_t bytes_;
  std::shared_ptr<void> memory_;
};

/*! A stream that is not the default one. */
class Stream {
 public:
  Stream();
  cudaStream_t get() const { return static_cast<cudaStream_t>(stream_.get()); }
  void synchronize() const;

  /*! \brief Capture what `work` enqueues, and launch it. False where nothing can be captured. */
  bool capture_and_launch(std::function<void()> const& work) const;

 private:
  std::shared_ptr<void> stream_;
};

}  // namespace plugin_host
