// TVM's module of OpenCL kernels, as its compiler writes it into a library.
#pragma once

#include <tvm/ffi/cast.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "programs.h"

namespace mbv3c {

// Kernels' times, taken only between Start and Stop: every launch then keeps an event.
class Profile {
 public:
  void Start() {
    std::lock_guard<std::mutex> lock(mutex_);
    on_ = true;
  }
  bool on() const { return on_; }
  void Add(const std::string& kernel, cl_event event) {
    std::lock_guard<std::mutex> lock(mutex_);
    events_.emplace_back(kernel, event);
  }
  // Return launches and nanoseconds of each kernel since Start.
  std::map<std::string, std::pair<int64_t, int64_t>> Stop() {
    std::lock_guard<std::mutex> lock(mutex_);
    on_ = false;
    std::map<std::string, std::pair<int64_t, int64_t>> times;
    if (events_.empty()) return times;
    Device& device = Device::Get();
    Check(device.cl.clFinish(device.queue), "waiting for " + device.name);
    for (auto& [kernel, event] : events_) {
      cl_ulong start = 0, end = 0;
      cl_int code = device.cl.clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START,
                                                      sizeof start, &start, nullptr);
      if (code == CL_SUCCESS) {
        code = device.cl.clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end,
                                                 nullptr);
      }
      device.cl.clReleaseEvent(event);
      Check(code, "timing " + kernel);
      times[kernel].first += 1;
      times[kernel].second += static_cast<int64_t>(end - start);
    }
    events_.clear();
    return times;
  }

 private:
  std::atomic<bool> on_{false};
  std::mutex mutex_;
  std::vector<std::pair<std::string, cl_event>> events_;
};

inline Profile profile;

// Reads TVM's stream of bytes: little-endian numbers, and texts behind their length as 64 bits.
class Reader {
 public:
  Reader(const char* at, size_t size) : at_(at), end_(at + size) {}

  template <typename T>
  T Number() {
    T value;
    std::memcpy(&value, Take(sizeof value), sizeof value);
    return value;
  }
  std::string Text() {
    auto size = Number<uint64_t>();
    return std::string(Take(size), size);
  }

 private:
  const char* Take(uint64_t size) {
    if (static_cast<uint64_t>(end_ - at_) < size) {
      TVM_FFI_THROW(ValueError) << "the OpenCL module is truncated; export the library again";
    }
    const char* start = at_;
    at_ += size;
    return start;
  }
  const char* at_;
  const char* end_;
};

struct Kernel {
  std::vector<DLDataType> arguments;
  std::vector<int> extents;  // what the launch parameters are: 0..2 blockIdx, 3..5 threadIdx
  std::string source;
  Program program;
  cl_kernel handle = nullptr;
};

class OpenCLModule final : public ffi::ModuleObj {
 public:
  explicit OpenCLModule(const ffi::Bytes& bytes) : bytes_(bytes) {
    Reader reader(bytes.data(), bytes.size());
    if (std::string format = reader.Text(); format != "cl") {
      TVM_FFI_THROW(ValueError) << "OpenCL modules hold source ('cl'), and this one '" << format
                                << "'";
    }
    for (auto count = reader.Number<uint64_t>(); count--;) {
      std::string name = reader.Text();
      kernels_.emplace(name, ReadKernel(name, reader));
    }
    code_ = reader.Text();
    SplitCode();
  }
  ~OpenCLModule() {
    for (auto& [name, kernel] : kernels_) {
      if (kernel.handle) Device::Get().cl.clReleaseKernel(kernel.handle);
      if (kernel.program.handle) Device::Get().cl.clReleaseProgram(kernel.program.handle);
    }
  }

