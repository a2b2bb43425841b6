// mbv3c_run: check or run a bundle on the board itself, with nothing installed but TVM's runtime.
//
//   mbv3c_run [--repeat N] [--load LIBRARY] BUNDLE
//       runs BUNDLE/golden/input.npy, compares with BUNDLE/golden/output.npy. The tolerance is the
//       number in BUNDLE/golden/tolerance.txt: the largest allowed max-abs-error divided by the
//       range (max - min) of the golden output; one line for each output. Class scores (outputs of
//       rank 1 and 2) must agree in the argmax of every row, too. Where the line ends in "labels",
//       the output holds labels or other whole numbers, and the number is the share of them that
//       may differ, because they are at ties. Where it ends in "scaled", channels differ by orders
//       of magnitude, and BUNDLE/golden/scale.npy has the range of each element in its place;
//       scale.1.npy is that of the second output, and so on.
//   mbv3c_run [--repeat N] [--load LIBRARY] BUNDLE IN.npy OUT.npy [IN2.npy OUT2.npy ...]
//       runs every input and writes its output.
//   mbv3c_run [--load LIBRARY] --stream BUNDLE
//       reads one .npy array after the other from standard input, until that ends, and writes the
//       outputs of each to standard output, as .npy arrays too, before it reads the next.
//   mbv3c_run --kernels FOLDER BUNDLE IN.npy OUT.npy
//       runs the input and stops before and after each kernel: call N (from 0) gets the bytes of
//       FOLDER/N.A.in as its argument A, and the bytes of its argument A are written over
//       FOLDER/N.A.out, where there are such files. FOLDER/names takes the kernels' names.
//
// A bundle for several shapes of its inputs has BUNDLE/shapes.txt: a line for each, with the function
// of the library that takes it. The shapes of the arrays say which one runs; the golden files of the
// shapes after the first lie in BUNDLE/golden/1, BUNDLE/golden/2, and so on, and are checked, too.
//
// A bundle whose manifest.json says that it is for a GPU runs on the OpenCL device. TVM's runtime
// must have been built with OpenCL (scripts/build_android_runtime.sh), or --load names a library
// that adds it, such as the one that `mbv3c doctor` calls "opencl runtime".
//
// A model with several outputs writes OUT.npy, OUT.1.npy, OUT.2.npy, and so on, and one with several
// inputs reads IN.npy, IN.1.npy, IN.2.npy, and so on; --stream reads as many arrays.
// Arrays are little-endian and in C order, of the type that the model takes. --repeat prints latency
// on stderr.
// Exit status: 0 done or passed, 1 failed, 2 wrong usage, 3 parity missed.
//
// Build on a board, after `pip install --no-deps apache-tvm==VERSION apache-tvm-ffi==VERSION` with
// the versions that the bundle's manifest.json names; P is the site-packages folder of that pip,
// and this is one line:
//
//   g++ -O2 -std=c++17 -fno-exceptions -fno-rtti mbv3c_run.cc -o mbv3c_run
//       -I $P/tvm_ffi/include -L $P/tvm_ffi/lib -L $P/tvm/lib
//       -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi -ldl -Wl,-rpath,$P/tvm_ffi/lib:$P/tvm/lib
//
// Only libtvm_runtime.so and libtvm_ffi.so of those two packages are needed to run it. The program
// uses the C API alone and none of the C++ library, so that a cross compiler builds it in seconds.

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <tvm/ffi/c_api.h>

// This program's own ELF header; the linker defines it.
extern "C" const unsigned char __ehdr_start[] __attribute__((visibility("hidden")));

