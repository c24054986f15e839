/*!
 * \file
 * \brief Load a library as any program would, without a GPU: does it hold what it needs?
 *
 *     load_library LIBRARY
 *
 * Prints the build info; asks for a plain node and for one that must be refused. The exit code is
 * 0 if all of it went well. It needs no CUDA, so that it runs under qemu-user too.
 */
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "edgeattn/edgeattn.h"

namespace {

int fail(char const* what, char const* detail) {
  std::fprintf(stderr, "%s: %s\n", what, detail);
  return 1;
}

template <typename Function>
Function* find(void* library, char const* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

//! \brief One group of `qkv_heads` heads with a window of 7x7, bare of everything optional.
struct Node {
  int32_t zeros[2] = {0, 0};
  int32_t ones[2] = {1, 1};
  int32_t window[2] = {7, 7};
  int32_t heads = 3;
  EdgeattnAttributes attributes{};

  explicit Node(int32_t head_dim) {
    attributes.head_dim = head_dim;
    attributes.qkv_heads = heads;
    attributes.mask_value = -100.0F;
    attributes.num_groups = 1;
    attributes.group_head_offset = zeros;
    attributes.group_num_heads = &heads;
    attributes.group_window = window;
    attributes.group_shift = zeros;
    attributes.group_mode = zeros;
    attributes.group_dilation = ones;
    attributes.group_causal = zeros;
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    return fail("usage", "load_library LIBRARY");
  }
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return fail("cannot be loaded", dlerror());
  }
  auto* abi_version = find<decltype(edgeattn_abi_version)>(library, "edgeattn_abi_version");
  auto* build_info = find<decltype(edgeattn_build_info)>(library, "edgeattn_build_info");
  auto* check = find<decltype(edgeattn_check)>(library, "edgeattn_check");
  if (abi_version == nullptr || build_info == nullptr || check == nullptr) {
    return fail("a function is missing", dlerror());
  }
  if (abi_version() != EDGEATTN_ABI_VERSION) {
    return fail("another version of the C interface", build_info());
  }
  std::printf("%s\n", build_info());

  char message[EDGEATTN_MESSAGE_BYTES] = "";
  Node const plain(32);
  if (check(&plain.attributes, EDGEATTN_FLOAT16, EDGEATTN_FLOAT16, message, sizeof message) != 0) {
    return fail("a plain node is refused", message);
  }
  Node const odd(31);
  if (check(&odd.attributes, EDGEATTN_FLOAT16, EDGEATTN_FLOAT16, message, sizeof message) == 0 ||
      std::strlen(message) == 0) {
    return fail("a head_dim of 31 in FP16 is not refused", "expected a message");
  }
  return 0;
}
