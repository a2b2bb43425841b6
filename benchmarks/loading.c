/* Opens a bundle's model.so with TVM's runtime and runs one inference; counter.c counts from the
 * marks.
 *
 *     loading BUNDLE INPUT OUTPUT WHERE
 *
 * INPUT and OUTPUT hold numbers of fp32; WHERE is what is counted: "open" from there to the end of
 * the inference, or "start", which begins with the process.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

enum { ALIGNMENT = 64, POOLED = 2, ANY_SIDE = 224, CHANNELS = 3 };

#define MARK_START() __asm__ volatile("hint #100" ::: "memory")
#define MARK_END() __asm__ volatile("hint #101" ::: "memory")

static void fail(const char *what) {
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  const TVMFFIErrorCell *cell = error ? (void *)((char *)error + sizeof(TVMFFIObject)) : NULL;
  fprintf(stderr, "%s failed: %s\n", what, cell ? cell->message.data : "");
  exit(1);
}

static TVMFFIAny value(int32_t kind, int64_t number) {
  return (TVMFFIAny){.type_index = kind, .v_int64 = number};
}

static TVMFFIAny text(const char *characters) {
  TVMFFIAny made = value(kTVMFFIRawStr, 0);
  made.v_c_str = characters;
  return made;
}

static TVMFFIAny call(TVMFFIAny function, TVMFFIAny *given, int count) {
  TVMFFIAny result = value(kTVMFFINone, 0);
  if (TVMFFIFunctionCall(function.v_obj, given, count, &result)) fail("a call");
  return result;
}

static TVMFFIAny global(const char *name) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle handle = NULL;
  if (TVMFFIFunctionGetGlobal(&key, &handle) || !handle) fail(name);
  TVMFFIAny made = value(kTVMFFIFunction, 0);
  made.v_obj = handle;
  return made;
}

static TVMFFIAny function_of(TVMFFIAny module, const char *name) {
  TVMFFIAny given[] = {module, text(name), value(kTVMFFIInt, 1)};
  return call(global("ffi.ModuleGetFunction"), given, 3);
}

static void keep(DLManagedTensor *tensor) { (void)tensor; }

int main(int count, char **arguments) {
  if (count != 5) return 2;
  static int64_t shape[] = {1, CHANNELS, ANY_SIDE, ANY_SIDE};
  static _Alignas(ALIGNMENT) float x[CHANNELS * ANY_SIDE * ANY_SIDE];
  static DLManagedTensor borrowed = {.deleter = keep};
  FILE *file = fopen(arguments[2], "rb");
  if (!file || fread(x, sizeof x, 1, file) != 1) return 3;
  fclose(file);
  char path[4096];
  snprintf(path, sizeof path, "%s/model.so", arguments[1]);
  if (strcmp(arguments[4], "open") == 0) MARK_START();
  TVMFFIAny name = text(path), library = call(global("ffi.ModuleLoadFromFile"), &name, 1);
  TVMFFIAny machine = call(function_of(library, "vm_load_executable"), NULL, 0);
  TVMFFIAny setting[] = {value(kTVMFFIInt, kDLCPU), value(kTVMFFIInt, 0),
                         value(kTVMFFIInt, POOLED)};
  call(function_of(machine, "vm_initialization"), setting, 3);
  TVMFFIAny network = function_of(machine, "main"), given = value(kTVMFFITensor, 0);
  borrowed.dl_tensor = (DLTensor){.data = x, .ndim = 4, .shape = shape};
  borrowed.dl_tensor.device.device_type = kDLCPU;
  borrowed.dl_tensor.dtype = (DLDataType){kDLFloat, 32, 1};
  TVMFFIObjectHandle handle;
  if (TVMFFITensorFromDLPack(&borrowed, ALIGNMENT, 1, &handle)) fail("the input");
  given.v_obj = handle;
  TVMFFIAny result = call(network, &given, 1);
  MARK_END();
  const DLTensor *y = (void *)((char *)result.v_obj + sizeof(TVMFFIObject));
  file = fopen(arguments[3], "wb");
  if (!file || fwrite(y->data, sizeof(float), y->shape[y->ndim - 1], file) == 0) return 4;
  return fclose(file) ? 5 : 0;
}
