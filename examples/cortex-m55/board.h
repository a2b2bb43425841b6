/* What a program without a system has here: a console, by semihosting. */
#ifndef BOARD_H
#define BOARD_H

/* Prints a text, or a number, on the debugger's or emulator's console. */
void print(const char *text);
void print_number(int number);

/* Ends the program with a status; `main` does so, too, when it returns. */
_Noreturn void leave(int status);

int main(void);

#endif