namespace {

enum Exit { kDone = 0, kFailed = 1, kUsage = 2, kParity = 3 };

constexpr int kMaxRank = 8;
constexpr int kMaxInputs = 32;
constexpr int kMaxShapes = 64;
constexpr size_t kAlignment = 64;    // what TVM's kernels may assume of an input
constexpr int64_t kPooledAllocator = 2;

constexpr char kHelp[] =
    "usage: mbv3c_run [OPTIONS] BUNDLE                              check against golden/\n"
    "       mbv3c_run [OPTIONS] BUNDLE IN.npy OUT.npy [IN OUT ...]  run and write outputs\n"
    "       mbv3c_run [--load LIBRARY] --stream BUNDLE              run stdin's arrays to stdout\n"
    "       mbv3c_run --kernels FOLDER BUNDLE IN.npy OUT.npy        read and write arguments\n"
    "options: --repeat N      print the latency of N runs\n"
    "         --load LIBRARY  load a library first: an OpenCL runtime for TVM\n";

[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fflush(stdout);
  fputs("mbv3c_run: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(kFailed);
}

[[noreturn]] void wrong_usage(const char* reason) {
  fprintf(stderr, "mbv3c_run: %s\n%s", reason, kHelp);
  exit(kUsage);
}

// ---- small owners ----

struct File {
  FILE* handle;
  File(const char* path, const char* mode) : handle(fopen(path, mode)) {
    if (!handle) fail("cannot open %s: %s", path, strerror(errno));
  }
  File(const File&) = delete;
  ~File() {
    if (handle) fclose(handle);
  }
};

struct Path {
  char text[4096];
  __attribute__((format(printf, 2, 3))) explicit Path(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0 || static_cast<size_t>(length) >= sizeof text) fail("path too long: %s", text);
  }
};

// Element types by their names in the headers of .npy files.
struct Type {
  const char* name;
  DLDataType type;
};

constexpr Type kTypes[] = {
    {"<f4", {kDLFloat, 32, 1}}, {"<f2", {kDLFloat, 16, 1}}, {"<f8", {kDLFloat, 64, 1}},
    {"|u1", {kDLUInt, 8, 1}},   {"|i1", {kDLInt, 8, 1}},    {"|b1", {kDLBool, 8, 1}},
    {"<u2", {kDLUInt, 16, 1}},  {"<i2", {kDLInt, 16, 1}},   {"<u4", {kDLUInt, 32, 1}},
    {"<i4", {kDLInt, 32, 1}},   {"<u8", {kDLUInt, 64, 1}},  {"<i8", {kDLInt, 64, 1}},
};

bool same_type(DLDataType a, DLDataType b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

// Returns the row of kTypes of an element type, or null.
const Type* find_type(DLDataType type) {
  for (const Type& known : kTypes) {
    if (same_type(known.type, type)) return &known;
  }
  return nullptr;
}

double half_to_double(uint16_t bits) {
  int exponent = bits >> 10 & 0x1F, fraction = bits & 0x3FF;
  double value = exponent == 0x1F ? (fraction ? NAN : INFINITY)
                 : exponent ? ldexp(1024 + fraction, exponent - 25)
                            : ldexp(fraction, -24);
  return bits >> 15 ? -value : value;
}

template <typename T>
T element(const void* data, int64_t index) {
  return static_cast<const T*>(data)[index];
}

// Returns an element of an array as a number.
double number_at(const void* data, DLDataType type, int64_t index) {
  if (type.code == kDLFloat) {
    if (type.bits == 16) return half_to_double(element<uint16_t>(data, index));
    return type.bits == 32 ? element<float>(data, index) : element<double>(data, index);
  }
  bool sign = type.code == kDLInt;
  switch (type.bits) {
    case 8: return sign ? element<int8_t>(data, index) : element<uint8_t>(data, index);
    case 16: return sign ? element<int16_t>(data, index) : element<uint16_t>(data, index);
    case 32:
      return sign ? static_cast<double>(element<int32_t>(data, index))
                  : static_cast<double>(element<uint32_t>(data, index));
    default:
      return sign ? static_cast<double>(element<int64_t>(data, index))
                  : static_cast<double>(element<uint64_t>(data, index));
  }
}

struct Array {
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t count = 0;
  DLDataType type = kTypes[0].type;
  void* data = nullptr;
  DLManagedTensor borrowed = {};  // TVM's view of it

  size_t bytes() const { return static_cast<size_t>(count) * (type.bits / 8u); }

  Array() = default;
  Array(const Array&) = delete;
  ~Array() { free(data); }
};

// A value of TVM's FFI; releases the object it holds.
struct Value {
  TVMFFIAny any = {};

  Value() = default;
  Value(Value&& other) : any(other.any) { other.any = {}; }
  Value& operator=(Value&& other) {
    TVMFFIAny held = any;
    any = other.any;
    other.any = held;
    return *this;
  }
  ~Value() {
    if (any.type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(any.v_obj);
  }
};

// ---- .npy files ----

// Returns what follows "'key':" in the header of a .npy file.
const char* npy_field(const char* header, const char* key, const char* path) {
  const char* found = strstr(header, key);
  found = found ? strchr(found, ':') : nullptr;
  if (!found) fail("%s: the .npy header has no %s", path, key);
  return found + 1 + strspn(found + 1, " ");
}

void read_npy_shape(const char* text, const char* path, Array* array) {
  if (*text != '(') fail("%s: the .npy header has no shape that can be read", path);
  array->count = 1;
  for (++text; *text != ')';) {
    char* end;
    long long extent = strtoll(text, &end, 10);
    if (end == text || extent <= 0) fail("%s: empty, or a shape that cannot be read", path);
    if (array->rank == kMaxRank) fail("%s: more than %d dimensions", path, kMaxRank);
    array->shape[array->rank++] = extent;
    if (__builtin_mul_overflow(array->count, static_cast<int64_t>(extent), &array->count) ||
        array->count > INT64_MAX / 8) {
      fail("%s: too large", path);
    }
    text = end + strspn(end, ", ");
  }
}

void read_npy_header(FILE* file, const char* path, Array* array) {
  unsigned char start[12];
  if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0) {
    fail("%s: not a .npy file", path);
  }
  if (start[6] < 1 || start[6] > 3) fail("%s: .npy version %d is unknown", path, start[6]);
  size_t length = start[8] | start[9] << 8;
  if (start[6] > 1) {  // versions 2 and 3 have four bytes of length
    if (fread(start + 10, 1, 2, file) != 2) fail("%s: truncated in its header", path);
    length |= static_cast<size_t>(start[10]) << 16 | static_cast<size_t>(start[11]) << 24;
  }
  char header[4096];
  if (length >= sizeof header) fail("%s: a .npy header of %zu bytes", path, length);
  if (fread(header, 1, length, file) != length) fail("%s: truncated in its header", path);
  header[length] = '\0';

  const char* dtype = npy_field(header, "'descr'", path);
  const Type* known = nullptr;
  for (const Type& type : kTypes) {
    if (dtype[0] == '\'' && strncmp(dtype + 1, type.name, 3) == 0 && dtype[4] == '\'') known = &type;
  }
  if (!known) {
    fail("%s: holds dtype %.*s; save it as little-endian numbers, such as '<f4'", path,
         static_cast<int>(strcspn(dtype, ",}")), dtype);
  }
  array->type = known->type;
  if (strncmp(npy_field(header, "'fortran_order'", path), "False", 5) != 0) {
    fail("%s: is in Fortran order; save np.ascontiguousarray of it", path);
  }
  read_npy_shape(npy_field(header, "'shape'", path), path, array);
}

void read_array(FILE* file, const char* path, Array* array) {
  read_npy_header(file, path, array);
  size_t bytes = array->bytes();
  size_t padded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  array->data = aligned_alloc(kAlignment, padded);
  if (!array->data) fail("%s: no memory for %zu bytes", path, bytes);
  size_t got = fread(array->data, 1, bytes, file);
  if (got != bytes) fail("%s: truncated, holds %zu of %zu bytes of data", path, got, bytes);
}

void read_npy(const char* path, Array* array) {
  File file(path, "rb");
  read_array(file.handle, path, array);
}

// Writes an array; returns whether all of it was taken.
bool write_array(FILE* file, const DLTensor& tensor, const void* data) {
  char shape[kMaxRank * 24] = "";
  int64_t count = 1;
  for (int axis = 0; axis < tensor.ndim; ++axis) {
    size_t used = strlen(shape);
    const char* separator = axis ? " " : "";
    snprintf(shape + used, sizeof shape - used, "%s%" PRId64 ",", separator, tensor.shape[axis]);
    count *= tensor.shape[axis];
  }
  if (tensor.ndim > 1) shape[strlen(shape) - 1] = '\0';  // only a 1-tuple keeps its comma
  char text[512];
  int length = snprintf(text, sizeof text,
                        "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                        find_type(tensor.dtype)->name, shape);
  while ((10 + length + 1) % 64 != 0) text[length++] = ' ';
  text[length++] = '\n';
  const unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0,
                                   static_cast<unsigned char>(length & 255),
                                   static_cast<unsigned char>(length >> 8)};
  size_t total = static_cast<size_t>(count);
  return fwrite(start, 1, sizeof start, file) == sizeof start &&
         fwrite(text, 1, length, file) == static_cast<size_t>(length) &&
         fwrite(data, tensor.dtype.bits / 8u, total, file) == total;
}

void write_npy(const char* path, const DLTensor& tensor, const void* data) {
  Path partial("%s.partial", path);  // renamed when whole, so that nobody sees half an array
  File file(partial.text, "wb");
  bool good = write_array(file.handle, tensor, data);
  good = fclose(file.handle) == 0 && good;
  file.handle = nullptr;
  if (!good || rename(partial.text, path) != 0) {
    int reason = errno;
    remove(partial.text);
    fail("cannot write %s: %s", path, strerror(reason));
  }
}

// ---- TVM through its C API ----

[[noreturn]] void fail_with_tvm_error(const char* doing) {
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  if (!error) fail("%s failed, and TVM gives no reason", doing);
  const TVMFFIErrorCell* cell = TVMFFIErrorGetCellPtr(error);
  fail("%s failed: %.*s: %.*s", doing, static_cast<int>(cell->kind.size), cell->kind.data,
       static_cast<int>(cell->message.size), cell->message.data);
}

TVMFFIAny as_int(int64_t number) {
  TVMFFIAny any = {};
  any.type_index = kTVMFFIInt;
  any.v_int64 = number;
  return any;
}

TVMFFIAny as_text(const char* text) {
  TVMFFIAny any = {};
  any.type_index = kTVMFFIRawStr;
  any.v_c_str = text;
  return any;
}

template <typename... Arguments>
Value call(const char* doing, const Value& function, Arguments... arguments) {
  TVMFFIAny list[] = {arguments..., TVMFFIAny{}};  // one too many: no array may be empty
  Value result;
  if (TVMFFIFunctionCall(function.any.v_obj, list, sizeof...(arguments), &result.any) != 0) {
    fail_with_tvm_error(doing);
  }
  return result;
}

Value global_function(const char* name) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle handle = nullptr;
  if (TVMFFIFunctionGetGlobal(&key, &handle) != 0) fail_with_tvm_error(name);
  if (!handle) fail("this TVM runtime has no function %s; its version is not the bundle's", name);
  Value function;
  function.any.type_index = kTVMFFIFunction;
  function.any.v_obj = static_cast<TVMFFIObject*>(handle);
  return function;
}

// Returns a function of a module, or none.
Value find_function(const Value& module, const char* name) {
  return call(name, global_function("ffi.ModuleGetFunction"), module.any, as_text(name),
              as_int(1 /* look into imported modules */));
}

Value module_function(const Value& module, const char* name) {
  Value function = find_function(module, name);
  if (function.any.type_index != kTVMFFIFunction) fail("the model has no function %s", name);
  return function;
}

// Refuses what the dynamic loader would only call "No such file".
void check_library(const char* path) {
  constexpr size_t kMachine = 18;  // where the header of an ELF file names the processor
  unsigned char header[kMachine + 2];
  File file(path, "rb");
  if (fread(header, 1, sizeof header, file.handle) != sizeof header ||
      memcmp(header, "\x7f" "ELF", 4) != 0) {
    fail("%s: is not a shared library", path);
  }
  if (memcmp(header + kMachine, __ehdr_start + kMachine, 2) != 0) {
    fail("%s: was compiled for another kind of processor than this one", path);
  }
}

// ---- kernels one by one ----

struct Kernels {
  const char* folder;
  int64_t calls;
  FILE* names;
};

// Returns the text in an argument of TVM's FFI.
TVMFFIByteArray text_of(const TVMFFIAny& any) {
  if (any.type_index == kTVMFFISmallStr) return TVMFFISmallBytesGetContentByteArray(&any);
  if (any.type_index == kTVMFFIStr) return *TVMFFIBytesGetByteArrayPtr(any.v_obj);
  if (any.type_index == kTVMFFIRawStr) return {any.v_c_str, strlen(any.v_c_str)};
  fail("TVM names no kernel where it should");
}

// Reads or writes the memory of a kernel's argument where there is a file for it.
void exchange(const Path& path, const TVMFFIAny& argument, bool reading) {
  FILE* handle = fopen(path.text, reading ? "rb" : "r+b");
  if (!handle) return;
  if (argument.type_index != kTVMFFITensor) fail("%s: the argument is no tensor", path.text);
  const DLTensor* tensor = TVMFFITensorGetDLTensorPtr(argument.v_obj);
  size_t bytes = tensor->dtype.bits * tensor->dtype.lanes / 8u;
  for (int axis = 0; axis < tensor->ndim; ++axis) bytes *= static_cast<size_t>(tensor->shape[axis]);
  char* data = static_cast<char*>(tensor->data) + tensor->byte_offset;
  bool whole = reading ? fread(data, 1, bytes, handle) == bytes && fgetc(handle) == EOF
                       : fwrite(data, 1, bytes, handle) == bytes;
  if (fclose(handle) != 0 || !whole) fail("%s: not the %zu bytes of the argument", path.text, bytes);
}

// The library calls this before and after each kernel, or the virtual machine around everything that
// it calls, with the function, its name, whether it is before, the result, and the arguments.
int on_call(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny*) {
  constexpr int kName = 1, kBefore = 2, kFirst = 4;
  Kernels* kernels = static_cast<Kernels*>(self);
  TVMFFIByteArray name = text_of(arguments[kName]);
  if (name.size >= 3 && memcmp(name.data, "vm.", 3) == 0) return 0;  // no kernel
  bool before = arguments[kBefore].v_int64 != 0;
  for (int place = 0; place < count - kFirst; ++place) {
    Path path("%s/%" PRId64 ".%d.%s", kernels->folder, kernels->calls, place,
              before ? "in" : "out");
    exchange(path, arguments[kFirst + place], before);
  }
  if (before) {
    fprintf(kernels->names, "%.*s\n", static_cast<int>(name.size), name.data);
  } else {
    ++kernels->calls;
  }
  return 0;
}

Value instrument_for(Kernels* kernels) {
  Value instrument;
  TVMFFIObjectHandle handle = nullptr;
  if (TVMFFIFunctionCreate(kernels, on_call, nullptr, &handle) != 0) {
    fail_with_tvm_error("watching the kernels");
  }
  instrument.any.type_index = kTVMFFIFunction;
  instrument.any.v_obj = static_cast<TVMFFIObject*>(handle);
  return instrument;
}

TVMFFIAny as_device(DLDevice device) {
  TVMFFIAny any = {};
  any.type_index = kTVMFFIDevice;
  any.v_device = device;
  return any;
}

TVMFFIAny as_pointer(void* pointer) {
  TVMFFIAny any = {};
  any.type_index = kTVMFFIOpaquePtr;
  any.v_ptr = pointer;
  return any;
}

// A function of the library, and the shapes of the inputs that it takes; empty where it is the only
// one.
struct Entry {
  char name[32] = "main";
  char shapes[1024] = "";
  Value function;
};

struct Model {
  Value instrument;     // what watches the kernels, or none
  bool driven = false;  // whether functions take it first
  Entry entries[kMaxShapes];
  int count = 1;
  DLDevice device;
  int inputs = 1;
};

// What one inference takes.
struct Inputs {
  Array arrays[kMaxInputs];
};

// Reads a file up to the end of a text; returns whether the text is there.
bool read_past(FILE* file, const char* text) {
  size_t matched = 0, length = strlen(text);
  for (int c; matched < length && (c = fgetc(file)) != EOF;) {
    matched = c == text[matched] ? matched + 1 : c == text[0];
  }
  return matched == length;
}

// What a bundle's manifest says of its target. A board may do without the manifest: then it is a
// CPU's, and of an unknown processor.
struct Target {
  bool gpu = false;
  char cpu[64] = "";
};

Target target_of(const char* bundle) {
  Target target;
  Path path("%s/manifest.json", bundle);
  FILE* file = fopen(path.text, "rb");
  if (!file) return target;
  target.gpu = read_past(file, "\"mobile_gpu:");
  rewind(file);
  if (read_past(file, "\"target\": {") && read_past(file, "\"cpu\": \"")) {
    if (fscanf(file, "%63[A-Za-z0-9_.-]", target.cpu) != 1) target.cpu[0] = '\0';
  }
  fclose(file);
  return target;
}

// Says which processor a library is for where this one meets an instruction that it lacks.
char illegal_instruction[256];

void watch_instructions(const Target& target) {
  snprintf(illegal_instruction, sizeof illegal_instruction,
           "mbv3c_run: the bundle has an instruction that this processor lacks; it was compiled "
           "for %s: compile it for this one, see `mbv3c targets`\n",
           target.cpu[0] ? target.cpu : "another");
  struct sigaction action = {};
  action.sa_handler = [](int) {
    if (write(STDERR_FILENO, illegal_instruction, strlen(illegal_instruction)) < 0) _exit(kFailed);
    _exit(kFailed);
  };
  sigaction(SIGILL, &action, nullptr);
}

// Makes sure that TVM's runtime has OpenCL.
void require_opencl() {
  constexpr char kName[] = "device_api.opencl";
  TVMFFIByteArray key = {kName, sizeof kName - 1};
  TVMFFIObjectHandle handle = nullptr;
  if (TVMFFIFunctionGetGlobal(&key, &handle) != 0) fail_with_tvm_error(kName);
  if (!handle) {
    fail("the bundle is for a GPU, and this TVM runtime was built without OpenCL; --load an OpenCL "
         "runtime, or build TVM's with scripts/build_android_runtime.sh");
  }
  TVMFFIObjectDecRef(handle);
}

// Reads which functions a bundle's library has, if it takes several shapes.
void read_entries(const char* bundle, Model* model) {
  Path path("%s/shapes.txt", bundle);
  FILE* file = fopen(path.text, "r");
  if (!file) return;
  model->count = 0;
  char line[sizeof Entry::name + sizeof Entry::shapes];
  while (fgets(line, sizeof line, file)) {
    if (model->count == kMaxShapes) fail("%s: more than %d shapes", path.text, kMaxShapes);
    Entry& entry = model->entries[model->count++];
    if (sscanf(line, "%31s %1023[^\n]", entry.name, entry.shapes) != 2) {
      fail("%s: holds a line without a function and shapes", path.text);
    }
  }
  fclose(file);
  if (model->count == 0) fail("%s: is empty", path.text);
}

// Loads a bundle's model on the device that it is for; `kernels` may be null.
Model load_model(const char* bundle, Kernels* kernels) {
  Path path("%s/model.so", bundle);
  check_library(path.text);
  Model model;
  Target target = target_of(bundle);
  watch_instructions(target);
  model.device = {target.gpu ? kDLOpenCL : kDLCPU, 0};
  if (model.device.device_type == kDLOpenCL) require_opencl();
  if (model.device.device_type != kDLCPU && kernels) fail("--kernels is for bundles for CPUs");
  Value library = call("loading the model", global_function("ffi.ModuleLoadFromFile"),
                       as_text(path.text));
  Value machine = call("loading the model", module_function(library, "vm_load_executable"));
  Value initialize = module_function(machine, "vm_initialization");
  const char* doing = "initialising the model";
  if (model.device.device_type == kDLCPU) {
    call(doing, initialize, as_int(kDLCPU), as_int(0), as_int(kPooledAllocator));
  } else {  // the host computes shapes
    call(doing, initialize, as_int(model.device.device_type), as_int(0), as_int(kPooledAllocator),
         as_int(kDLCPU), as_int(0), as_int(kPooledAllocator));
  }
  read_entries(bundle, &model);
  if (kernels) model.instrument = instrument_for(kernels);
  for (int i = 0; i < model.count; ++i) {
    Entry& entry = model.entries[i];
    entry.function = module_function(machine, entry.name);
    if (!kernels) continue;
    // A library's driver takes what watches its kernels; the virtual machine of one that is from
    // before keeps it.
    Value watched = find_function(machine, Path("watched_%s", entry.name).text);
    model.driven = watched.any.type_index == kTVMFFIFunction;
    if (model.driven) {
      entry.function = static_cast<Value&&>(watched);
    } else {
      call("watching the kernels", module_function(machine, "set_instrument"),
           model.instrument.any);
    }
  }
  int64_t inputs = call("reading the model", module_function(machine, "get_function_arity"),
                        as_text(model.entries[0].name)).any.v_int64;
  if (inputs < 1 || inputs > kMaxInputs) fail("the model takes %" PRId64 " inputs", inputs);
  model.inputs = static_cast<int>(inputs);
  return model;
}

// Returns a TVM tensor on the memory of `array`, which must outlive it.
Value view_of(Array* array) {
  DLManagedTensor& borrowed = array->borrowed;
  borrowed = {};
  borrowed.dl_tensor.data = array->data;
  borrowed.dl_tensor.device = {kDLCPU, 0};
  borrowed.dl_tensor.ndim = array->rank;
  borrowed.dl_tensor.dtype = array->type;
  borrowed.dl_tensor.shape = array->shape;
  borrowed.deleter = [](DLManagedTensor*) {};
  TVMFFIObjectHandle handle = nullptr;
  if (TVMFFITensorFromDLPack(&borrowed, kAlignment, 1, &handle) != 0) {
    fail_with_tvm_error("passing the input");
  }
  Value tensor;
  tensor.any.type_index = kTVMFFITensor;
  tensor.any.v_obj = static_cast<TVMFFIObject*>(handle);
  return tensor;
}

// Returns a TVM tensor with the values of `array` where the model wants it.
Value input_of(Array* array, DLDevice device) {
  if (device.device_type == kDLCPU) return view_of(array);
  const char* doing = "passing the input to the device";
  TVMFFIAny extents[kMaxRank];
  for (int axis = 0; axis < array->rank; ++axis) extents[axis] = as_int(array->shape[axis]);
  Value shape;
  Value make_shape = global_function("ffi.Shape");
  if (TVMFFIFunctionCall(make_shape.any.v_obj, extents, array->rank, &shape.any) != 0) {
    fail_with_tvm_error(doing);
  }
  TVMFFIAny dtype = {};
  dtype.type_index = kTVMFFIDataType;
  dtype.v_dtype = array->type;
  Value tensor = call(doing, global_function("runtime.TVMTensorAllocWithScope"), shape.any, dtype,
                      as_device(device), TVMFFIAny{});
  call(doing, global_function("runtime.TVMTensorCopyFromBytes"), tensor.any,
       as_pointer(array->data), as_int(static_cast<int64_t>(array->bytes())));
  return tensor;
}

int compare_doubles(const void* left, const void* right) {
  double a = *static_cast<const double*>(left), b = *static_cast<const double*>(right);
  return (a > b) - (a < b);
}

double now_ms() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
}

