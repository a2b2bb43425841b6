/* Starts a program on a Cortex-M55: vector table, floating point and Helium, memory, `main`.
 *
 * Semihosting is as in https://github.com/ARM-software/abi-aa, "Semihosting for AArch32 and AArch64".
 * A board with a debugger attached, or an emulator, answers; by itself a core would fault. */

#include <stddef.h>
#include <stdint.h>

#include "board.h"

extern uint32_t stack_end[], bss_from[], bss_end[], data_from[], data_end[];
extern const uint32_t data_load[];

enum { WRITE0 = 0x04, EXIT = 0x20, APPLICATION_EXIT = 0x20026 };

static void semihost(int operation, const void *block) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = block;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

void print(const char *text) { semihost(WRITE0, text); }

void print_number(int number) {
  char digits[12], *at = digits + sizeof digits;
  unsigned left = number < 0 ? 0u - (unsigned)number : (unsigned)number;
  *--at = 0;
  do {
    *--at = (char)('0' + left % 10);
  } while (left /= 10);
  if (number < 0) *--at = '-';
  print(at);
}

_Noreturn void leave(int status) {
  const uintptr_t block[] = {APPLICATION_EXIT, (uintptr_t)status};
  semihost(EXIT, block);
  for (;;) {
  }
}

/* What compilers and the library call. The barriers keep a compiler from calling them in here. */
void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
  unsigned char *out = to;
  const unsigned char *in = from;
  while (bytes--) {
    *out++ = *in++;
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

void *memset(void *to, int value, size_t bytes) {
  unsigned char *out = to;
  while (bytes--) {
    *out++ = (unsigned char)value;
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

void *memmove(void *to, const void *from, size_t bytes) {
  unsigned char *out = to;
  const unsigned char *in = from;
  if (out <= in || out >= in + bytes) return memcpy(to, from, bytes);
  while (bytes--) {
    out[bytes] = in[bytes];
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

static _Noreturn void fault(void) {
  print("a fault: the program did what the core does not allow\n");
  leave(1);
}

/* The core begins here. Floating point may be off: nothing but words. */
_Noreturn void _start(void);

_Noreturn void _start(void) {
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: floating point and Helium */
  __asm__ volatile("dsb\n\tisb" ::: "memory");
  const uint32_t *from = data_load;
  for (volatile uint32_t *at = data_from; at < data_end; ++at) *at = *from++;
  for (volatile uint32_t *at = bss_from; at < bss_end; ++at) *at = 0;
  leave(main());
}

typedef union {
  void *stack;
  void (*handler)(void);
} vector_t;

/* The stack, and what is called at reset; then NMI and faults. */
__attribute__((section(".vectors"), used)) static const vector_t vectors[16] = {
    {.stack = stack_end}, {.handler = _start}, {.handler = fault}, {.handler = fault},
    {.handler = fault},   {.handler = fault}, {.handler = fault}, {.handler = fault},
};
