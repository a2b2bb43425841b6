/* The driver of a library: it calls a network's kernels, one after another, on memory that is given.
 *
 *     mbv3c_run(NUMBER, INSTRUMENT, inputs ..., outputs ..., arena)
 *
 * runs function NUMBER of the program, and has the instrument called around each kernel; a number
 * stands for none.
 *
 * TVM's virtual machine checks and allocates what comes in and goes out, and calls `mbv3c_run` once
 * an inference. Which kernels run, and on what, is data: the program, which mbv3c writes and reads
 * (program.py beside this says how it lies there). Constants are a part of it and are used where
 * they are, in the file's pages. Nothing is kept between calls, so that any number of threads may
 * run one library.
 *
 * An instrument is called as the virtual machine calls one around its own calls: with none, the
 * kernel's name, whether it is before the kernel, none, and the kernel's arguments. It may be
 * named, as over RPC: what has that name then makes it. The driver needs TVM's C interface, and
 * malloc and free of the process; no C library is linked.
 */

#include <stddef.h>
#include <stdint.h>
#include <tvm/ffi/c_api.h>

#define HIDDEN __attribute__((visibility("hidden")))
#define EXPORTED __attribute__((visibility("default")))

extern void *malloc(size_t bytes);
extern void free(void *memory);

typedef int (*kernel_t)(void *self, const TVMFFIAny *given, int32_t count, TVMFFIAny *result);

enum place { INPUT, OUTPUT, ARENA, CONSTANT };

typedef struct {
  uint64_t at;     /* which input or output, or the first byte in the arena or the program */
  uint32_t shape;  /* its first extent among all of them */
  uint8_t place, rank, kind, bits;
} tensor_t;

typedef struct {
  uint32_t kernel, first, count, unused; /* its arguments are some of the tensors */
} call_t;

typedef struct {
  uint64_t arena;
  uint32_t first, calls, inputs, outputs, most, name; /* most arguments of a call */
} function_t;

typedef struct {
  uint64_t magic;
  uint32_t version, functions, calls, tensors, extents, kernels;
  uint64_t functions_at, calls_at, tensors_at, extents_at, names_at, constants_at, bytes;
} program_t;

/* The linker puts them beside this. */
extern HIDDEN const unsigned char mbv3c_program[];
extern HIDDEN const kernel_t mbv3c_kernels[];

static const void *part(uint64_t at) { return mbv3c_program + at; }

static int refuse(const char *message) {
  TVMFFIErrorSetRaisedFromCStr("ValueError", message);
  return -1;
}

static const DLTensor *tensor_in(const TVMFFIAny *value) {
  if (value->type_index == kTVMFFITensor) return (const DLTensor *)(value->v_obj + 1);
  if (value->type_index == kTVMFFIDLTensorPtr) return value->v_ptr;
  return NULL;
}

static int is_dense(const DLTensor *tensor) {
  int64_t dense = 1;
  for (int axis = tensor->ndim - 1; tensor->strides != NULL && axis >= 0; --axis) {
    if (tensor->shape[axis] != 1 && tensor->strides[axis] != dense) return 0;
    dense *= tensor->shape[axis];
  }
  return 1;
}

/* Whether a kernel takes a tensor in the shape that it has. */
static int is_of(const DLTensor *tensor, const int64_t *shape, int rank) {
  int same = tensor->ndim == rank;
  for (int axis = 0; same && axis < rank; ++axis) same = tensor->shape[axis] == shape[axis];
  return same;
}