// Marks where an inference begins and ends for the instruction counter of `mbv3c bench`. These are
// hints without a meaning: on a processor they do nothing.
#if defined(__aarch64__)
#define MARK_START() __asm__ volatile("hint #100" ::: "memory")
#define MARK_END() __asm__ volatile("hint #101" ::: "memory")
#else
#define MARK_START()
#define MARK_END()
#endif

// Writes the shapes of a model's inputs as shapes.txt has them.
Path text_of_shapes(const Model& model, const Inputs& inputs) {
  Path text("%s", "");
  size_t used = 0;
  for (int i = 0; i < model.inputs; ++i) {
    const Array& array = inputs.arrays[i];
    const char* between = i ? " " : "";
    if (array.rank == 0) {
      used += snprintf(text.text + used, sizeof text.text - used, "%sscalar", between);
    }
    for (int axis = 0; axis < array.rank; ++axis) {
      used += snprintf(text.text + used, sizeof text.text - used, "%s%" PRId64,
                       axis ? "x" : between, array.shape[axis]);
    }
  }
  return text;
}

// Returns the function for a model's inputs: by their shapes, if there are several.
const Value& function_for(const Model& model, const Inputs& inputs, const char* name) {
  if (!model.entries[0].shapes[0]) return model.entries[0].function;
  Path given = text_of_shapes(model, inputs);
  Path known("%s", "");
  for (int i = 0; i < model.count; ++i) {
    if (strcmp(model.entries[i].shapes, given.text) == 0) return model.entries[i].function;
    size_t used = strlen(known.text);
    snprintf(known.text + used, sizeof known.text - used, "%s%s", i ? ", " : "",
             model.entries[i].shapes);
  }
  fail("%s: has the shape %s, and the bundle is compiled for %s", name, given.text, known.text);
}

