// Starts a program on Linux without a C library, and reads and writes files by system calls.
//
// Numbers are those of Linux: arch/arm/tools/syscall.tbl, include/uapi/asm-generic/unistd.h. What
// lies on the stack at the start is in the System V ABI, "Process Initialization".

#include "linux.h"

#include <stdint.h>

#if defined(__arm__)
enum { kOpenAt = 322, kClose = 6, kSeek = 19, kRead = 3, kWrite = 4, kExitGroup = 248 };

static long call(long number, long a, long b, long c, long d) {
  register long r7 __asm__("r7") = number;
  register long r0 __asm__("r0") = a;
  register long r1 __asm__("r1") = b;
  register long r2 __asm__("r2") = c;
  register long r3 __asm__("r3") = d;
  __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2), "r"(r3) : "memory");
  return r0;
}

__asm__(".globl _start\n"
        "_start: mov r0, sp\n"
        "bic sp, sp, #15\n"
        "bl begin\n");
#elif defined(__riscv)
enum { kOpenAt = 56, kClose = 57, kSeek = 62, kRead = 63, kWrite = 64, kExitGroup = 94 };

static long call(long number, long a, long b, long c, long d) {
  register long a7 __asm__("a7") = number;
  register long a0 __asm__("a0") = a;
  register long a1 __asm__("a1") = b;
  register long a2 __asm__("a2") = c;
  register long a3 __asm__("a3") = d;
  __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3) : "memory");
  return a0;
}

__asm__(".globl _start\n"
        "_start: mv a0, sp\n"
        "andi sp, sp, -16\n"
        "call begin\n");
#endif

enum { kHere = -100 };                            // AT_FDCWD: names are from the current folder
enum { kReadOnly = 0, kWriteAnew = 01 | 0100 | 01000 };  // O_WRONLY, O_CREAT, O_TRUNC
enum { kEnd = 2, kBegin = 0, kErrors = 2 };

static const unsigned long *auxiliary;

_Noreturn static void leave(int status) {
  for (;;) call(kExitGroup, status, 0, 0, 0);
}

_Noreturn __attribute__((used)) void begin(const unsigned long *stack) {
  const unsigned long *at = stack + 1 + stack[0] + 1;  // argc, argv, NULL; envp, NULL
  while (*at++) {
  }
  auxiliary = at;
  leave(main());
}

unsigned long getauxval(unsigned long kind) {
  for (const unsigned long *at = auxiliary; at[0]; at += 2) {
    if (at[0] == kind) return at[1];
  }
  return 0;
}

static void say(const char *text) {
  size_t length = 0;
  while (text[length]) ++length;
  call(kWrite, kErrors, (long)text, (long)length, 0);
}

_Noreturn void fail(const char *reason) {
  say(reason);
  say("\n");
  leave(1);
}

int load_file(const char *name, void *data, size_t bytes) {
  const long file = call(kOpenAt, kHere, (long)name, kReadOnly, 0);
  if (file < 0) return 0;
  if ((size_t)call(kSeek, file, 0, kEnd, 0) != bytes) fail("a file has another size than is wanted");
  call(kSeek, file, 0, kBegin, 0);
  for (size_t done = 0; done < bytes;) {
    const long got = call(kRead, file, (long)((char *)data + done), (long)(bytes - done), 0);
    if (got <= 0) fail("a file cannot be read");
    done += (size_t)got;
  }
  call(kClose, file, 0, 0, 0);
  return 1;
}

void save_file(const char *name, const void *data, size_t bytes) {
  const long file = call(kOpenAt, kHere, (long)name, kWriteAnew, 0644);
  if (file < 0) fail("a file cannot be written");
  for (size_t done = 0; done < bytes;) {
    const long put = call(kWrite, file, (long)((const char *)data + done), (long)(bytes - done), 0);
    if (put <= 0) fail("a file cannot be written");
    done += (size_t)put;
  }
  call(kClose, file, 0, 0, 0);
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