/* Says where an argument of a kernel lies, and what it is. */
static int fill(const tensor_t *tensor, const TVMFFIAny *given, const function_t *function,
                unsigned char *arena, DLTensor *filled) {
  const program_t *program = part(0);
  const int64_t *shape = (const int64_t *)part(program->extents_at) + tensor->shape;
  if (tensor->place == INPUT || tensor->place == OUTPUT) {
    const uint64_t index = tensor->at + (tensor->place == OUTPUT ? function->inputs : 0);
    const DLTensor *whole = tensor_in(&given[index]);
    if (whole == NULL) return refuse("mbv3c_run takes tensors");
    *filled = *whole;
    if (is_of(whole, shape, tensor->rank)) return 0; /* kernels check what else may be wrong */
    if (!is_dense(whole)) return refuse("a network takes its inputs as compact tensors");
    filled->strides = NULL;
  } else {
    const unsigned char *base = tensor->place == ARENA ? arena : mbv3c_program;
    *filled = (DLTensor){.data = (void *)(uintptr_t)(base + tensor->at)};
    filled->device.device_type = kDLCPU;
    filled->dtype = (DLDataType){tensor->kind, tensor->bits, 1};
  }
  filled->ndim = tensor->rank;
  filled->shape = (int64_t *)(uintptr_t)shape;
  return 0;
}

/* ---- an instrument ---- */

enum { FUNCTION, NAME, BEFORE, RESULT, ARGUMENTS, SKIP = 1 };

static void drop(TVMFFIAny *value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(value->v_obj);
  *value = (TVMFFIAny){.type_index = kTVMFFINone};
}

/* Makes a tensor that instruments may hold, on memory of the network. What it says of itself lies
 * in memory that free(3) gives back, wherever this library is by then. */
static int managed(const DLTensor *tensor, TVMFFIAny *made) {
  DLManagedTensor *held = malloc(sizeof *held + (size_t)tensor->ndim * sizeof(int64_t));
  if (held == NULL) return refuse("no memory for the arguments of an instrument");
  *held = (DLManagedTensor){.dl_tensor = *tensor};
  held->dl_tensor.shape = (int64_t *)(held + 1);
  for (int axis = 0; axis < tensor->ndim; ++axis) {
    held->dl_tensor.shape[axis] = tensor->shape[axis];
  }
  held->deleter = (void (*)(DLManagedTensor *))(void (*)(void))free;
  TVMFFIObjectHandle handle;
  if (TVMFFITensorFromDLPack(held, 0, 0, &handle) != 0) {
    free(held);
    return -1;
  }
  made->type_index = kTVMFFITensor;
  made->v_obj = (TVMFFIObject *)handle;
  return 0;
}

static int tell(const TVMFFIAny *instrument, TVMFFIAny *told, int32_t count, int before,
                int64_t *answer) {
  TVMFFIAny result = {.type_index = kTVMFFINone};
  told[BEFORE] = (TVMFFIAny){.type_index = kTVMFFIBool, .v_int64 = before};
  if (TVMFFIFunctionCall(instrument->v_obj, told, count, &result) != 0) return -1;
  *answer = result.type_index == kTVMFFIInt ? result.v_int64 : 0;
  drop(&result);
  return 0;
}

/* Calls a kernel with an instrument before and after. */
static int call_watched(const TVMFFIAny *instrument, kernel_t kernel, const char *name,
                        const DLTensor *tensors, int32_t count) {
  TVMFFIAny told[ARGUMENTS + count], result = {.type_index = kTVMFFINone};
  int code = 0;
  for (int k = 0; k < ARGUMENTS + count; ++k) told[k] = result;
  told[NAME] = (TVMFFIAny){.type_index = kTVMFFIRawStr};
  told[NAME].v_c_str = name;
  for (int k = 0; code == 0 && k < count; ++k) code = managed(&tensors[k], &told[ARGUMENTS + k]);
  int64_t answer = 0;
  if (code == 0) code = tell(instrument, told, ARGUMENTS + count, 1, &answer);
  if (code == 0 && answer != SKIP) {
    code = kernel(NULL, &told[ARGUMENTS], count, &result);
    if (code == 0) code = tell(instrument, told, ARGUMENTS + count, 0, &answer);
  }
  for (int k = 0; k < count; ++k) drop(&told[ARGUMENTS + k]);
  return code;
}

/* Returns the text that a value holds; its size in `size`. */
static const char *text_of(const TVMFFIAny *value, size_t *size) {
  const TVMFFIByteArray *bytes = (const TVMFFIByteArray *)(value->v_obj + 1);
  switch (value->type_index) {
    case kTVMFFISmallStr: *size = value->small_str_len; return value->v_bytes;
    case kTVMFFIStr: *size = bytes->size; return bytes->data;
    case kTVMFFIRawStr:
      for (*size = 0; value->v_c_str[*size]; ++*size) continue;
      return value->v_c_str;
    default: return NULL;
  }
}

