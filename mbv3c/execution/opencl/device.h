// The chosen OpenCL device, its context and its one in-order queue.
#pragma once

#include <tvm/ffi/error.h>

#include <atomic>
#include <cctype>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "cl.h"

namespace mbv3c {
namespace ffi = tvm::ffi;

// What the device is opened with. Lists have one entry a line.
struct Settings {
  // ICD loaders, or drivers; the first one that there is is taken.
  std::string libraries = "libOpenCL.so.1\nlibOpenCL.so";
  std::string preload;    // libraries that a driver needs and would not find itself
  std::string vendors;    // the folder of the ICDs, or empty for the loader's own
  std::string path;       // a folder of programs that a driver needs, or empty
  std::string wanted;     // part of "PLATFORM: DEVICE", or empty
  std::string cache;      // the folder of compiled programs, or empty
  std::string half;       // OpenCL C that stands for cl_khr_fp16 where a device lacks it
  std::string remedy;     // what a user without a device is told to do
};

inline std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

struct Counters {
  std::atomic<int64_t> kernels_built{0}, kernels_loaded{0}, kernels_emulated{0}, launches{0},
      bytes_to_device{0}, bytes_to_host{0}, bytes_on_device{0}, cache_bytes_written{0},
      cache_entries_refused{0};
};

inline Counters counters;

inline const char* ErrorName(cl_int code) {
  switch (code) {
    case -4: return "out of device memory";
    case -5: return "out of resources";
    case -6: return "out of host memory";
    case -11: return "the program does not compile";
    case -38: return "not a memory object of this device";
    case -46: return "no such kernel";
    case -52: return "an argument of the kernel is not set";
    case -54: return "the work-group is larger than the device allows";
    case -55: return "an extent of the work-group is larger than the device allows";
    case -61: return "the buffer is larger than the device allows";
    default: return "see the codes in the OpenCL specification";
  }
}

inline void Check(cl_int code, const std::string& doing) {
  if (code == CL_SUCCESS) return;
  TVM_FFI_THROW(RuntimeError) << "OpenCL: " << doing << " failed with code " << code << " ("
                              << ErrorName(code) << ")";
}

inline bool HasWord(const std::string& text, const std::string& word) {
  auto is_part = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    size_t end = at + word.size();
    bool starts = at == 0 || !is_part(text[at - 1]);
    if (starts && (end == text.size() || !is_part(text[end]))) return true;
  }
  return false;
}

class Device {
 public:
  CL cl;
  cl_device_id id = nullptr;
  cl_context context = nullptr;
  cl_command_queue queue = nullptr;
  std::string platform, name, version, driver;
  bool is_gpu = false;
  bool has_half = false;

  // Return the device, or throw what keeps it from being opened.
  static Device& Get() {
    Device& device = Opened();
    if (device.id == nullptr) TVM_FFI_THROW(RuntimeError) << device.trouble_;
    return device;
  }
  static bool Exists() { return Opened().id != nullptr; }

