// Compile OpenCL C, keeping what the driver made of it on disk.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>

#include "device.h"

namespace mbv3c {

// A file of the cache is this magic, then key and program, each behind its length, then a check
// sum of the program. The key is stored whole: a file's name, a hash, need not be unique.
constexpr char kMagic[] = "mbv3c OpenCL program 1\n";

inline uint64_t Fnv1a(const std::string& text) {
  uint64_t hash = 14695981039346656037ull;
  for (unsigned char c : text) hash = (hash ^ c) * 1099511628211ull;
  return hash;
}

inline std::filesystem::path CacheFile(const std::string& key) {
  char name[32];
  std::snprintf(name, sizeof name, "%016llx.clbin", static_cast<unsigned long long>(Fnv1a(key)));
  return std::filesystem::path(Device::settings().cache) / name;
}

inline std::string Framed(const std::string& text) {
  uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text;
}

// What the driver made of the program with this key; nothing when it is not there, or not whole.
inline std::optional<std::string> ReadCache(const std::string& key) {
  std::ifstream file(CacheFile(key), std::ios::binary);
  if (!file) return std::nullopt;
  std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::string head = kMagic + Framed(key);
  uint64_t size = 0, sum = 0;
  if (all.size() >= head.size() + sizeof size + sizeof sum && all.compare(0, head.size(), head) == 0) {
    all.copy(reinterpret_cast<char*>(&size), sizeof size, head.size());
    size_t start = head.size() + sizeof size;
    if (all.size() - start - sizeof sum == size) {
      std::string program = all.substr(start, size);
      all.copy(reinterpret_cast<char*>(&sum), sizeof sum, start + size);
      if (sum == Fnv1a(program)) return program;
    }
  }
  ++counters.cache_entries_refused;
  return std::nullopt;
}

// A cache that cannot be written costs time, no more: failures here are no errors.
inline void WriteCache(const std::string& key, const std::string& program) {
  std::error_code failed;
  std::filesystem::create_directories(Device::settings().cache, failed);
  std::filesystem::path path = CacheFile(key);
  std::string partial = path.string() + ".XXXXXX";
  int descriptor = mkstemp(partial.data());
  if (descriptor < 0) return;
  close(descriptor);
  uint64_t sum = Fnv1a(program);
  std::string all = kMagic + Framed(key) + Framed(program) +
                    std::string(reinterpret_cast<const char*>(&sum), sizeof sum);
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file.write(all.data(), static_cast<std::streamsize>(all.size()));
  file.close();
  if (file) std::filesystem::rename(partial, path, failed);
  if (!file || failed) {
    std::filesystem::remove(partial, failed);
    return;
  }
  counters.cache_bytes_written += static_cast<int64_t>(all.size());
}

inline std::string BinaryOf(Device& device, cl_program program) {
  size_t size = 0;
  cl_int code = device.cl.clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size,
                                           nullptr);
  if (code != CL_SUCCESS || size == 0) return "";
  std::string binary(size, '\0');
  char* start = binary.data();
  code = device.cl.clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof start, &start, nullptr);
  return code == CL_SUCCESS ? binary : "";
}

inline cl_program FromBinary(Device& device, const std::string& binary, const char* options) {
  auto bytes = reinterpret_cast<const unsigned char*>(binary.data());
  size_t size = binary.size();
  cl_int code, status = CL_SUCCESS;
  cl_program program = device.cl.clCreateProgramWithBinary(device.context, 1, &device.id, &size,
                                                           &bytes, &status, &code);
  if (code != CL_SUCCESS) return nullptr;
  code = device.cl.clBuildProgram(program, 1, &device.id, options, nullptr, nullptr);
  if (status == CL_SUCCESS && code == CL_SUCCESS) return program;
  device.cl.clReleaseProgram(program);
  return nullptr;
}

inline std::string BuildLog(Device& device, cl_program program) {
  size_t size = 0;
  device.cl.clGetProgramBuildInfo(program, device.id, CL_PROGRAM_BUILD_LOG, 0, nullptr, &size);
  std::string log(size, '\0');
  device.cl.clGetProgramBuildInfo(program, device.id, CL_PROGRAM_BUILD_LOG, size, log.data(),
                                  nullptr);
  return log.c_str();
}

inline cl_program FromSource(Device& device, const std::string& source, const char* options,
                             const std::string& name) {
  const char* text = source.c_str();
  cl_int code;
  cl_program program =
      device.cl.clCreateProgramWithSource(device.context, 1, &text, nullptr, &code);
  Check(code, "reading the source of " + name);
  code = device.cl.clBuildProgram(program, 1, &device.id, options, nullptr, nullptr);
  if (code == CL_SUCCESS) return program;
  std::string log = BuildLog(device, program);
  device.cl.clReleaseProgram(program);
  TVM_FFI_THROW(RuntimeError) << "OpenCL: the kernel " << name << " does not compile for "
                              << device.name << ":\n"
                              << log;
}

// A program, and under which key the cache is to have it: empty when it came from there.
struct Program {
  cl_program handle = nullptr;
  std::string unsaved;
};

// Return the program that holds one kernel, from the cache or compiled.
// Half arithmetic is emulated where the device has none of its own, and only there.
inline Program MakeProgram(Device& device, const std::string& name, std::string source) {
  constexpr const char* options = "";
  bool half = HasWord(source, "cl_khr_fp16") || HasWord(source, "half");
  bool emulated = half && !device.has_half;
  if (emulated) source = Device::settings().half + source;
  std::string key;
  for (const std::string& part : {device.platform, device.name, device.version, device.driver,
                                  std::string(options), source}) {
    key += Framed(part);
  }
  if (Device::settings().cache.empty()) key.clear();
  cl_program program = nullptr;
  if (std::optional<std::string> binary = key.empty() ? std::nullopt : ReadCache(key)) {
    program = FromBinary(device, *binary, options);
    ++(program ? counters.kernels_loaded : counters.cache_entries_refused);
  }
  bool loaded = program != nullptr;
  if (!loaded) {
    program = FromSource(device, source, options, name);
    ++counters.kernels_built;
  }
  if (emulated) ++counters.kernels_emulated;
  return {program, loaded ? "" : key};
}

// Put a compiled program into the cache. Call it when its kernel has run once: PoCL compiles a
// kernel for a work-group's size when it is launched, and its binary has what was compiled so far.
inline void Save(Device& device, Program& program) {
  Check(device.cl.clFinish(device.queue), "waiting for " + device.name);
  std::string binary = BinaryOf(device, program.handle);
  if (!binary.empty()) WriteCache(program.unsaved, binary);
  program.unsaved.clear();
}

}  // namespace mbv3c