Value infer_once(const Model& model, const Value& function, const Value* arguments,
                 const char* name) {
  TVMFFIAny list[1 + kMaxInputs];
  int count = 0;
  if (model.driven) list[count++] = model.instrument.any;
  for (int i = 0; i < model.inputs; ++i) list[count++] = arguments[i].any;
  MARK_START();
  Value result;
  if (TVMFFIFunctionCall(function.any.v_obj, list, count, &result.any) != 0) {
    fail_with_tvm_error(Path("inference on %s", name).text);
  }
  if (model.device.device_type != kDLCPU) {  // a device is told, and computes later
    call("inference", global_function("runtime.Device_StreamSync"), as_device(model.device),
         as_int(0));
  }
  MARK_END();
  return result;
}

// Runs a model `repeat` times (0: once, and untimed) and returns the last result.
Value infer(const Model& model, Inputs* inputs, const char* name, int repeat) {
  const Value& function = function_for(model, *inputs, name);
  Value arguments[kMaxInputs];
  for (int i = 0; i < model.inputs; ++i) {
    arguments[i] = input_of(&inputs->arrays[i], model.device);
  }
  if (repeat == 0) return infer_once(model, function, arguments, name);
  double* times = static_cast<double*>(malloc(sizeof(double) * static_cast<size_t>(repeat)));
  if (!times) fail("no memory for %d times", repeat);
  Value result;
  // A GPU's driver compiles kernels when they are launched first.
  if (model.device.device_type != kDLCPU) infer_once(model, function, arguments, name);
  for (int i = 0; i < repeat; ++i) {
    double start = now_ms();
    result = infer_once(model, function, arguments, name);
    times[i] = now_ms() - start;
  }
  qsort(times, static_cast<size_t>(repeat), sizeof(double), compare_doubles);
  double median = (times[(repeat - 1) / 2] + times[repeat / 2]) / 2;
  fprintf(stderr, "%s: median %.3f ms, min %.3f ms of %d runs on this machine\n", name, median,
          times[0], repeat);
  free(times);
  return result;
}

