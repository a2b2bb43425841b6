/* See mbv3c_model.h. TVM is called through the C interface of tvm_ffi alone. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "mbv3c_model.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <tvm/ffi/c_api.h>

#define MOST_RANK 8
#define MOST_ENDS 64
#define MOST_LINE 4096
#define MOST_TEXT (1 << 20)
#define ALIGNMENT 64 /* what TVM's kernels may assume of an input, in bytes */
#define POOLED 2     /* TVM's allocator that keeps what it once took */

static _Thread_local char message[2048];

const char *mbv3c_message(void) { return message; }

#ifdef __GNUC__
__attribute__((format(printf, 2, 3)))
#endif
static int fail(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return code;
}

/* ---- TVM ---- */

static int fail_with_tvm(const char *doing) {
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  if (error == NULL) return fail(MBV3C_RUNTIME, "%s failed, and TVM gives no reason", doing);
  const TVMFFIErrorCell *cell = (const TVMFFIErrorCell *)((char *)error + sizeof(TVMFFIObject));
  fail(MBV3C_RUNTIME, "%s failed: %.*s: %.*s", doing, (int)cell->kind.size, cell->kind.data,
       (int)cell->message.size, cell->message.data);
  TVMFFIObjectDecRef(error);
  return MBV3C_RUNTIME;
}

static void drop(TVMFFIAny *value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(value->v_obj);
  memset(value, 0, sizeof *value);
}

static TVMFFIAny as_int(int64_t number) {
  TVMFFIAny any;
  memset(&any, 0, sizeof any);
  any.type_index = kTVMFFIInt;
  any.v_int64 = number;
  return any;
}

static TVMFFIAny as_text(const char *text) {
  TVMFFIAny any;
  memset(&any, 0, sizeof any);
  any.type_index = kTVMFFIRawStr;
  any.v_c_str = text;
  return any;
}

static int call(const char *doing, TVMFFIObjectHandle function, TVMFFIAny *arguments, int count,
                TVMFFIAny *result) {
  memset(result, 0, sizeof *result);
  return TVMFFIFunctionCall(function, arguments, count, result) == 0 ? MBV3C_OK
                                                                     : fail_with_tvm(doing);
}

static int call_global(const char *name, TVMFFIAny *arguments, int count, TVMFFIAny *result) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  memset(result, 0, sizeof *result);
  if (TVMFFIFunctionGetGlobal(&key, &function) != 0) return fail_with_tvm(name);
  if (function == NULL) {
    return fail(MBV3C_RUNTIME,
                "this TVM runtime has no function %s; its version is not that in manifest.json",
                name);
  }
  int code = call(name, function, arguments, count, result);
  TVMFFIObjectDecRef(function);
  return code;
}

/* Gets a function of a module; `function` is the caller's to drop. */
static int function_of(TVMFFIAny module, const char *name, TVMFFIAny *function) {
  TVMFFIAny arguments[] = {module, as_text(name), as_int(1 /* of imported modules, too */)};
  int code = call_global("ffi.ModuleGetFunction", arguments, 3, function);
  if (code != MBV3C_OK) return code;
  if (function->type_index == kTVMFFIFunction) return MBV3C_OK;
  drop(function);
  return fail(MBV3C_BAD_FILE, "the library has no function %s: it is no model.so of mbv3c", name);
}

/* ---- a model ---- */

typedef struct {
  mbv3c_end_t end;
  int64_t extents[MOST_RANK];
  char dtype[16];
  DLDataType type;
  char *name;
} end_t;

/* A virtual machine, which one call at a time may use. */
typedef struct machine {
  TVMFFIAny module;
  TVMFFIAny main;
  struct machine *next;
} machine_t;

struct mbv3c_model {
  TVMFFIAny library;
  TVMFFIAny load; /* makes a virtual machine of the library */
  end_t *inputs, *outputs;
  size_t input_count, output_count;
  machine_t *idle;
  pthread_mutex_t lock; /* of `idle` */
  int memory;           /* the descriptor of a library that has no file, or -1 */
};

typedef struct {
  const char *name;
  DLDataType type;
} type_name_t;

