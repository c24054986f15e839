/*!
 * \file
 * \brief Threads that take turns on one processor: a stack each, and a switch between them.
 *
 * The switch is a few instructions on x86-64 and AArch64: all registers are declared as clobbered,
 * so the compiler saves those that are in use, and only the stack pointer, the frame pointer and
 * the address to go on at are exchanged. Elsewhere, or with EDGEATTN_EMULATOR_UCONTEXT, ucontext
 * does it, about ten times slower.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(EDGEATTN_EMULATOR_UCONTEXT)
#define EDGEATTN_EMULATOR_ASM_SWITCH 1
#else
#include <ucontext.h>
#endif

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief Memory for many stacks, each with an inaccessible page below. */
class Stacks {
 public:
  Stacks() = default;
  Stacks(Stacks const&) = delete;
  Stacks& operator=(Stacks const&) = delete;
  ~Stacks();

  /*! \brief Have at least so many; those handed out before are lost.
   *  \return whether the memory was to be had. */
  bool reserve(int32_t count);

  /*! \brief The upper end of a stack. The ends lie in different cache sets: the threads of a warp
   *  touch the same few lines of theirs in turn. */
  void* top(int32_t index) const;

 private:
  unsigned char* memory_ = nullptr;
  int32_t count_ = 0;
};

struct Fiber {
#if defined(EDGEATTN_EMULATOR_ASM_SWITCH)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
};

/*! \brief Let a fiber begin at `entry`, which may not return, at the next switch to it. */
void prepare_fiber(Fiber& fiber, void* stack_top, void (*entry)());

#if defined(EDGEATTN_EMULATOR_ASM_SWITCH) && defined(__x86_64__)

inline __attribute__((always_inline)) void switch_fiber(Fiber& from, Fiber& to) {
  void** save = &from.stack_pointer;
  void* load = to.stack_pointer;
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t"  // past the red zone
      "pushq %%rbp\n\t"
      "leaq 1f(%%rip), %%rax\n\t"
      "pushq %%rax\n\t"
      "movq %%rsp, (%0)\n\t"
      "movq %1, %%rsp\n\t"
      "popq %%rax\n\t"
      "jmpq *%%rax\n"
      "1:\n\t"
      "popq %%rbp\n\t"
      "leaq 128(%%rsp), %%rsp"
      : "+D"(save), "+S"(load)
      :
      : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",
        "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
}

#elif defined(EDGEATTN_EMULATOR_ASM_SWITCH)

inline __attribute__((always_inline)) void switch_fiber(Fiber& from, Fiber& to) {
  register void** save asm("x0") = &from.stack_pointer;
  register void* load asm("x1") = to.stack_pointer;
  asm volatile(
      "adr x9, 1f\n\t"
      "stp x29, x9, [sp, #-16]!\n\t"
      "mov x9, sp\n\t"
      "str x9, [%0]\n\t"
      "mov sp, %1\n\t"
      "ldp x29, x9, [sp], #16\n\t"
      "br x9\n"
      "1:"
      : "+r"(save), "+r"(load)
      :
      : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
        "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28",
        "x30", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12",
        "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25",
        "v26", "v27", "v28", "v29", "v30", "v31", "memory", "cc");
}

#else

inline void switch_fiber(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

#endif

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
