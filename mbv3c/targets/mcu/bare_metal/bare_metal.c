// Starts a program on a Cortex-M, and talks to a debugger or emulator by semihosting.
//
// Semihosting: https://github.com/ARM-software/abi-aa, "Semihosting for AArch32 and AArch64".

#include "bare_metal.h"

#include <stdint.h>

extern uint32_t stack_from[], stack_end[], bss_from[], bss_end[];

enum { kOpen = 0x01, kClose = 0x02, kWrite0 = 0x04, kWrite = 0x05, kRead = 0x06, kLength = 0x0c };
enum { kExit = 0x20, kApplicationExit = 0x20026 };
enum { kReadBinary = 1, kWriteBinary = 5 };

static const uint32_t kUnused = 0xA5A5A5A5;  // what the stack holds where nothing has been

static intptr_t call(int operation, const void *block) {
  register intptr_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = block;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static _Noreturn void leave(uintptr_t status) {
  const uintptr_t block[] = {kApplicationExit, status};
  call(kExit, block);
  for (;;) {
  }
}

_Noreturn void fail(const char *reason) {
  call(kWrite0, "bare metal: ");
  call(kWrite0, reason);
  call(kWrite0, "\n");
  leave(1);
}

static intptr_t open_file(const char *name, uintptr_t mode) {
  size_t length = 0;
  while (name[length]) ++length;
  const uintptr_t block[] = {(uintptr_t)name, mode, length};
  return call(kOpen, block);
}

static void close_file(intptr_t file) {
  const uintptr_t block[] = {(uintptr_t)file};
  call(kClose, block);
}

int load_file(const char *name, void *data, size_t bytes) {
  const intptr_t file = open_file(name, kReadBinary);
  if (file == -1) return 0;
  const uintptr_t length[] = {(uintptr_t)file};
  if ((size_t)call(kLength, length) != bytes) fail("a file has another size than is wanted");
  const uintptr_t block[] = {(uintptr_t)file, (uintptr_t)data, bytes};
  if (bytes && call(kRead, block) != 0) fail("a file cannot be read");
  close_file(file);
  return 1;
}

void save_file(const char *name, const void *data, size_t bytes) {
  const intptr_t file = open_file(name, kWriteBinary);
  const uintptr_t block[] = {(uintptr_t)file, (uintptr_t)data, bytes};
  if (file == -1 || (bytes && call(kWrite, block) != 0)) fail("a file cannot be written");
  close_file(file);
}

static char *digits(char *at, int number) {
  if (number >= 10) at = digits(at, number / 10);
  *at = (char)('0' + number % 10);
  return at + 1;
}

const char *file_name(int at, int place, const char *kind) {
  static char name[32];
  char *end = digits(name, at);
  *end++ = '.';
  end = digits(end, place);
  *end++ = '.';
  while ((*end++ = *kind++) != 0) {
  }
  return name;
}

// What compilers call, a word at a time where that goes.
void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
  unsigned char *out = to;
  const unsigned char *in = from;
  for (; bytes >= 4; bytes -= 4, in += 4, out += 4) {
    uint32_t word;
    __asm__ volatile("ldr %0, [%1]" : "=r"(word) : "r"(in) : "memory");
    __asm__ volatile("str %0, [%1]" ::"r"(word), "r"(out) : "memory");
  }
  for (; bytes; --bytes) {
    *out++ = *in++;
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

void *memset(void *to, int value, size_t bytes) {
  unsigned char *out = to;
  const uint32_t word = (unsigned char)value * 0x01010101u;
  for (; bytes >= 4; bytes -= 4, out += 4) {
    __asm__ volatile("str %0, [%1]" ::"r"(word), "r"(out) : "memory");
  }
  for (; bytes; --bytes) {
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

static _Noreturn void fault(void) { fail("a fault: the program did what the core does not allow"); }

__attribute__((noinline)) static void run(void) {
  const int status = main();
  if (stack_from[0] != kUnused) fail("the stack is too small");
  const uint32_t *at = stack_from;
  while (*at == kUnused) ++at;
  const uint32_t used = (uint32_t)((const char *)stack_end - (const char *)at);
  save_file("stack", &used, sizeof used);
  leave((uintptr_t)status);
}

_Noreturn void start(void) {
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20;  // CPACR: floating point and Helium
  __asm__ volatile("dsb\n\tisb" ::: "memory");
  for (uint32_t *at = bss_from; at < bss_end; ++at) *(volatile uint32_t *)at = 0;
  uint32_t *here;
  __asm__ volatile("mov %0, sp" : "=r"(here));
  for (uint32_t *at = stack_from; at < here - 16; ++at) *(volatile uint32_t *)at = kUnused;
  run();
  leave(1);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_end, start, fault, fault, fault, fault, fault, fault,
};