/* Returns the instrument that an argument says, for the caller to drop: a function, the name of what
 * makes one, or none. */
static int instrument_of(const TVMFFIAny *given, TVMFFIAny *made) {
  *made = (TVMFFIAny){.type_index = kTVMFFINone};
  if (given->type_index == kTVMFFINone || given->type_index == kTVMFFIInt) return 0;
  if (given->type_index == kTVMFFIFunction) {
    if (TVMFFIObjectIncRef(given->v_obj) != 0) return -1;
    *made = *given;
    return 0;
  }
  TVMFFIByteArray name = {NULL, 0};
  TVMFFIObjectHandle maker = NULL;
  name.data = text_of(given, &name.size);
  if (name.data == NULL) return refuse("an instrument is a function, or the name of its maker");
  if (TVMFFIFunctionGetGlobal(&name, &maker) != 0) return -1;
  if (maker == NULL) return refuse("no function has the name that is given for an instrument's");
  const int code = TVMFFIFunctionCall(maker, NULL, 0, made);
  TVMFFIObjectDecRef(maker);
  if (code == 0 && made->type_index == kTVMFFIFunction) return 0;
  drop(made);
  return code != 0 ? -1 : refuse("what is to make an instrument makes no function");
}

/* ---- an inference ---- */

/* Runs a function on what it takes: inputs, outputs, and the arena. */
static int run(const function_t *function, const TVMFFIAny *given, const TVMFFIAny *instrument) {
  const program_t *program = part(0);
  const call_t *calls = (const call_t *)part(program->calls_at) + function->first;
  const tensor_t *tensors = part(program->tensors_at);
  const uint32_t *names = part(program->names_at);
  const DLTensor *whole = tensor_in(&given[function->inputs + function->outputs]);
  if (whole == NULL) return refuse("mbv3c_run takes its arena last");
  unsigned char *arena = (unsigned char *)whole->data + whole->byte_offset;
  DLTensor filled[function->most];
  TVMFFIAny arguments[function->most], ignored = {.type_index = kTVMFFINone};
  for (uint32_t k = 0; k < function->most; ++k) {
    arguments[k] = (TVMFFIAny){.type_index = kTVMFFIDLTensorPtr};
    arguments[k].v_ptr = &filled[k];
  }
  for (const call_t *call = calls; call < calls + function->calls; ++call) {
    for (uint32_t k = 0; k < call->count; ++k) {
      if (fill(&tensors[call->first + k], given, function, arena, &filled[k]) != 0) return -1;
    }
    const kernel_t kernel = mbv3c_kernels[call->kernel];
    const int32_t taken = (int32_t)call->count;
    const int code =
        instrument->type_index == kTVMFFINone
            ? kernel(NULL, arguments, taken, &ignored)
            : call_watched(instrument, kernel, part(names[call->kernel]), filled, taken);
    if (code != 0) return code;
  }
  return 0;
}

EXPORTED int __tvm_ffi_mbv3c_run(void *self, const TVMFFIAny *given, int32_t count,
                                 TVMFFIAny *result) {
  (void)self;
  const program_t *program = part(0);
  if (count < 2 || given[0].type_index != kTVMFFIInt || given[0].v_int64 < 0 ||
      given[0].v_int64 >= program->functions) {
    return refuse("mbv3c_run takes the number of a function first");
  }
  const function_t *function = (const function_t *)part(program->functions_at) + given[0].v_int64;
  if ((uint32_t)count != function->inputs + function->outputs + 3) {
    return refuse("mbv3c_run: another number of tensors");
  }
  TVMFFIAny instrument;
  if (instrument_of(&given[1], &instrument) != 0) return -1;
  const int code = run(function, given + 2, &instrument);
  drop(&instrument);
  result->type_index = kTVMFFINone;
  return code;
}
