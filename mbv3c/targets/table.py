"""The table of targets.

A target is data. What a device can do is read from these fields; nothing compares device names.
Core names and their features are LLVM's (`llc -march=aarch64 -mcpu=help`); the number of cores is
that of the board named beside it.
"""

from dataclasses import replace

from mbv3c import bundle as bundles
from mbv3c.errors import UsageError
from mbv3c.job import NATIVE, Target

_LINUX = "aarch64-linux-gnu"
_ANDROID = "aarch64-linux-android"
_APPLE = "arm64-apple-macos"
_X86 = "x86_64-linux-gnu"

# QEMU 7.2, which Debian 12 has, knows no Cortex-A55; a Cortex-A76 has all of its instructions.
# fmt: off
TARGETS: tuple[Target, ...] = (
    Target("arm_cpu", "cortex-a76", "cpu", _LINUX, "cortex-a76", "aarch64", 4, "Raspberry Pi 5", "cortex-a76"),
    Target("arm_cpu", "cortex-a72", "cpu", _LINUX, "cortex-a72", "aarch64", 4, "Raspberry Pi 4", "cortex-a72"),
    Target("arm_cpu", "cortex-a55", "cpu", _LINUX, "cortex-a55", "aarch64", 4, "Rockchip RK3566", "cortex-a76"),
    Target("arm_cpu", "cortex-a53", "cpu", _LINUX, "cortex-a53", "aarch64", 4, "Raspberry Pi 3", "cortex-a53"),
    Target("arm_cpu", "neoverse-n1", "cpu", _LINUX, "neoverse-n1", "aarch64", 4, "Ampere Altra", "neoverse-n1"),
    Target("arm_cpu", "cortex-a76-android", "cpu", _ANDROID, "cortex-a76", "aarch64", 4, "Snapdragon 855", "cortex-a76"),
    Target("arm_cpu", "cortex-a72-android", "cpu", _ANDROID, "cortex-a72", "aarch64", 4, "Snapdragon 650", "cortex-a72"),
    Target("arm_cpu", "cortex-a55-android", "cpu", _ANDROID, "cortex-a55", "aarch64", 4, "Snapdragon 845", "cortex-a76"),
    Target("arm_cpu", "cortex-a53-android", "cpu", _ANDROID, "cortex-a53", "aarch64", 4, "Snapdragon 450", "cortex-a53"),
    Target("arm_cpu", "neoverse-n1-android", "cpu", _ANDROID, "neoverse-n1", "aarch64", 4, "Android in the cloud", "neoverse-n1"),
    Target("mobile_gpu", "mali", "opencl", _LINUX, "generic", "aarch64", 1, "boards with an RK3588 or RK3576", gpu="mali"),
    Target("mobile_gpu", "mali-android", "opencl", _ANDROID, "generic", "aarch64", 1, "Pixel 6 to 9, Dimensity phones", gpu="mali"),
    Target("mobile_gpu", "mali-bifrost", "opencl", _LINUX, "generic", "aarch64", 1, "boards with an RK3566 or RK3568", gpu="mali-bifrost"),
    Target("mobile_gpu", "mali-bifrost-android", "opencl", _ANDROID, "generic", "aarch64", 1, "Helio G85", gpu="mali-bifrost"),
    Target("mobile_gpu", "adreno", "opencl", _LINUX, "generic", "aarch64", 1, "boards with a Snapdragon", gpu="adreno"),
    Target("mobile_gpu", "adreno-android", "opencl", _ANDROID, "generic", "aarch64", 1, "Snapdragon 855 and later", gpu="adreno"),
    Target("mobile_gpu", "metal", "opencl", _APPLE, "apple-a12", "arm64", 1, "iPhone XS and later, Macs with Apple's chips", gpu="metal"),
    Target("mobile_gpu", "generic_opencl", "opencl", NATIVE, NATIVE, NATIVE, 1, "an OpenCL device of this machine", gpu="generic_opencl"),
    Target("host_cpu", NATIVE, "cpu", NATIVE, NATIVE, NATIVE, 1, "the machine that compiles"),
    Target("host_cpu", "avx2", "cpu", _X86, "x86-64-v3", "x86_64", 1, "PCs and servers since Haswell and Zen", isa="AVX2"),
    Target("host_cpu", "avx512", "cpu", _X86, "x86-64-v4", "x86_64", 1, "servers since Skylake, Zen 4", isa="AVX-512"),
)
# fmt: on


DEFAULT_DEVICES = {"arm_cpu": "cortex-a76", "mobile_gpu": "mali", "host_cpu": NATIVE}

# The devices of npu are described by other fields, in npu_table.py.
FAMILIES = (*DEFAULT_DEVICES, "npu")

# Ways to a mobile GPU that users ask for, and why they are closed.
CLOSED = {
    "vulkan": "apache-tvm's wheel has no code generator for Vulkan; the same GPUs take OpenCL",
    "adreno-texture": "TVM's pipeline for Adreno's textures fails on depthwise convolutions "
    '("Divide by zero"), and what it makes of others is NCHW4c images that our kernels do not read; '
    "buffers work",
}


def find_target(name: str) -> Target:
    """Look `FAMILY[:DEVICE]` up.

    Raises:
        UsageError: there is no such family or device; the known ones are listed.
    """
    family, _, device = name.partition(":")
    if family not in DEFAULT_DEVICES:
        if family in FAMILIES:
            raise UsageError(f"nothing here runs {name}: no host is an NPU; `mbv3c verify` checks")
        raise UsageError(f"unknown target {family!r}; known: {', '.join(FAMILIES)}")
    devices = {target.device: target for target in TARGETS if target.family == family}
    wanted = device or DEFAULT_DEVICES[family]
    if wanted in CLOSED and family == "mobile_gpu":
        raise UsageError(f"there is no {name}: {CLOSED[wanted]}; known: {', '.join(devices)}")
    if wanted not in devices:
        raise UsageError(f"unknown device {wanted!r} of {family}; known: {', '.join(devices)}")
    return devices[wanted]


def target_of(bundle: bundles.Bundle) -> Target:
    """Return the target that a bundle was compiled for, with as many cores."""
    recorded = bundle.manifest["target"]
    return replace(find_target(recorded["name"]), cores=recorded["cores"])