int64_t output_count(const Value& result) {
  if (result.any.type_index == kTVMFFITensor) return 1;
  if (result.any.type_index != kTVMFFIArray) fail("the model returns no tensor");
  int64_t count = call("reading the outputs", global_function("ffi.ArraySize"), result.any)
                      .any.v_int64;
  if (count == 0) fail("the model returns no tensor");
  return count;
}

Value output_at(const Value& result, int64_t index) {
  if (result.any.type_index == kTVMFFIArray) {
    return call("reading the outputs", global_function("ffi.ArrayGetItem"), result.any,
                as_int(index));
  }
  Value same;
  TVMFFIAnyViewToOwnedAny(&result.any, &same.any);
  return same;
}

// An output in memory: its shape, and its values in C order.
struct Output {
  Value tensor;
  DLTensor shape;
  const void* data = nullptr;
  void* copied = nullptr;

  Output() = default;
  Output(const Output&) = delete;
  ~Output() { free(copied); }
};

// Gets output `index` of a result after making sure that it is what this program can read.
void fetch(const Value& result, int64_t index, Output* output) {
  output->tensor = output_at(result, index);
  if (output->tensor.any.type_index != kTVMFFITensor) {
    fail("output %" PRId64 " is not a tensor", index);
  }
  const DLTensor* tensor = TVMFFITensorGetDLTensorPtr(output->tensor.any.v_obj);
  if (!find_type(tensor->dtype)) {
    fail("output %" PRId64 " has a type of %d bits that .npy files do not hold", index,
         tensor->dtype.bits);
  }
  if (tensor->ndim > kMaxRank) fail("output %" PRId64 " has %d dimensions", index, tensor->ndim);
  int64_t dense = 1;
  for (int axis = tensor->ndim - 1; axis >= 0; --axis) {
    if (tensor->strides && tensor->shape[axis] != 1 && tensor->strides[axis] != dense) {
      fail("output %" PRId64 " is not contiguous", index);
    }
    dense *= tensor->shape[axis];
  }
  output->shape = *tensor;
  if (tensor->device.device_type == kDLCPU) {
    output->data = static_cast<const char*>(tensor->data) + tensor->byte_offset;
    return;
  }
  size_t bytes = static_cast<size_t>(dense) * (tensor->dtype.bits / 8u);
  output->copied = malloc(bytes);
  if (!output->copied) fail("no memory for %zu bytes of output %" PRId64, bytes, index);
  call("reading the outputs", global_function("runtime.TVMTensorCopyToBytes"),
       output->tensor.any, as_pointer(output->copied), as_int(static_cast<int64_t>(bytes)));
  output->data = output->copied;
}

