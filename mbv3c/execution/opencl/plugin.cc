// An OpenCL runtime for TVM's wheel, which is built without one: the device `opencl` and the
// loader of OpenCL modules. mbv3c/execution/opencl builds and loads it; docs/gpu-runtime.md.
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include "api.h"
#include "module.h"

namespace mbv3c {
namespace {

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) >= ' ') quoted += c;
  }
  return quoted + "\"";
}

ffi::String CountersJson() {
  std::ostringstream text;
  const char* separator = "{";
  auto put = [&](const char* name, int64_t value) {
    text << separator << '"' << name << "\": " << value;
    separator = ", ";
  };
  put("kernels_built", counters.kernels_built);
  put("kernels_loaded", counters.kernels_loaded);
  put("kernels_emulated", counters.kernels_emulated);
  put("launches", counters.launches);
  put("bytes_to_device", counters.bytes_to_device);
  put("bytes_to_host", counters.bytes_to_host);
  put("bytes_on_device", counters.bytes_on_device);
  put("cache_bytes_written", counters.cache_bytes_written);
  put("cache_entries_refused", counters.cache_entries_refused);
  text << "}";
  return text.str();
}

ffi::String DeviceJson() {
  Device& device = Device::Get();
  std::ostringstream text;
  text << "{\"platform\": " << Quoted(device.platform) << ", \"name\": " << Quoted(device.name)
       << ", \"version\": " << Quoted(device.version) << ", \"driver\": " << Quoted(device.driver)
       << ", \"is_gpu\": " << (device.is_gpu ? "true" : "false")
       << ", \"has_half\": " << (device.has_half ? "true" : "false") << "}";
  return text.str();
}

ffi::String ProfileJson() {
  std::ostringstream text;
  const char* separator = "";
  text << "[";
  for (auto& [kernel, times] : profile.Stop()) {
    text << separator << "{\"kernel\": " << Quoted(kernel) << ", \"launches\": " << times.first
         << ", \"nanoseconds\": " << times.second << "}";
    separator = ", ";
  }
  text << "]";
  return text.str();
}

ffi::String Configure(ffi::Map<ffi::String, ffi::String> given) {
  auto get = [&](const char* name) -> std::string { return given.Get(name).value_or(""); };
  return Device::Configure({get("libraries"), get("preload"), get("vendors"), get("path"),
                            get("wanted"), get("cache"), get("half"), get("remedy")});
}

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() {
  static DeviceAPI* api = new DeviceAPI();
  tvm::ffi::reflection::GlobalDef()
      .def("device_api.opencl",
           []() { return static_cast<void*>(static_cast<tvm::runtime::DeviceAPI*>(api)); })
      .def("ffi.Module.load_from_bytes.opencl",
           [](ffi::Bytes bytes) { return ffi::Module(ffi::make_object<OpenCLModule>(bytes)); })
      .def("mbv3c.opencl.configure", Configure)
      .def("mbv3c.opencl.device", DeviceJson)
      .def("mbv3c.opencl.counters", CountersJson)
      .def("mbv3c.opencl.profile_start", []() { profile.Start(); })
      .def("mbv3c.opencl.profile_stop", ProfileJson);
}

}  // namespace mbv3c

#ifdef _LIBCPP_VERSION
// zig brings libc++, and TVM's libraries stand on libstdc++. Exceptions must pass between them, so
// the plugin is linked with the process's libstdc++ for the C++ ABI (throw, catch, type_info).
// libc++ wants five functions that libstdc++ has not; without these the linker would take libc++'s
// whole ABI library in, and its `throw`. Only std::exception_ptr, unused here, calls the first four.
#define MBV3C_HIDDEN [[gnu::visibility("hidden")]]
extern "C" {
void* __cxa_get_globals();
MBV3C_HIDDEN void __cxa_increment_exception_refcount(void*) { std::abort(); }
MBV3C_HIDDEN void __cxa_decrement_exception_refcount(void*) { std::abort(); }
MBV3C_HIDDEN void* __cxa_current_primary_exception() { std::abort(); }
MBV3C_HIDDEN void __cxa_rethrow_primary_exception(void*) { std::abort(); }
MBV3C_HIDDEN unsigned __cxa_uncaught_exceptions() {
  struct Globals {  // of the Itanium C++ ABI
    void* caught;
    unsigned uncaught;
  };
  return static_cast<Globals*>(__cxa_get_globals())->uncaught;
}
}
#endif
