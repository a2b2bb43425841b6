"""The table of targets with a GPU."""

from dataclasses import dataclass

from mbv3c.precision import FP16, FP32
from mbv3c.targets.library.target import NATIVE, LibraryTarget, library_table
from mbv3c.targets.wing import Option, Wing


@dataclass(frozen=True)
class GpuTarget(LibraryTarget):
    """A processor with a GPU, whose kernels it launches.

    Attributes:
        gpu: the row of `GPUS` with what kernels must know of the GPU.
    """

    gpu: str


_LINUX = "aarch64-linux-gnu"
_ANDROID = "aarch64-linux-android"
_APPLE = "arm64-apple-macos"

# fmt: off
GPU_TARGETS: tuple[GpuTarget, ...] = (
    GpuTarget("mobile_gpu", "mali", _LINUX, "generic", "aarch64", 1, "boards with an RK3588 or RK3576", "mali"),
    GpuTarget("mobile_gpu", "mali-android", _ANDROID, "generic", "aarch64", 1, "Pixel 6 to 9, Dimensity phones", "mali"),
    GpuTarget("mobile_gpu", "mali-bifrost", _LINUX, "generic", "aarch64", 1, "boards with an RK3566 or RK3568", "mali-bifrost"),
    GpuTarget("mobile_gpu", "mali-bifrost-android", _ANDROID, "generic", "aarch64", 1, "Helio G85", "mali-bifrost"),
    GpuTarget("mobile_gpu", "adreno", _LINUX, "generic", "aarch64", 1, "boards with a Snapdragon", "adreno"),
    GpuTarget("mobile_gpu", "adreno-android", _ANDROID, "generic", "aarch64", 1, "Snapdragon 855 and later", "adreno"),
    GpuTarget("mobile_gpu", "metal", _APPLE, "apple-a12", "arm64", 1, "iPhone XS and later, Macs with Apple's chips", "metal"),
    GpuTarget("mobile_gpu", "generic_opencl", NATIVE, NATIVE, NATIVE, 1, "an OpenCL device of this machine", "generic_opencl"),
)
# fmt: on

# Ways to a mobile GPU that users ask for, and why they are closed.
CLOSED = {
    "vulkan": "apache-tvm's wheel has no code generator for Vulkan; the same GPUs take OpenCL",
    "adreno-texture": "TVM's pipeline for Adreno's textures fails on depthwise convolutions "
    '("Divide by zero"), and what it makes of others is NCHW4c images that our kernels do not read; '
    "buffers work",
}

_METAL = "metal"  # the row of `GPUS`


def _verified_on(target: LibraryTarget) -> str:
    assert isinstance(target, GpuTarget)
    return "nothing (compiled)" if target.gpu == _METAL else "an OpenCL device"


WING = Wing(
    module="mbv3c.targets.opencl.backend",
    targets=GPU_TARGETS,
    defaults={"mobile_gpu": "mali"},
    precisions=(FP32, FP16),
    table=library_table(_verified_on),
    options=(Option("emit_source", bool, "For GPUs, write the kernels as text."),),
    refusals={
        "cores": "--cores is for CPUs; on {target} the GPU computes",
        "dense_weights": "--dense-weights is for CPUs; on {target} --precision fp16 stores all "
        "weights in half of the bytes",
    },
    closed=CLOSED,
    doctor_module="mbv3c.targets.opencl.doctor",
)
