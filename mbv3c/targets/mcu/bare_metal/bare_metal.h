/* What a program for a Cortex-M without a system needs in the emulator: files, by semihosting. */
#ifndef BARE_METAL_H
#define BARE_METAL_H

#include <stddef.h>

/* What the emulator's counter of instructions looks for; a core does nothing at it. */
#define MARK(number) __asm__ volatile("hint.w #" #number ::: "memory")

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
