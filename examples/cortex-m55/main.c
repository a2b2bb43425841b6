/* Runs a network on bare metal, on its golden input, and prints the best class over semihosting. */

#include "board.h"
#include "network.h"
#include "network_golden.h"

#ifndef INPUT /* the array of network_golden.h, which has the name of the model's input */
#define INPUT network_golden_input_input
#endif

static network_output_t scores[NETWORK_CLASSES];
static _Alignas(NETWORK_ARENA_ALIGNMENT) unsigned char arena[NETWORK_ARENA_BYTES];

int main(void) {
  const int code = network_run(INPUT, scores, arena);
  if (code != NETWORK_OK) {
    print("network_run: ");
    print_number(code);
    print("\n");
    return 1;
  }
  int best = 0;
  for (int k = 1; k < NETWORK_CLASSES; ++k) best = scores[k] > scores[best] ? k : best;
  print("class ");
  print_number(best);
  const int wrong = network_golden_check(scores);
  print(wrong ? ", NOT what the golden output says\n" : ", as the golden output says\n");
  return wrong;
}