// Names the file of input or output `index`: a.npy, a.1.npy, a.2.npy, ...
Path path_of_array(const char* first, int64_t index) {
  if (index == 0) return Path("%s", first);
  size_t length = strlen(first);
  if (length > 4 && strcmp(first + length - 4, ".npy") == 0) length -= 4;
  return Path("%.*s.%" PRId64 ".npy", static_cast<int>(length), first, index);
}

// ---- the golden check ----

int64_t argmax(const void* data, DLDataType type, int64_t first, int64_t length) {
  int64_t best = 0;
  for (int64_t i = 1; i < length; ++i) {
    if (number_at(data, type, first + i) > number_at(data, type, first + best)) best = i;
  }
  return best;
}

struct Tolerance {
  double allowed;
  bool labels;  // whether `allowed` is the share of numbers that may differ
  Array scale;  // the range of each element; without data, the golden output's own is for all
};

// Reads the next output's tolerance, and its ranges where there are several.
void read_tolerance(FILE* file, const char* path, const char* scale_path, int64_t index,
                    Tolerance* tolerance) {
  char line[128], word[16] = "";
  if (!fgets(line, sizeof line, file) || sscanf(line, "%lf %15s", &tolerance->allowed, word) < 1 ||
      !(tolerance->allowed >= 0 && tolerance->allowed <= 1)) {
    fail("%s: holds no number from 0 to 1 for output %" PRId64, path, index);
  }
  tolerance->labels = strcmp(word, "labels") == 0;
  if (strcmp(word, "scaled") == 0) {
    read_npy(path_of_array(scale_path, index).text, &tolerance->scale);
  } else if (word[0] && !tolerance->labels) {
    fail("%s: %s is unknown", path, word);
  }
}

