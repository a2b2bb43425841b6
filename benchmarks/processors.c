// As many processors as TVM_NUM_THREADS says, for TVM's pool of threads, which else starts at most one
// thread for each processor of the machine that emulates: std::thread::hardware_concurrency().

#include <stdlib.h>

unsigned _ZNSt6thread20hardware_concurrencyEv(void) {
  const char *threads = getenv("TVM_NUM_THREADS");
  return threads ? (unsigned)atoi(threads) : 1;
}
