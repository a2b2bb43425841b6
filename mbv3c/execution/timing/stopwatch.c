/* Times every call of a model, on whatever serves TVM's RPC: uploaded with the model, and loaded.
 *
 *     begin(device)   forgets what was measured; waits for the device's work after each call
 *     times()         bytes: for each call, in order, nanoseconds (8 bytes, little endian), the
 *                     length of the function's name (1 byte) and the name
 *
 * A library's driver calls its instrument before and after each kernel, and TVM's virtual machine
 * its own around each function that it calls. RPC passes no functions, but names: `begin` registers
 * under "mbv3c.stopwatch" what makes one.
 *
 * It needs TVM's C interface and clock_gettime of the process, and no C library to be linked.
 */

#include <tvm/ffi/c_api.h>

struct timespec64 {
  int64_t seconds, nanoseconds; /* as on every 64-bit Linux and Android */
};
extern int clock_gettime(int clock, struct timespec64* time);
#define NAMED(text) {text, sizeof(text) - 1}
enum { MONOTONIC = 1, ROOM = 8 << 20, LONGEST = 255 };

static unsigned char measured[ROOM];
static uint64_t used, began;
static int overflown;
static TVMFFIAny device;
static TVMFFIObjectHandle synchronize;

static uint64_t now(void) {
  struct timespec64 time;
  clock_gettime(MONOTONIC, &time);
  return (uint64_t)time.seconds * 1000000000u + (uint64_t)time.nanoseconds;
}

/* Names of functions come as they are stored: short ones in the value, others in an object. */
static TVMFFIByteArray text(const TVMFFIAny* value) {
  if (value->type_index == kTVMFFISmallStr) {
    return (TVMFFIByteArray){value->v_bytes, value->small_str_len};
  }
  if (value->type_index == kTVMFFIStr) return *(const TVMFFIByteArray*)(value->v_obj + 1);
  if (value->type_index == kTVMFFIRawStr) {
    size_t size = 0;
    while (value->v_c_str[size]) ++size;
    return (TVMFFIByteArray){value->v_c_str, size};
  }
  return (TVMFFIByteArray){"", 0};
}

static void append(uint64_t nanoseconds, TVMFFIByteArray name) {
  uint64_t size = name.size < LONGEST ? name.size : LONGEST;
  if (used + 9 + size > ROOM) {
    overflown = 1;
    return;
  }
  for (int byte = 0; byte < 8; ++byte) measured[used++] = (unsigned char)(nanoseconds >> 8 * byte);
  measured[used++] = (unsigned char)size;
  for (uint64_t at = 0; at < size; ++at) measured[used++] = (unsigned char)name.data[at];
}

static int instrument(void* self, const TVMFFIAny* given, int32_t count, TVMFFIAny* result) {
  if (given[2].v_int64) {
    began = now();
    return 0;
  }
  if (synchronize && device.v_device.device_type != kDLCPU) {
    TVMFFIAny arguments[2] = {device, {.type_index = kTVMFFIInt}};
    TVMFFIAny ignored = {.type_index = kTVMFFINone};
    if (TVMFFIFunctionCall(synchronize, arguments, 2, &ignored)) return -1;
  }
  append(now() - began, text(&given[1]));
  return 0;
}

static int make(void* self, const TVMFFIAny* given, int32_t count, TVMFFIAny* result) {
  TVMFFIObjectHandle function;
  if (TVMFFIFunctionCreate(0, instrument, 0, &function)) return -1;
  result->type_index = kTVMFFIFunction;
  result->v_obj = function;
  return 0;
}

int __tvm_ffi_begin(void* self, const TVMFFIAny* given, int32_t count, TVMFFIAny* result) {
  const TVMFFIByteArray waiting = NAMED("runtime.Device_StreamSync");
  const TVMFFIByteArray ours = NAMED("mbv3c.stopwatch");
  TVMFFIObjectHandle function;
  if (count != 1 || given[0].type_index != kTVMFFIDevice) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "begin takes the device");
    return -1;
  }
  used = 0;
  overflown = 0;
  device = given[0];
  if (!synchronize && TVMFFIFunctionGetGlobal(&waiting, &synchronize)) return -1;
  if (TVMFFIFunctionCreate(0, make, 0, &function)) return -1;
  if (TVMFFIFunctionSetGlobal(&ours, function, 1)) return -1;
  return TVMFFIObjectDecRef(function);
}

int __tvm_ffi_times(void* self, const TVMFFIAny* given, int32_t count, TVMFFIAny* result) {
  const TVMFFIByteArray all = {(const char*)measured, used};
  if (overflown) {
    TVMFFIErrorSetRaisedFromCStr("RuntimeError", "too many calls were measured");
    return -1;
  }
  return TVMFFIBytesFromByteArray(&all, result);
}
