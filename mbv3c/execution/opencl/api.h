// What TVM calls to ask about the device, to allocate and to copy.
#pragma once

#include <tvm/ffi/string.h>
#include <tvm/runtime/device_api.h>

#include <algorithm>
#include <string>

#include "device.h"

namespace mbv3c {

// A data pointer of a tensor is a cl_mem.
class DeviceAPI final : public tvm::runtime::DeviceAPI {
 public:
  void SetDevice(tvm::Device dev) final { At(dev); }

  void GetAttr(tvm::Device dev, tvm::runtime::DeviceAttrKind kind, ffi::Any* value) final {
    using namespace tvm::runtime;
    if (kind == kExist) {
      *value = static_cast<int>(dev.device_id == 0 && Device::Exists());
      return;
    }
    Device& device = At(dev);
    switch (kind) {
      case kMaxThreadsPerBlock:
        *value = Int(device.Number<size_t>(CL_DEVICE_MAX_WORK_GROUP_SIZE));
        break;
      case kWarpSize: *value = Int(1); break;  // OpenCL 1.2 does not tell
      case kMaxSharedMemoryPerBlock:
        *value = Int(device.Number<cl_ulong>(CL_DEVICE_LOCAL_MEM_SIZE));
        break;
      case kMaxClockRate:  // in kHz
        *value = Int(device.Number<cl_uint>(CL_DEVICE_MAX_CLOCK_FREQUENCY)) * 1000;
        break;
      case kMultiProcessorCount:
        *value = Int(device.Number<cl_uint>(CL_DEVICE_MAX_COMPUTE_UNITS));
        break;
      case kTotalGlobalMemory:
        *value = Int(device.Number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE));
        break;
      case kMaxThreadDimensions: *value = ThreadDimensions(device); break;
      case kDeviceName: *value = ffi::String(device.name); break;
      case kComputeVersion: *value = ffi::String(device.version); break;
      case kDriverVersion: *value = ffi::String(device.driver); break;
      default: break;
    }
  }

  using tvm::runtime::DeviceAPI::AllocDataSpace;
  void* AllocDataSpace(tvm::Device dev, size_t bytes, size_t, DLDataType) final {
    Device& device = At(dev);
    cl_int code;
    // A buffer of no bytes is an error in OpenCL, and a tensor of no elements is none in TVM.
    cl_mem buffer = device.cl.clCreateBuffer(device.context, CL_MEM_READ_WRITE,
                                             std::max<size_t>(bytes, 1), nullptr, &code);
    Check(code, "allocating " + std::to_string(bytes) + " bytes on " + device.name);
    return buffer;
  }

  // OpenCL keeps a released buffer until the commands that use it are done.
  void FreeDataSpace(tvm::Device dev, void* data) final {
    Check(At(dev).cl.clReleaseMemObject(static_cast<cl_mem>(data)), "releasing a buffer");
  }

  void StreamSync(tvm::Device dev, TVMStreamHandle) final {
    Device& device = At(dev);
    Check(device.cl.clFinish(device.queue), "waiting for " + device.name);
  }

 protected:
  using tvm::runtime::DeviceAPI::CopyDataFromTo;
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset,
                      size_t bytes, tvm::Device dev_from, tvm::Device dev_to, DLDataType,
                      TVMStreamHandle) final {
    if (bytes == 0) return;
    bool reads = dev_from.device_type == kDLOpenCL, writes = dev_to.device_type == kDLOpenCL;
    Device& device = At(reads ? dev_from : dev_to);
    auto source = static_cast<cl_mem>(const_cast<void*>(from));
    auto target = static_cast<cl_mem>(to);
    std::string doing = "copying " + std::to_string(bytes) + " bytes";
    if (reads && writes) {
      At(dev_to);
      Check(device.cl.clEnqueueCopyBuffer(device.queue, source, target, from_offset, to_offset,
                                          bytes, 0, nullptr, nullptr),
            doing);
      counters.bytes_on_device += bytes;
    } else if (reads) {
      Check(device.cl.clEnqueueReadBuffer(device.queue, source, CL_TRUE, from_offset, bytes,
                                          static_cast<char*>(to) + to_offset, 0, nullptr, nullptr),
            doing);
      counters.bytes_to_host += bytes;
    } else {
      Check(device.cl.clEnqueueWriteBuffer(device.queue, target, CL_TRUE, to_offset, bytes,
                                           static_cast<const char*>(from) + from_offset, 0,
                                           nullptr, nullptr),
            doing);
      counters.bytes_to_device += bytes;
    }
  }

 private:
  static int64_t Int(uint64_t value) { return static_cast<int64_t>(value); }

  static Device& At(tvm::Device dev) {
    if (dev.device_id != 0) {
      TVM_FFI_THROW(ValueError) << "there is no device opencl:" << dev.device_id
                                << "; the chosen OpenCL device is opencl:0";
    }
    return Device::Get();
  }

  static ffi::String ThreadDimensions(const Device& device) {
    size_t sizes[16] = {};
    Check(device.cl.clGetDeviceInfo(device.id, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof sizes, sizes,
                                    nullptr),
          "clGetDeviceInfo");
    std::ostringstream text;
    text << "[" << sizes[0] << ", " << sizes[1] << ", " << sizes[2] << "]";
    return text.str();
  }
};

}  // namespace mbv3c
