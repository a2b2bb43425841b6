/* What a program without a C library needs on Linux: files, by system calls. */
#ifndef LINUX_H
#define LINUX_H

#include <stddef.h>

/* What the emulator's counter of instructions looks for; a processor does nothing at it. */
#if defined(__arm__)
#define MARK(number) __asm__ volatile("hint #" #number ::: "memory")
#elif defined(__riscv)
#define MARK(number) __asm__ volatile("slti x0, x0, " #number ::: "memory")
#else
#error "this processor has no mark"
#endif

/* Reads a file of exactly so many bytes to `data`; returns 0 where there is no such file. */
int load_file(const char *name, void *data, size_t bytes);

/* Writes a file. */
void save_file(const char *name, const void *data, size_t bytes);

/* Makes the name "AT.PLACE.KIND". */
const char *file_name(int at, int place, const char *kind);

/* Says what went wrong, and ends the program with a status of 1. */
_Noreturn void fail(const char *reason);

int main(void);

#endif
