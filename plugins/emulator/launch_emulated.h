/*!
 * \file
 * \brief The emulated form of launch.h.
 */
#pragma once

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief A kernel with its parameters' type forgotten. */
struct Work {
  void const* kernel;
  void const* params;
  void (*call)(void const* kernel, void const* params);
};

/*! \brief Run all CTAs, one after another.
 *  \return 0, or -2 if anything was wrong; launch_status_text and edgeattn_emulator_report say
 *  what. */
int32_t launch(Work const& work, LaunchShape shape, MemoryRegion const* regions,
               int32_t num_regions);

/*! \brief What was wrong with the last launch. */
char const* launch_text();

}  // namespace edgeattn::emulator

#pragma GCC visibility pop

namespace edgeattn {

/*! \brief Run `kernel(params)` to its end.
 *  \param regions  [num_regions], what the kernel may touch.
 *  \return 0, or -2 (EDGEATTN_EMULATOR_VIOLATION) if anything was wrong. */
template <typename Params>
int32_t launch_kernel(void (*kernel)(Params), LaunchShape shape, Params const& params,
                      void* /*stream*/, MemoryRegion const* regions, int32_t num_regions) {
  static_assert(std::is_trivially_copyable_v<Params>, "parameters travel as bytes");
  static_assert(sizeof(Params) <= 4096, "parameters of a kernel take at most 4 KiB");
  auto const call = [](void const* function, void const* arguments) {
    reinterpret_cast<void (*)(Params)>(const_cast<void*>(function))(
        *static_cast<Params const*>(arguments));
  };
  emulator::Work const work{reinterpret_cast<void const*>(kernel), &params, call};
  return emulator::launch(work, shape, regions, num_regions);
}

/*! \brief One multiprocessor as Orin has it: so a CTA has a lot to do, one thing after another. */
inline DeviceSize current_device_size() { return {1, 164 << 10, 163 << 10}; }

/*! \brief What a status of launch_kernel means. */
inline char const* launch_status_text(int32_t status) {
  return status == 0 ? "no error" : emulator::launch_text();
}

}  // namespace edgeattn