static const type_name_t TYPES[] = {
    {"float32", {kDLFloat, 32, 1}}, {"float16", {kDLFloat, 16, 1}}, {"float64", {kDLFloat, 64, 1}},
    {"int8", {kDLInt, 8, 1}},       {"uint8", {kDLUInt, 8, 1}},     {"bool", {kDLBool, 8, 1}},
    {"int16", {kDLInt, 16, 1}},     {"uint16", {kDLUInt, 16, 1}},   {"int32", {kDLInt, 32, 1}},
    {"uint32", {kDLUInt, 32, 1}},   {"int64", {kDLInt, 64, 1}},     {"uint64", {kDLUInt, 64, 1}},
};

/* Reads "float32 1x3x224x224 NAME", or "float32 scalar NAME". */
static int read_end(const char *text, size_t length, end_t *end) {
  char line[MOST_LINE], shape[MOST_LINE];
  int used = 0;
  if (length >= sizeof line) return fail(MBV3C_BAD_FILE, "ends.txt: a line is too long");
  memcpy(line, text, length);
  line[length] = '\0';
  if (sscanf(line, "%15s %4095s %n", end->dtype, shape, &used) != 2 || used == 0) {
    return fail(MBV3C_BAD_FILE, "ends.txt: no type, shape and name in: %.100s", line);
  }
  size_t kind = 0, kinds = sizeof TYPES / sizeof *TYPES;
  while (kind < kinds && strcmp(TYPES[kind].name, end->dtype) != 0) ++kind;
  if (kind == kinds) return fail(MBV3C_BAD_FILE, "ends.txt: type %s is unknown", end->dtype);
  end->type = TYPES[kind].type;
  end->end.bytes = end->type.bits / 8u;
  for (char *at = shape; strcmp(shape, "scalar") != 0;) {
    char *behind;
    long long extent = strtoll(at, &behind, 10);
    if (behind == at || extent <= 0 || end->end.rank == MOST_RANK ||
        end->end.bytes > SIZE_MAX / (size_t)extent) {
      return fail(MBV3C_BAD_FILE, "ends.txt: %s is no shape", shape);
    }
    end->extents[end->end.rank++] = extent;
    end->end.bytes *= (size_t)extent;
    if (*behind == '\0') break;
    at = behind + 1;
  }
  end->name = malloc(strlen(line + used) + 1);
  if (end->name == NULL) return fail(MBV3C_NO_MEMORY, "no memory for ends.txt");
  strcpy(end->name, line + used);
  end->end.name = end->name;
  end->end.dtype = end->dtype;
  end->end.shape = end->extents;
  return MBV3C_OK;
}

/* Reads ends.txt: a line "input TYPE SHAPE NAME" or "output TYPE SHAPE NAME" for each end. */
static int read_ends(const char *text, mbv3c_model_t *model) {
  static const char *const kinds[] = {"input ", "output "};
  end_t **ends[] = {&model->inputs, &model->outputs};
  size_t *counts[] = {&model->input_count, &model->output_count};
  for (int side = 0; side < 2; ++side) {
    *ends[side] = calloc(MOST_ENDS, sizeof(end_t));
    if (*ends[side] == NULL) return fail(MBV3C_NO_MEMORY, "no memory for ends.txt");
  }
  while (*text != '\0') {
    size_t length = strcspn(text, "\n");
    int side = 0;
    while (side < 2 && strncmp(text, kinds[side], strlen(kinds[side])) != 0) ++side;
    if (side == 2) {
      return fail(MBV3C_BAD_FILE, "ends.txt: neither input nor output: %.*s",
                  (int)(length < 100 ? length : 100), text);
    }
    if (*counts[side] == MOST_ENDS) return fail(MBV3C_BAD_FILE, "ends.txt: too many ends");
    size_t head = strlen(kinds[side]);
    int code = read_end(text + head, length - head, &(*ends[side])[(*counts[side])++]);
    if (code != MBV3C_OK) return code;
    text += length + (text[length] == '\n');
  }
  if (model->input_count == 0 || model->output_count == 0) {
    return fail(MBV3C_BAD_FILE, "ends.txt: names no input, or no output");
  }
  return MBV3C_OK;
}

static void drop_machine(machine_t *machine) {
  drop(&machine->main);
  drop(&machine->module);
  free(machine);
}