  // Set what the device is opened with, unless it is open; return what is then wanted.
  static std::string Configure(Settings settings) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!tried_) settings_ = std::move(settings);
    return settings_.wanted;
  }
  static const Settings& settings() { return settings_; }

  template <typename T>
  T Number(cl_uint what) const {
    T value{};
    Check(cl.clGetDeviceInfo(id, what, sizeof(T), &value, nullptr), "clGetDeviceInfo");
    return value;
  }

 private:
  static Device& Opened() {
    std::lock_guard<std::mutex> lock(mutex_);
    static Device* device = new Device();  // kept: drivers take themselves down in any order
    if (!tried_) {
      tried_ = true;
      device->Open();
    }
    return *device;
  }

  void Open() {
    for (const std::string& library : Lines(settings_.preload)) {
      std::string name = library.substr(library.rfind('/') + 1);
      if (dlopen(name.c_str(), RTLD_NOW | RTLD_NOLOAD)) continue;  // the process has it already
      dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);  // what is missing, the driver will name
    }
    if (!settings_.vendors.empty()) setenv("OCL_ICD_VENDORS", settings_.vendors.c_str(), 1);
    if (!settings_.path.empty()) {
      const char* path = getenv("PATH");
      setenv("PATH", (settings_.path + ":" + (path ? path : "")).c_str(), 1);
    }
    std::string wrong = "no OpenCL library";
    for (const std::string& library : Lines(settings_.libraries)) {
      wrong = cl.Open(library);
      if (wrong.empty()) break;
    }
    if (!wrong.empty()) {
      trouble_ = "OpenCL: " + wrong + "; " + settings_.remedy;
      return;
    }
    cl_device_id found = Choose();
    if (found == nullptr) return;
    cl_int code;
    context = cl.clCreateContext(nullptr, 1, &found, nullptr, nullptr, &code);
    if (code == CL_SUCCESS) {
      queue = cl.clCreateCommandQueue(context, found, CL_QUEUE_PROFILING_ENABLE, &code);
    }
    if (code != CL_SUCCESS) {
      trouble_ = "OpenCL: " + name + " cannot be opened: code " + std::to_string(code);
      return;
    }
    id = found;
  }

  // The first device that the settings name; with no wish the first GPU, or else the first device.
  cl_device_id Choose() {
    cl_uint count = 0;
    if (cl.clGetPlatformIDs(0, nullptr, &count) != CL_SUCCESS) count = 0;
    std::vector<cl_platform_id> platforms(count);
    if (count) cl.clGetPlatformIDs(count, platforms.data(), nullptr);
    std::string known;
    cl_device_id best = nullptr;
    for (cl_platform_id one : platforms) {
      std::string title = PlatformName(one);
      for (cl_device_id candidate : DevicesOf(one)) {
        std::string label = title + ": " + Text(candidate, CL_DEVICE_NAME);
        known += (known.empty() ? "'" : ", '") + label + "'";
        cl_ulong type = 0;
        cl.clGetDeviceInfo(candidate, CL_DEVICE_TYPE, sizeof type, &type, nullptr);
        bool gpu = type & CL_DEVICE_TYPE_GPU;
        bool fits = settings_.wanted.empty() || Lower(label).find(Lower(settings_.wanted)) !=
                                                    std::string::npos;
        bool better = settings_.wanted.empty() && gpu && !is_gpu;
        if (!fits || (best != nullptr && !better)) continue;
        best = candidate;
        is_gpu = gpu;
        Describe(candidate, title);
      }
    }
    if (known.empty()) {
      trouble_ = "OpenCL has no device here; " + settings_.remedy;
    } else if (best == nullptr) {
      trouble_ = "no OpenCL device has '" + settings_.wanted + "' in its name; known: " + known;
    }
    return best;
  }

  void Describe(cl_device_id one, const std::string& title) {
    platform = title;
    name = Text(one, CL_DEVICE_NAME);
    version = Text(one, CL_DEVICE_VERSION);
    driver = Text(one, CL_DRIVER_VERSION);
    has_half = HasWord(Text(one, CL_DEVICE_EXTENSIONS), "cl_khr_fp16");
  }

  std::vector<cl_device_id> DevicesOf(cl_platform_id one) const {
    cl_uint count = 0;
    if (cl.clGetDeviceIDs(one, CL_DEVICE_TYPE_ALL, 0, nullptr, &count) != CL_SUCCESS) return {};
    std::vector<cl_device_id> devices(count);
    cl.clGetDeviceIDs(one, CL_DEVICE_TYPE_ALL, count, devices.data(), nullptr);
    return devices;
  }

  std::string PlatformName(cl_platform_id one) const {
    size_t size = 0;
    cl.clGetPlatformInfo(one, CL_PLATFORM_NAME, 0, nullptr, &size);
    std::string text(size, '\0');
    cl.clGetPlatformInfo(one, CL_PLATFORM_NAME, size, text.data(), nullptr);
    return text.c_str();
  }

  std::string Text(cl_device_id one, cl_uint what) const {
    size_t size = 0;
    cl.clGetDeviceInfo(one, what, 0, nullptr, &size);
    std::string text(size, '\0');
    cl.clGetDeviceInfo(one, what, size, text.data(), nullptr);
    return text.c_str();
  }

  static std::string Lower(std::string text) {
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
  }

  std::string trouble_;
  static inline std::mutex mutex_;
  static inline bool tried_ = false;
  static inline Settings settings_;
};

}  // namespace mbv3c
