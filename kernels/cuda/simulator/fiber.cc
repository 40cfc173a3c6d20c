// Fibers: a stack each, and a switch that saves the registers which a call preserves.
#include "kernels/cuda/simulator/internal.h"

#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__) && !defined(SIMULATOR_UCONTEXT)
#define OWN_SWITCH 1  // a hundred times quicker than swapcontext, which asks the system for the signals' mask
#else
#include <ucontext.h>
#endif
#ifdef SIMULATOR_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace simulator {

// A guard page below each. The first frame of neighbours lies at another line of the cache.
enum { STACK_BYTES = 256 << 10, COLOURS = 64, COLOUR_BYTES = 192 };

#ifdef OWN_SWITCH
extern "C" __attribute__((visibility("hidden"))) void simulator_switch_stacks(void **save, void *to);
asm(R"(
.text
.globl simulator_switch_stacks
.hidden simulator_switch_stacks
.type simulator_switch_stacks, @function
simulator_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simulator_switch_stacks, .-simulator_switch_stacks
)");
#endif

static char *stack_of(int number) {
  static std::vector<char *> stacks;
  static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  while (stacks.size() <= static_cast<size_t>(number)) {
    void *memory = mmap(nullptr, STACK_BYTES + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE)) {
      fprintf(stderr, "simulated device: no memory for the stacks of threads\n");
      abort();
    }
    stacks.push_back(static_cast<char *>(memory) + page);
  }
  return stacks[static_cast<size_t>(number)];
}

void fiber_prepare(Fiber *fiber, int number, void (*entry)()) {
  fiber->stack = stack_of(number);
  fiber->stack_bytes = STACK_BYTES;
  fiber->fake_stack = nullptr;
#ifdef OWN_SWITCH
  // At a function's entry the stack pointer is 8 above a multiple of 16: below the return address, which is 0 here.
  void **top = reinterpret_cast<void **>(fiber->stack + STACK_BYTES - number % COLOURS * COLOUR_BYTES);
  *--top = nullptr;
  *--top = reinterpret_cast<void *>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber->saved = top;
#else
  static std::vector<ucontext_t *> contexts;
  while (contexts.size() <= static_cast<size_t>(number)) contexts.push_back(new ucontext_t);
  ucontext_t *context = contexts[static_cast<size_t>(number)];
  getcontext(context);
  context->uc_stack.ss_sp = fiber->stack;
  context->uc_stack.ss_size = STACK_BYTES;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  fiber->saved = context;
#endif
}

static Fiber *origin;  // of the last switch

void fiber_begin() {
#ifdef SIMULATOR_ASAN
  const void *bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!origin->stack) origin->stack = static_cast<char *>(const_cast<void *>(bottom)), origin->stack_bytes = size;
#endif
}

void fiber_switch(Fiber *from, Fiber *to, bool from_is_done) {
  origin = from;
#ifdef SIMULATOR_ASAN
  __sanitizer_start_switch_fiber(from_is_done ? nullptr : &from->fake_stack, to->stack, to->stack_bytes);
#else
  (void)from_is_done;
#endif
#ifdef OWN_SWITCH
  simulator_switch_stacks(&from->saved, to->saved);
#else
  static ucontext_t outside;
  if (!from->saved) from->saved = &outside;
  swapcontext(static_cast<ucontext_t *>(from->saved), static_cast<ucontext_t *>(to->saved));
#endif
#ifdef SIMULATOR_ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

}  // namespace simulator