static int make_machine(mbv3c_model_t *model, machine_t **made) {
  machine_t *machine = calloc(1, sizeof *machine);
  if (machine == NULL) return fail(MBV3C_NO_MEMORY, "no memory for a virtual machine");
  int code = call("loading the model", model->load.v_obj, NULL, 0, &machine->module);
  TVMFFIAny initialize, nothing;
  if (code == MBV3C_OK) {
    code = function_of(machine->module, "vm_initialization", &initialize);
  }
  if (code == MBV3C_OK) {
    TVMFFIAny device[] = {as_int(kDLCPU), as_int(0), as_int(POOLED)};
    code = call("initialising the model", initialize.v_obj, device, 3, &nothing);
    drop(&initialize);
    drop(&nothing);
  }
  if (code == MBV3C_OK) code = function_of(machine->module, "main", &machine->main);
  if (code != MBV3C_OK) {
    drop_machine(machine);
    return code;
  }
  *made = machine;
  return MBV3C_OK;
}

/* Loads the library at a path; of one without a file the path names its descriptor. */
static int load(mbv3c_model_t *model, const char *path) {
  unsigned char head[4];
  FILE *file = fopen(path, "rb");
  if (file == NULL) return fail(MBV3C_BAD_FILE, "cannot open %s: %s", path, strerror(errno));
  size_t got = fread(head, 1, sizeof head, file);
  fclose(file);
  if (got != sizeof head || memcmp(head, "\177ELF", sizeof head) != 0) {
    return fail(MBV3C_BAD_FILE, "%s is no shared library", path);
  }
  TVMFFIAny arguments[] = {as_text(path), as_text("so")};
  int code = call_global("ffi.Module.load_from_file.so", arguments, 2, &model->library);
  if (code != MBV3C_OK) return code;
  code = function_of(model->library, "vm_load_executable", &model->load);
  return code == MBV3C_OK ? make_machine(model, &model->idle) : code;
}

static mbv3c_model_t *new_model(void) {
  mbv3c_model_t *model = calloc(1, sizeof *model);
  if (model == NULL || pthread_mutex_init(&model->lock, NULL) != 0) {
    free(model);
    fail(MBV3C_NO_MEMORY, "no memory for a model");
    return NULL;
  }
  model->memory = -1;
  return model;
}

void mbv3c_close(mbv3c_model_t *model) {
  if (model == NULL) return;
  while (model->idle != NULL) {
    machine_t *next = model->idle->next;
    drop_machine(model->idle);
    model->idle = next;
  }
  drop(&model->load);
  drop(&model->library);
  if (model->memory >= 0) close(model->memory); /* its number is the library's name until here */
  for (size_t k = 0; k < model->input_count; ++k) free(model->inputs[k].name);
  for (size_t k = 0; k < model->output_count; ++k) free(model->outputs[k].name);
  free(model->inputs);
  free(model->outputs);
  pthread_mutex_destroy(&model->lock);
  free(model);
}

static int finish_opening(int code, mbv3c_model_t *made, mbv3c_model_t **model) {
  if (code == MBV3C_OK) {
    *model = made;
  } else {
    mbv3c_close(made);
  }
  return code;
}

static int read_text(const char *path, char **text) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) return fail(MBV3C_BAD_FILE, "cannot open %s: %s", path, strerror(errno));
  *text = malloc(MOST_TEXT + 1);
  size_t length = *text == NULL ? 0 : fread(*text, 1, MOST_TEXT, file);
  fclose(file);
  if (*text == NULL) return fail(MBV3C_NO_MEMORY, "no memory for %s", path);
  (*text)[length] = '\0';
  return MBV3C_OK;
}

int mbv3c_open(const char *bundle, mbv3c_model_t **model) {
  if (bundle == NULL || model == NULL) return fail(MBV3C_NULL_POINTER, "an argument is NULL");
  *model = NULL;
  char path[MOST_LINE];
  char *text = NULL;
  if (snprintf(path, sizeof path, "%s/app/ends.txt", bundle) >= (int)sizeof path) {
    return fail(MBV3C_BAD_FILE, "the path of the bundle is too long");
  }
  int code = read_text(path, &text);
  if (code != MBV3C_OK) return code;
  mbv3c_model_t *made = new_model();
  code = made == NULL ? MBV3C_NO_MEMORY : read_ends(text, made);
  free(text);
  if (code == MBV3C_OK) {
    snprintf(path, sizeof path, "%s/model.so", bundle);
    code = load(made, path);
  }
  return finish_opening(code, made, model);
}