// Compares labels, of which only those at ties may differ, and prints the verdict.
bool same_labels(const Output& found, const Array& golden, double allowed) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < golden.count; ++i) {
    wrong += number_at(found.data, golden.type, i) != number_at(golden.data, golden.type, i);
  }
  double share = static_cast<double>(wrong) / static_cast<double>(golden.count);
  bool passed = share <= allowed * (1 + 1e-6);
  printf("%s %" PRId64 " of %" PRId64 " numbers differ (share %g, at ties %g)\n",
         passed ? "PASS" : "FAIL", wrong, golden.count, share, allowed);
  return passed;
}

// Compares one output with its golden one and prints the verdict; returns whether it passed.
bool matches(const Output& found, const Array& golden, const Tolerance& limit, const char* name) {
  double tolerance = limit.allowed;
  const DLTensor& tensor = found.shape;
  if (!same_type(tensor.dtype, golden.type)) {
    printf("FAIL the output's type is not that of %s\n", name);
    return false;
  }
  bool same_shape = tensor.ndim == golden.rank;
  for (int axis = 0; same_shape && axis < golden.rank; ++axis) {
    same_shape = tensor.shape[axis] == golden.shape[axis];
  }
  if (!same_shape) {
    printf("FAIL the output's shape is not that of %s\n", name);
    return false;
  }

  if (limit.labels) return same_labels(found, golden, tolerance);
  const Array& scale = limit.scale;
  if (scale.data && scale.count != golden.count) fail("%s: its ranges are not of its shape", name);
  double error = 0, low = INFINITY, high = -INFINITY;
  for (int64_t i = 0; i < golden.count; ++i) {
    double wanted = number_at(golden.data, golden.type, i);
    double output = number_at(found.data, golden.type, i);
    if (!isfinite(wanted)) fail("%s: element %" PRId64 " is not finite", name, i);
    if (!isfinite(output)) {
      printf("FAIL output element %" PRId64 " is %f, not a finite number\n", i, output);
      return false;
    }
    double range = scale.data ? number_at(scale.data, scale.type, i) : 1;
    if (!(range > 0 && isfinite(range))) fail("%s: range %" PRId64 " is none", name, i);
    error = fmax(error, fabs(output - wanted) / range);
    low = fmin(low, wanted);
    high = fmax(high, wanted);
  }
  // A constant golden output is compared absolutely.
  if (!scale.data && high > low) error /= high - low;

  bool passed = error <= tolerance;
  char classes[128] = "";
  if (golden.rank == 1 || golden.rank == 2) {
    int64_t length = golden.shape[golden.rank - 1], rows = golden.count / length;
    if (rows == 1) {
      snprintf(classes, sizeof classes, ", argmax %" PRId64 " equal",
               argmax(golden.data, golden.type, 0, length));
    } else {
      snprintf(classes, sizeof classes, ", argmax equal in all %" PRId64 " rows", rows);
    }
    for (int64_t row = 0; row < rows; ++row) {
      int64_t want = argmax(golden.data, golden.type, row * length, length);
      int64_t got = argmax(found.data, golden.type, row * length, length);
      if (want == got) continue;
      passed = false;
      snprintf(classes, sizeof classes,
               ", argmax %" PRId64 " instead of %" PRId64 " in row %" PRId64, got, want, row);
      break;
    }
  }
  const char* verdict = passed ? "PASS" : "FAIL";
  printf("%s max error of range %.1e (tolerance %g)%s\n", verdict, error, tolerance, classes);
  return passed;
}

// Reads IN.npy, IN.1.npy, and so on, as many as the model takes.
void read_inputs(const Model& model, const char* first, Inputs* inputs) {
  for (int i = 0; i < model.inputs; ++i) {
    read_npy(path_of_array(first, i).text, &inputs->arrays[i]);
  }
}

