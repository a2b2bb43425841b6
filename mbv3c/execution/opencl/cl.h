// The part of OpenCL 1.2 that the plugin calls, so that it builds without OpenCL's headers, and
// loads on a machine without an OpenCL library. Values from the Khronos headers, which are fixed.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <string>

extern "C" {
typedef int32_t cl_int;
typedef uint32_t cl_uint;
typedef uint64_t cl_ulong;
typedef struct _cl_platform_id* cl_platform_id;
typedef struct _cl_device_id* cl_device_id;
typedef struct _cl_context* cl_context;
typedef struct _cl_command_queue* cl_command_queue;
typedef struct _cl_mem* cl_mem;
typedef struct _cl_program* cl_program;
typedef struct _cl_kernel* cl_kernel;
typedef struct _cl_event* cl_event;

constexpr cl_int CL_SUCCESS = 0;
constexpr cl_uint CL_FALSE = 0;
constexpr cl_uint CL_TRUE = 1;
constexpr cl_uint CL_PLATFORM_NAME = 0x0902;
constexpr cl_ulong CL_DEVICE_TYPE_GPU = 1 << 2;
constexpr cl_ulong CL_DEVICE_TYPE_ALL = 0xFFFFFFFF;
constexpr cl_uint CL_DEVICE_TYPE = 0x1000;
constexpr cl_uint CL_DEVICE_MAX_COMPUTE_UNITS = 0x1002;
constexpr cl_uint CL_DEVICE_MAX_WORK_GROUP_SIZE = 0x1004;
constexpr cl_uint CL_DEVICE_MAX_WORK_ITEM_SIZES = 0x1005;
constexpr cl_uint CL_DEVICE_MAX_CLOCK_FREQUENCY = 0x100C;
constexpr cl_uint CL_DEVICE_GLOBAL_MEM_SIZE = 0x101F;
constexpr cl_uint CL_DEVICE_LOCAL_MEM_SIZE = 0x1023;
constexpr cl_uint CL_DEVICE_NAME = 0x102B;
constexpr cl_uint CL_DRIVER_VERSION = 0x102D;
constexpr cl_uint CL_DEVICE_VERSION = 0x102F;
constexpr cl_uint CL_DEVICE_EXTENSIONS = 0x1030;
constexpr cl_ulong CL_QUEUE_PROFILING_ENABLE = 1 << 1;
constexpr cl_ulong CL_MEM_READ_WRITE = 1 << 0;
constexpr cl_uint CL_PROGRAM_BINARY_SIZES = 0x1165;
constexpr cl_uint CL_PROGRAM_BINARIES = 0x1166;
constexpr cl_uint CL_PROGRAM_BUILD_LOG = 0x1183;
constexpr cl_uint CL_PROFILING_COMMAND_START = 0x1282;
constexpr cl_uint CL_PROFILING_COMMAND_END = 0x1283;
}

namespace mbv3c {

#define MBV3C_CL_FUNCTIONS(F)                                                                     \
  F(clGetPlatformIDs, cl_int, cl_uint, cl_platform_id*, cl_uint*)                                 \
  F(clGetPlatformInfo, cl_int, cl_platform_id, cl_uint, size_t, void*, size_t*)                   \
  F(clGetDeviceIDs, cl_int, cl_platform_id, cl_ulong, cl_uint, cl_device_id*, cl_uint*)           \
  F(clGetDeviceInfo, cl_int, cl_device_id, cl_uint, size_t, void*, size_t*)                       \
  F(clCreateContext, cl_context, const intptr_t*, cl_uint, const cl_device_id*, void*, void*,     \
    cl_int*)                                                                                      \
  F(clCreateCommandQueue, cl_command_queue, cl_context, cl_device_id, cl_ulong, cl_int*)          \
  F(clCreateBuffer, cl_mem, cl_context, cl_ulong, size_t, void*, cl_int*)                         \
  F(clReleaseMemObject, cl_int, cl_mem)                                                           \
  F(clEnqueueReadBuffer, cl_int, cl_command_queue, cl_mem, cl_uint, size_t, size_t, void*,        \
    cl_uint, const cl_event*, cl_event*)                                                          \
  F(clEnqueueWriteBuffer, cl_int, cl_command_queue, cl_mem, cl_uint, size_t, size_t, const void*, \
    cl_uint, const cl_event*, cl_event*)                                                          \
  F(clEnqueueCopyBuffer, cl_int, cl_command_queue, cl_mem, cl_mem, size_t, size_t, size_t,        \
    cl_uint, const cl_event*, cl_event*)                                                          \
  F(clCreateProgramWithSource, cl_program, cl_context, cl_uint, const char**, const size_t*,      \
    cl_int*)                                                                                      \
  F(clCreateProgramWithBinary, cl_program, cl_context, cl_uint, const cl_device_id*,              \
    const size_t*, const unsigned char**, cl_int*, cl_int*)                                       \
  F(clBuildProgram, cl_int, cl_program, cl_uint, const cl_device_id*, const char*, void*, void*)  \
  F(clGetProgramInfo, cl_int, cl_program, cl_uint, size_t, void*, size_t*)                        \
  F(clGetProgramBuildInfo, cl_int, cl_program, cl_device_id, cl_uint, size_t, void*, size_t*)     \
  F(clReleaseProgram, cl_int, cl_program)                                                         \
  F(clCreateKernel, cl_kernel, cl_program, const char*, cl_int*)                                  \
  F(clReleaseKernel, cl_int, cl_kernel)                                                           \
  F(clSetKernelArg, cl_int, cl_kernel, cl_uint, size_t, const void*)                              \
  F(clEnqueueNDRangeKernel, cl_int, cl_command_queue, cl_kernel, cl_uint, const size_t*,          \
    const size_t*, const size_t*, cl_uint, const cl_event*, cl_event*)                            \
  F(clGetEventProfilingInfo, cl_int, cl_event, cl_uint, size_t, void*, size_t*)                   \
  F(clReleaseEvent, cl_int, cl_event)                                                             \
  F(clFlush, cl_int, cl_command_queue)                                                            \
  F(clFinish, cl_int, cl_command_queue)

// OpenCL's functions, as an ICD loader gives them.
struct CL {
#define MBV3C_CL_MEMBER(name, result, ...) result (*name)(__VA_ARGS__) = nullptr;
  MBV3C_CL_FUNCTIONS(MBV3C_CL_MEMBER)
#undef MBV3C_CL_MEMBER

  // Open the loader; return what is wrong, or nothing. It is never closed: a driver's threads may
  // still run when the process ends.
  std::string Open(const std::string& library) {
    void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return dlerror();
#define MBV3C_CL_LOAD(name, result, ...)                                 \
  name = reinterpret_cast<result (*)(__VA_ARGS__)>(dlsym(handle, #name)); \
  if (name == nullptr) return library + " has no function " #name;
    MBV3C_CL_FUNCTIONS(MBV3C_CL_LOAD)
#undef MBV3C_CL_LOAD
    return "";
  }
};

}  // namespace mbv3c
