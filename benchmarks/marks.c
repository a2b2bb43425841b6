// The markers of mbv3c/execution/emulator/counter.c, for a program that is not ours.

void mark_start(void) { __asm__ volatile("hint #100" ::: "memory"); }
void mark_end(void) { __asm__ volatile("hint #101" ::: "memory"); }