// Checks the golden files in a folder; returns whether every output passed.
bool check_folder(const Model& model, const char* folder, int repeat) {
  Path tolerance_path("%s/tolerance.txt", folder);
  File tolerances(tolerance_path.text, "r");
  Path input_path("%s/input.npy", folder), output_path("%s/output.npy", folder);
  Path scale_path("%s/scale.npy", folder);
  Inputs inputs;
  read_inputs(model, input_path.text, &inputs);
  Value result = infer(model, &inputs, input_path.text, repeat);
  bool passed = true;
  for (int64_t index = 0; index < output_count(result); ++index) {
    Output output;
    fetch(result, index, &output);
    Path path = path_of_array(output_path.text, index);
    Array golden;
    read_npy(path.text, &golden);
    Tolerance tolerance;
    read_tolerance(tolerances.handle, tolerance_path.text, scale_path.text, index, &tolerance);
    passed = matches(output, golden, tolerance, path.text) && passed;
  }
  return passed;
}

Exit check(const Model& model, const char* bundle, int repeat) {
  bool passed = true;
  for (int i = 0; i < model.count; ++i) {
    if (model.count > 1) printf("%s: ", model.entries[i].shapes);
    Path folder = i ? Path("%s/golden/%d", bundle, i) : Path("%s/golden", bundle);
    passed = check_folder(model, folder.text, repeat) && passed;
  }
  return passed ? kDone : kParity;
}

void run(const Model& model, const char* in, const char* out, int repeat) {
  Inputs inputs;
  read_inputs(model, in, &inputs);
  Value result = infer(model, &inputs, in, repeat);
  for (int64_t index = 0; index < output_count(result); ++index) {
    Output output;
    fetch(result, index, &output);
    write_npy(path_of_array(out, index).text, output.shape, output.data);
  }
}

// Runs every array of standard input, and returns when it ends.
void stream(const Model& model, FILE* answers) {
  for (int next; (next = fgetc(stdin)) != EOF;) {
    ungetc(next, stdin);
    Inputs inputs;
    for (int i = 0; i < model.inputs; ++i) {
      read_array(stdin, "standard input", &inputs.arrays[i]);
    }
    Value result = infer(model, &inputs, "standard input", 0);
    for (int64_t index = 0; index < output_count(result); ++index) {
      Output output;
      fetch(result, index, &output);
      if (!write_array(answers, output.shape, output.data)) fail("cannot write to standard output");
    }
    if (fflush(answers) != 0) fail("cannot write to standard output");
  }
}

// Returns the real standard output; what libraries print there goes to standard error instead.
FILE* take_standard_output() {
  int kept = dup(1);
  FILE* answers = kept < 0 ? nullptr : fdopen(kept, "wb");
  if (!answers || dup2(2, 1) < 0) fail("cannot take standard output: %s", strerror(errno));
  return answers;
}

// Takes "--stream" out of the arguments; says whether it was there.
bool take_stream(int* count, char** arguments) {
  int kept = 1;
  for (int i = 1; i < *count; ++i) {
    if (strcmp(arguments[i], "--stream") != 0) arguments[kept++] = arguments[i];
  }
  bool found = kept < *count;
  *count = kept;
  return found;
}

// Takes the options out of the arguments; returns N of "--repeat N", or 0 when it is not there.
int take_options(int* count, char** arguments, const char** kernels) {
  int repeat = 0, kept = 1;
  for (int i = 1; i < *count; ++i) {
    if (strcmp(arguments[i], "--repeat") == 0) {
      char* end = nullptr;
      long number = i + 1 < *count ? strtol(arguments[++i], &end, 10) : 0;
      if (number < 1 || number > 1000000 || *end != '\0') {
        wrong_usage("--repeat needs a number from 1 to 1000000");
      }
      repeat = static_cast<int>(number);
    } else if (strcmp(arguments[i], "--kernels") == 0) {
      if (i + 1 == *count) wrong_usage("--kernels needs a folder");
      *kernels = arguments[++i];
    } else {
      arguments[kept++] = arguments[i];
    }
  }
  *count = kept;
  return repeat;
}

// Takes "--load LIBRARY" out of the arguments and loads the library, for good.
void take_load(int* count, char** arguments) {
  int kept = 1;
  for (int i = 1; i < *count; ++i) {
    if (strcmp(arguments[i], "--load") == 0) {
      if (++i == *count) wrong_usage("--load needs a library");
      if (!dlopen(arguments[i], RTLD_NOW | RTLD_GLOBAL)) fail("--load: %s", dlerror());
    } else {
      arguments[kept++] = arguments[i];
    }
  }
  *count = kept;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2 && (strcmp(arguments[1], "--help") == 0 || strcmp(arguments[1], "-h") == 0)) {
    fputs(kHelp, stdout);
    return kDone;
  }
  const char* folder = nullptr;
  int repeat = take_options(&count, arguments, &folder);
  take_load(&count, arguments);
  bool streaming = take_stream(&count, arguments);
  if (count < 2) wrong_usage("no bundle given");
  if (count % 2 != 0) wrong_usage("every IN.npy needs an OUT.npy");
  for (int i = 1; i < count; ++i) {
    if (arguments[i][0] == '-') wrong_usage("unknown option");
  }
  if (folder) {
    if (count != 4 || repeat || streaming) {
      wrong_usage("--kernels goes with one input, without --repeat and --stream");
    }
    File names(Path("%s/names", folder).text, "w");
    Kernels kernels = {folder, 0, names.handle};
    run(load_model(arguments[1], &kernels), arguments[2], arguments[3], 0);
    return kDone;
  }
  if (streaming) {
    if (count != 2 || repeat) wrong_usage("--stream takes no files and no --repeat");
    FILE* answers = take_standard_output();
    stream(load_model(arguments[1], nullptr), answers);
    return kDone;
  }
  Model model = load_model(arguments[1], nullptr);
  if (count == 2) return check(model, arguments[1], repeat);
  for (int i = 2; i < count; i += 2) run(model, arguments[i], arguments[i + 1], repeat);
  return kDone;
}
