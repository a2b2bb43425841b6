// counter: a QEMU plugin that counts the instructions a program executes between two markers.
//
//   qemu-aarch64 -plugin counter.so,out=FILE PROGRAM
//
// A program marks the start of a region with `hint #100` and its end with `hint #101`; on a
// processor both do nothing. At every end the plugin writes FILE anew:
//
//   region COUNT                    instructions of every region so far, in order
//   block ADDRESS TIMES WORD ...    of the last region: a block's place in memory, how often each
//                                   thread ran it, and its instruction words, all but TIMES
//                                   hexadecimal
//   map LINE                        /proc/self/maps, which says what lies at an ADDRESS
//
// A block counts whole: the one that holds the end marker does, the one that holds the start marker
// does not. That shifts every region by the same few instructions. TIMES are numbers with commas
// between them, from the program's first thread to the last that ran the block. Marks are for one
// thread: when it passes one, the others have to be idle, as TVM's workers are between two kernels.
//
// The declarations are those of qemu-plugin.h, API version 1, as far as they are used here.

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
typedef void (*vcpu_callback)(unsigned int vcpu, void *data);
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_CB_NO_REGS = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, vcpu_callback callback,
                                          int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *instruction,
                                            vcpu_callback callback, int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *instruction);

EXPORTED int qemu_plugin_version = 1;

enum { kBuckets = 1 << 14, kMaxRegions = 1000, kThreads = 16 };
static const uint32_t kStart = 0xd5032c9f, kEnd = 0xd5032cbf;  // hint #100, hint #101

struct block {
  struct block *next;
  const uint32_t *address;
  uint64_t times[kThreads];
  size_t length;
  uint32_t words[];
};

static struct block *buckets[kBuckets];
static const char *out;
static uint64_t regions[kMaxRegions];
static size_t region_count;

static _Noreturn void fail(const char *reason) {
  fprintf(stderr, "counter: %s\n", reason);
  exit(1);
}

static void write_maps(FILE *file) {
  char line[8192];
  FILE *maps = fopen("/proc/self/maps", "r");
  if (!maps) fail("cannot read /proc/self/maps");
  while (fgets(line, sizeof line, maps)) fprintf(file, "map %s", line);
  fclose(maps);
}

static uint64_t runs(const struct block *block) {
  uint64_t sum = 0;
  for (size_t i = 0; i < kThreads; ++i) sum += block->times[i];
  return sum;
}

static void write_times(FILE *file, const struct block *block) {
  size_t count = kThreads;
  while (!block->times[count - 1]) --count;
  for (size_t i = 0; i < count; ++i) {
    fprintf(file, i ? ",%llu" : "%llu", (unsigned long long)block->times[i]);
  }
}

static void on_start(unsigned int vcpu, void *data) {
  for (size_t i = 0; i < kBuckets; ++i) {
    for (struct block *block = buckets[i]; block; block = block->next) {
      memset(block->times, 0, sizeof block->times);
    }
  }
}

static void on_end(unsigned int vcpu, void *data) {
  if (region_count == kMaxRegions) fail("too many regions");
  uint64_t total = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    for (struct block *block = buckets[i]; block; block = block->next) {
      total += runs(block) * block->length;
    }
  }
  regions[region_count++] = total;

  FILE *file = fopen(out, "w");
  if (!file) fail("cannot write the file named by out=");
  for (size_t i = 0; i < region_count; ++i) {
    fprintf(file, "region %llu\n", (unsigned long long)regions[i]);
  }
  for (size_t i = 0; i < kBuckets; ++i) {
    for (struct block *block = buckets[i]; block; block = block->next) {
      if (!runs(block)) continue;
      fprintf(file, "block %llx ", (unsigned long long)(uintptr_t)block->address);
      write_times(file, block);
      for (size_t k = 0; k < block->length; ++k) fprintf(file, " %x", block->words[k]);
      fputc('\n', file);
    }
  }
  write_maps(file);
  if (fclose(file) != 0) fail("cannot write the file named by out=");
}

static void on_block(unsigned int vcpu, void *data) {
  if (vcpu >= kThreads) fail("too many threads");
  ++((struct block *)data)->times[vcpu];
}

// Returns the entry of a block, the same one when QEMU translates it again.
static struct block *entry_of(const uint32_t *address, const uint32_t *words, size_t length) {
  struct block **bucket = &buckets[((uintptr_t)address >> 2) % kBuckets];
  for (struct block *known = *bucket; known; known = known->next) {
    if (known->address == address && known->length == length &&
        memcmp(known->words, words, length * sizeof *words) == 0) {
      return known;
    }
  }
  struct block *made = calloc(1, sizeof *made + length * sizeof *words);
  if (!made) fail("no memory");
  made->next = *bucket;
  made->address = address;
  made->length = length;
  memcpy(made->words, words, length * sizeof *words);
  return *bucket = made;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *translated) {
  size_t length = qemu_plugin_tb_n_insns(translated);
  uint32_t words[length];
  for (size_t i = 0; i < length; ++i) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(translated, i);
    memcpy(&words[i], qemu_plugin_insn_haddr(instruction), sizeof words[i]);
    if (words[i] == kStart || words[i] == kEnd) {
      qemu_plugin_register_vcpu_insn_exec_cb(instruction, words[i] == kStart ? on_start : on_end,
                                             QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
  }
  const uint32_t *address = qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(translated, 0));
  qemu_plugin_register_vcpu_tb_exec_cb(translated, on_block, QEMU_PLUGIN_CB_NO_REGS,
                                       entry_of(address, words, length));
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count,
                                 char **arguments) {
  for (int i = 0; i < count; ++i) {
    if (strncmp(arguments[i], "out=", 4) == 0) out = strdup(arguments[i] + 4);
  }
  if (!out) fail("out=FILE is missing");
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  return 0;
}