int mbv3c_open_memory(const void *library, size_t bytes, const char *ends, mbv3c_model_t **model) {
  if (library == NULL || ends == NULL || model == NULL) {
    return fail(MBV3C_NULL_POINTER, "an argument is NULL");
  }
  *model = NULL;
  mbv3c_model_t *made = new_model();
  int code = made == NULL ? MBV3C_NO_MEMORY : read_ends(ends, made);
  if (code == MBV3C_OK) {
    made->memory = memfd_create("model.so", MFD_CLOEXEC);
    if (made->memory < 0) {
      code = fail(MBV3C_NO_MEMORY, "no memory without a file for the library: %s",
                  strerror(errno));
    }
  }
  for (size_t done = 0; code == MBV3C_OK && done < bytes;) {
    ssize_t written = write(made->memory, (const char *)library + done, bytes - done);
    if (written > 0) {
      done += (size_t)written;
    } else if (errno != EINTR) {
      code = fail(MBV3C_NO_MEMORY, "no memory for the library: %s", strerror(errno));
    }
  }
  if (code == MBV3C_OK) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", made->memory);
    code = load(made, path);
  }
  return finish_opening(code, made, model);
}

size_t mbv3c_input_count(const mbv3c_model_t *model) {
  return model == NULL ? 0 : model->input_count;
}

size_t mbv3c_output_count(const mbv3c_model_t *model) {
  return model == NULL ? 0 : model->output_count;
}

const mbv3c_end_t *mbv3c_input(const mbv3c_model_t *model, size_t index) {
  return index < mbv3c_input_count(model) ? &model->inputs[index].end : NULL;
}

const mbv3c_end_t *mbv3c_output(const mbv3c_model_t *model, size_t index) {
  return index < mbv3c_output_count(model) ? &model->outputs[index].end : NULL;
}

/* ---- an inference ---- */

static void keep(DLManagedTensor *tensor) { (void)tensor; }

/* An input as TVM takes it: the application's memory, or an aligned copy. */
typedef struct {
  DLManagedTensor borrowed;
  TVMFFIAny tensor;
  void *copy;
} input_t;