  const char* kind() const final { return "opencl"; }
  int GetPropertyMask() const final {
    return ffi::Module::kBinarySerializable | ffi::Module::kRunnable;
  }
  ffi::Bytes SaveToBytes() const final { return bytes_; }
  ffi::String InspectSource(const ffi::String&) const final { return code_; }
  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    auto found = kernels_.find(name);
    if (found == kernels_.end()) return std::nullopt;
    auto self = ffi::GetObjectPtr<ffi::Object>(this);  // a function outlives its module's handle
    return ffi::Function::FromPacked([this, self, found](ffi::PackedArgs arguments, ffi::Any*) {
      Launch(found->first, found->second, arguments);
    });
  }

 private:
  static Kernel ReadKernel(const std::string& name, Reader& reader) {
    Kernel kernel;
    reader.Text();  // the name again
    for (auto count = reader.Number<uint64_t>(); count--;) {
      DLDataType type;
      type.code = reader.Number<uint8_t>();
      type.bits = reader.Number<uint8_t>();
      type.lanes = reader.Number<uint16_t>();
      kernel.arguments.push_back(type);
    }
    for (auto count = reader.Number<uint64_t>(); count--;) {
      std::string tag = reader.Text();
      bool block = tag.rfind("blockIdx.", 0) == 0, thread = tag.rfind("threadIdx.", 0) == 0;
      if (!block && !thread) {
        TVM_FFI_THROW(ValueError) << name << " is launched with '" << tag
                                  << "', which this OpenCL runtime does not know";
      }
      kernel.extents.push_back((thread ? 3 : 0) + (tag.back() - 'x'));
    }
    for (auto count = reader.Number<uint64_t>(); count--;) reader.Number<int32_t>();
    return kernel;
  }

  // Give every kernel its own part of the code, behind "// Function: NAME".
  void SplitCode() {
    const std::string mark = "// Function: ";
    for (size_t at = code_.find(mark); at != std::string::npos;) {
      size_t start = code_.find('\n', at) + 1, next = code_.find(mark, start);
      std::string name = code_.substr(at + mark.size(), start - 1 - at - mark.size());
      if (auto found = kernels_.find(name); found != kernels_.end()) {
        found->second.source = WithoutDeclarations(code_.substr(start, next - start));
      }
      at = next;
    }
    for (auto& [name, kernel] : kernels_) {
      if (kernel.source.empty()) TVM_FFI_THROW(ValueError) << "the OpenCL module lacks " << name;
    }
  }

  // TVM declares all of a module's kernels before each. Without that a kernel's source, and so
  // its place in the cache, does not depend on the other kernels.
  static std::string WithoutDeclarations(const std::string& source) {
    std::string kept;
    for (size_t at = 0; at < source.size();) {
      size_t end = std::min(source.find('\n', at), source.size() - 1) + 1;
      std::string line = source.substr(at, end - at);
      bool declares = line.rfind("__kernel ", 0) == 0 && line.find(");") != std::string::npos &&
                      line.find('{') == std::string::npos;
      if (!declares) kept += line;
      at = end;
    }
    return kept;
  }

  void Launch(const std::string& name, Kernel& kernel, ffi::PackedArgs arguments) {
    Device& device = Device::Get();
    size_t expected = kernel.arguments.size() + kernel.extents.size();
    if (static_cast<size_t>(arguments.size()) != expected) {
      TVM_FFI_THROW(TypeError) << name << " takes " << expected << " arguments, got "
                               << arguments.size();
    }
    size_t extents[6] = {1, 1, 1, 1, 1, 1}, global[3];
    for (size_t i = 0; i < kernel.extents.size(); ++i) {
      extents[kernel.extents[i]] = arguments[kernel.arguments.size() + i].cast<int64_t>();
    }
    for (int i = 0; i < 3; ++i) global[i] = extents[i] * extents[i + 3];
    if (global[0] * global[1] * global[2] == 0) return;  // nothing to do, and an error in OpenCL

    std::lock_guard<std::mutex> lock(mutex_);  // a cl_kernel holds its arguments
    if (kernel.handle == nullptr) Build(device, name, kernel);
    for (size_t i = 0; i < kernel.arguments.size(); ++i) {
      SetArgument(device, name, kernel, static_cast<cl_uint>(i), arguments[i]);
    }
    cl_event event = nullptr;
    bool timed = profile.on();
    cl_int code = device.cl.clEnqueueNDRangeKernel(device.queue, kernel.handle, 3, nullptr, global,
                                                   extents + 3, 0, nullptr,
                                                   timed ? &event : nullptr);
    if (code != CL_SUCCESS) Check(code, LaunchText(name, global, extents + 3));
    ++counters.launches;
    if (timed) profile.Add(name, event);
    if (!kernel.program.unsaved.empty()) Save(device, kernel.program);
  }

  static std::string LaunchText(const std::string& name, const size_t* global,
                                const size_t* local) {
    std::ostringstream text;
    text << "launching " << name << " over " << global[0] << "x" << global[1] << "x" << global[2]
         << " work-items in work-groups of " << local[0] << "x" << local[1] << "x" << local[2];
    return text.str();
  }

  static void Build(Device& device, const std::string& name, Kernel& kernel) {
    if (kernel.program.handle == nullptr) {
      kernel.program = MakeProgram(device, name, kernel.source);
    }
    cl_int code;
    kernel.handle = device.cl.clCreateKernel(kernel.program.handle, name.c_str(), &code);
    if (code != CL_SUCCESS) kernel.handle = nullptr;
    Check(code, "taking the kernel " + name);
  }

  static void SetArgument(Device& device, const std::string& name, const Kernel& kernel,
                          cl_uint index, ffi::AnyView argument) {
    DLDataType type = kernel.arguments[index];
    auto set = [&](auto value) {
      Check(device.cl.clSetKernelArg(kernel.handle, index, sizeof value, &value),
            "setting argument " + std::to_string(index) + " of " + name);
    };
    if (type.code == kDLOpaqueHandle) return set(static_cast<cl_mem>(argument.cast<void*>()));
    if (type.code == kDLFloat && type.bits == 32) {
      return set(static_cast<float>(argument.cast<double>()));
    }
    if (type.code == kDLFloat && type.bits == 64) return set(argument.cast<double>());
    if (type.code == kDLInt || type.code == kDLUInt || type.code == kDLBool) {
      auto number = argument.cast<int64_t>();  // as many low bytes as the kernel's type has
      if (type.bits == 8) return set(static_cast<int8_t>(number));
      if (type.bits == 16) return set(static_cast<int16_t>(number));
      if (type.bits == 32) return set(static_cast<int32_t>(number));
      if (type.bits == 64) return set(number);
    }
    TVM_FFI_THROW(TypeError) << "argument " << index << " of " << name
                             << " is a scalar of a type that is not passed to OpenCL kernels";
  }

  ffi::Bytes bytes_;
  std::string code_;
  std::map<std::string, Kernel> kernels_;
  std::mutex mutex_;
};

}  // namespace mbv3c
