/* Runs a network on an Ethos-U and the Cortex-M beside it, and prints whether it is right. */

#include "board.h"
#include "ethosu_driver.h"
#include "network.h"
#include "network_golden.h"

#ifndef INPUT /* the array of network_golden.h, which has the name of the model's input */
#define INPUT network_golden_input_input
#endif

static network_output_t scores[NETWORK_CLASSES];
static _Alignas(NETWORK_ARENA_ALIGNMENT) unsigned char arena[NETWORK_ARENA_BYTES];

static int invoke(void *driver, const void *stream, size_t stream_bytes, uint64_t *base,
                  const size_t *size, int regions) {
  return ethosu_invoke_v3(driver, stream, (int)stream_bytes, base, size, regions, NULL);
}

int main(void) {
  /* In firmware: a driver of your own that ethosu_init was called with. */
  const network_npu_t npu = {invoke, NULL};
  const int code = network_run(INPUT, scores, arena, sizeof arena, &npu);
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