static int take(end_t *end, const void *data, input_t *input) {
  if ((uintptr_t)data % ALIGNMENT != 0) {
    size_t padded = (end->end.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (posix_memalign(&input->copy, ALIGNMENT, padded) != 0) {
      input->copy = NULL;
      return fail(MBV3C_NO_MEMORY, "no memory for a copy of input %s", end->name);
    }
    data = memcpy(input->copy, data, end->end.bytes);
  }
  DLTensor *tensor = &input->borrowed.dl_tensor;
  tensor->data = (void *)(uintptr_t)data;
  tensor->device.device_type = kDLCPU;
  tensor->ndim = end->end.rank;
  tensor->dtype = end->type;
  tensor->shape = end->extents;
  input->borrowed.deleter = keep;
  TVMFFIObjectHandle handle = NULL;
  if (TVMFFITensorFromDLPack(&input->borrowed, ALIGNMENT, 1, &handle) != 0) {
    return fail_with_tvm("passing an input");
  }
  input->tensor.type_index = kTVMFFITensor;
  input->tensor.v_obj = (TVMFFIObject *)handle;
  return MBV3C_OK;
}

/* Copies one result to the application, if it is what ends.txt says. */
static int give(const TVMFFIAny *value, const end_t *end, void *data) {
  if (value->type_index != kTVMFFITensor) {
    return fail(MBV3C_BAD_FILE, "output %s is no tensor", end->name);
  }
  const DLTensor *tensor = (const DLTensor *)((char *)value->v_obj + sizeof(TVMFFIObject));
  size_t bytes = tensor->dtype.bits / 8u;
  int64_t dense = 1;
  for (int axis = tensor->ndim - 1; axis >= 0; --axis) {
    if (tensor->strides != NULL && tensor->shape[axis] != 1 && tensor->strides[axis] != dense) {
      return fail(MBV3C_BAD_FILE, "output %s is not contiguous", end->name);
    }
    dense *= tensor->shape[axis];
  }
  bytes *= (size_t)dense;
  if (bytes != end->end.bytes || memcmp(&tensor->dtype, &end->type, sizeof end->type) != 0) {
    return fail(MBV3C_BAD_FILE, "output %s is not the %zu bytes of %s that ends.txt says",
                end->name, end->end.bytes, end->dtype);
  }
  memcpy(data, (const char *)tensor->data + tensor->byte_offset, bytes);
  return MBV3C_OK;
}

static int give_all(mbv3c_model_t *model, TVMFFIAny *result, void *const *outputs) {
  if (result->type_index != kTVMFFIArray) return give(result, model->outputs, outputs[0]);
  int code = MBV3C_OK;
  for (size_t k = 0; code == MBV3C_OK && k < model->output_count; ++k) {
    TVMFFIAny arguments[] = {*result, as_int((int64_t)k)}, item;
    code = call_global("ffi.ArrayGetItem", arguments, 2, &item);
    if (code == MBV3C_OK) code = give(&item, &model->outputs[k], outputs[k]);
    drop(&item);
  }
  return code;
}

static int infer(mbv3c_model_t *model, machine_t *machine, const void *const *inputs,
                 void *const *outputs) {
  input_t *taken = calloc(model->input_count, sizeof *taken);
  TVMFFIAny *arguments = calloc(model->input_count, sizeof *arguments), result;
  int code = taken == NULL || arguments == NULL ? fail(MBV3C_NO_MEMORY, "no memory for arguments")
                                                : MBV3C_OK;
  for (size_t k = 0; code == MBV3C_OK && k < model->input_count; ++k) {
    code = take(&model->inputs[k], inputs[k], &taken[k]);
    arguments[k] = taken[k].tensor;
  }
  if (code == MBV3C_OK) {
    code = call("the inference", machine->main.v_obj, arguments, (int)model->input_count, &result);
    if (code == MBV3C_OK) code = give_all(model, &result, outputs);
    drop(&result);
  }
  for (size_t k = 0; taken != NULL && k < model->input_count; ++k) {
    drop(&taken[k].tensor);
    free(taken[k].copy);
  }
  free(arguments);
  free(taken);
  return code;
}

int mbv3c_run(mbv3c_model_t *model, const void *const *inputs, void *const *outputs) {
  if (model == NULL) return fail(MBV3C_NOT_OPEN, "no model is open");
  if (inputs == NULL || outputs == NULL) return fail(MBV3C_NULL_POINTER, "an argument is NULL");
  for (size_t k = 0; k < model->input_count; ++k) {
    if (inputs[k] == NULL) {
      return fail(MBV3C_NULL_POINTER, "input %s is NULL", model->inputs[k].name);
    }
  }
  for (size_t k = 0; k < model->output_count; ++k) {
    if (outputs[k] == NULL) {
      return fail(MBV3C_NULL_POINTER, "output %s is NULL", model->outputs[k].name);
    }
  }
  pthread_mutex_lock(&model->lock);
  machine_t *machine = model->idle;
  if (machine != NULL) model->idle = machine->next;
  pthread_mutex_unlock(&model->lock);
  int code = machine == NULL ? make_machine(model, &machine) : MBV3C_OK;
  if (code != MBV3C_OK) return code;
  code = infer(model, machine, inputs, outputs);
  pthread_mutex_lock(&model->lock);
  machine->next = model->idle;
  model->idle = machine;
  pthread_mutex_unlock(&model->lock);
  return code;
}

int mbv3c_set_threads(int threads, const int *cores) {
  enum { ANY = 1, ONE_CORE_A_THREAD = -2 }; /* ThreadGroup::AffinityMode of TVM */
  if (threads < 1 || threads > 1024) {
    return fail(MBV3C_RUNTIME, "%d is no number of threads", threads);
  }
  char(*names)[16] = calloc((size_t)threads, sizeof *names);
  TVMFFIAny *list = calloc((size_t)threads, sizeof *list), array, nothing;
  int code = names == NULL || list == NULL ? fail(MBV3C_NO_MEMORY, "no memory for threads")
                                           : MBV3C_OK;
  memset(&array, 0, sizeof array);
  if (code == MBV3C_OK && cores != NULL) {
    for (int k = 0; k < threads; ++k) {
      snprintf(names[k], sizeof names[k], "%d", cores[k]);
      list[k] = as_text(names[k]);
    }
    code = call_global("ffi.Array", list, threads, &array);
  }
  if (code == MBV3C_OK) {
    TVMFFIAny arguments[] = {as_int(cores == NULL ? ANY : ONE_CORE_A_THREAD), as_int(threads), array};
    code = call_global("runtime.config_threadpool", arguments, cores == NULL ? 2 : 3, &nothing);
    if (code == MBV3C_OK) drop(&nothing);
  }
  drop(&array);
  free(list);
  free(names);
  return code;
}
