// counter: a plugin of QEMU that counts the instructions of a program between two markers.
//
//   qemu-arm -plugin counter.so,out=FILE ...          or qemu-riscv64, or qemu-system-arm
//
// A program marks the start of a region with `hint #100` (Thumb: `hint.w`; RISC-V: `slti x0, x0,
// 100`) and its end by 101; a core does nothing at them. At every end the plugin writes FILE anew:
//
//   region COUNT                  instructions of every region so far, in order
//   block ADDRESS TIMES LENGTH    of the last region: where a block begins, how often it ran, and
//                                 how many instructions it has; ADDRESS is hexadecimal
//
// A block counts whole: the one that holds the end marker does, the one that holds the start marker
// does not. That shifts every region by the same few instructions.
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
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *instruction);

EXPORTED int qemu_plugin_version = 1;

enum { kBuckets = 1 << 12, kMaxRegions = 1000 };
enum { kSets = 3 };
// Of Thumb, ARM and RISC-V; in none of the others they are what a compiler writes.
static const unsigned char kStart[kSets][4] = {
    {0xaf, 0xf3, 0x64, 0x80}, {0x64, 0xf0, 0x20, 0xe3}, {0x13, 0x20, 0x40, 0x06}};
static const unsigned char kEnd[kSets][4] = {
    {0xaf, 0xf3, 0x65, 0x80}, {0x65, 0xf0, 0x20, 0xe3}, {0x13, 0x20, 0x50, 0x06}};

struct block {
  struct block *next;
  uint64_t address, times;
  size_t length;
};

static struct block *buckets[kBuckets];
static const char *out;
static uint64_t regions[kMaxRegions];
static size_t region_count;

static _Noreturn void fail(const char *reason) {
  fprintf(stderr, "counter: %s\n", reason);
  exit(1);
}

static void on_start(unsigned int vcpu, void *data) {
  for (size_t i = 0; i < kBuckets; ++i) {
    for (struct block *block = buckets[i]; block; block = block->next) block->times = 0;
  }
}

static void on_end(unsigned int vcpu, void *data) {
  if (region_count == kMaxRegions) fail("too many regions");
  uint64_t total = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    for (struct block *block = buckets[i]; block; block = block->next) {
      total += block->times * block->length;
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
      if (!block->times) continue;
      fprintf(file, "block %llx %llu %zu\n", (unsigned long long)block->address,
              (unsigned long long)block->times, block->length);
    }
  }
  if (fclose(file) != 0) fail("cannot write the file named by out=");
}

static void on_block(unsigned int vcpu, void *data) { ++((struct block *)data)->times; }

// Returns the entry of a block, the same one when QEMU translates it again.
static struct block *entry_of(uint64_t address, size_t length) {
  struct block **bucket = &buckets[(address >> 1) % kBuckets];
  for (struct block *known = *bucket; known; known = known->next) {
    if (known->address == address && known->length == length) return known;
  }
  struct block *made = calloc(1, sizeof *made);
  if (!made) fail("no memory");
  made->next = *bucket;
  made->address = address;
  made->length = length;
  return *bucket = made;
}

static int is_marker(const struct qemu_plugin_insn *instruction,
                     const unsigned char markers[kSets][4]) {
  if (qemu_plugin_insn_size(instruction) != 4) return 0;
  for (size_t i = 0; i < kSets; ++i) {
    if (memcmp(qemu_plugin_insn_data(instruction), markers[i], 4) == 0) return 1;
  }
  return 0;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *translated) {
  const size_t length = qemu_plugin_tb_n_insns(translated);
  for (size_t i = 0; i < length; ++i) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(translated, i);
    if (is_marker(instruction, kStart)) {
      qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_start, QEMU_PLUGIN_CB_NO_REGS, NULL);
    } else if (is_marker(instruction, kEnd)) {
      qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_end, QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
  }
  qemu_plugin_register_vcpu_tb_exec_cb(translated, on_block, QEMU_PLUGIN_CB_NO_REGS,
                                       entry_of(qemu_plugin_tb_vaddr(translated), length));
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
