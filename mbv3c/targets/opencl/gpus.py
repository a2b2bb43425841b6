"""The table of GPUs: limits that a launch must keep, and rates from which kernels are chosen.

Limits are those that drivers report (CL_DEVICE_MAX_WORK_GROUP_SIZE, CL_DEVICE_MAX_WORK_ITEM_SIZES,
CL_DEVICE_LOCAL_MEM_SIZE), the smallest of the GPUs that a row stands for. Rates are those of the
GPU named in it; they order choices by an estimate, and no figure made of them is a time.

Mali: "Arm Mali Bifrost and Valhall OpenCL Developer Guide" (101574): warps of 4, 8 or 16, local
memory is global memory, 32 registers at full and 64 at half the number of threads. A Mali-G71
reports work-groups of 384 and sides of 256, a Mali-G52 384 (issues 96boards-hikey/linux#59,
ARM-software/ComputeLibrary#999). "The Valhall Shader Core": 16-wide warps, 64-byte lines, of which
a load/store unit gives one in a clock. Mali-G78's VK_ARM_shader_core_properties: 32 warps of 16
and 32 fused multiply-adds per core and clock; the third generation of Valhall has twice as many.

Adreno: "Snapdragon OpenCL General Programming and Optimization" (80-NB295-11): waves of 64 or 128,
work-groups of up to 1024 that a kernel's registers may halve twice, 32 KiB of local memory on the
chip; how many registers there are is not published.

Apple: "Metal Feature Set Tables": from family 4 on 1024 threads in a threadgroup (512 before, and
with many registers), 32 KiB of threadgroup memory; SIMD groups of 32.
"""

from dataclasses import dataclass

from mbv3c.targets.opencl.gpu import Gpu

_KIB = 1024


@dataclass(frozen=True)
class GpuDevice:
    """A row of the table.

    Attributes:
        gpu: the GPU as kernels see it.
        tvm_device: TVM's name for this kind of GPU; empty if TVM has none.
        stands_for: the GPUs that the row is meant for, and the GPU whose rates it has.
    """

    gpu: Gpu
    tvm_device: str
    stands_for: str


# fmt: off
GPUS: dict[str, GpuDevice] = {
    "mali": GpuDevice(
        Gpu(
            group_items=256, group_sides=(256, 256, 256), local_bytes=0, registers=64,
            full_registers=32, warp=16, items_per_core=1024, cores=4, madds=64, line=64,
            memory=16.0, launch=8000, fp16=True,
        ),
        "mali", "Mali Valhall (G57 to G715); rates of the Mali-G610 MC4 in the RK3588",
    ),
    "mali-bifrost": GpuDevice(
        Gpu(
            group_items=256, group_sides=(256, 256, 256), local_bytes=0, registers=64,
            full_registers=32, warp=8, items_per_core=768, cores=2, madds=24, line=64,
            memory=10.0, launch=8000, fp16=True,
        ),
        "mali", "Mali Bifrost (G31 to G76); rates of the Mali-G52 MC2 in the RK3568",
    ),
    "adreno": GpuDevice(
        Gpu(
            group_items=256, group_sides=(256, 256, 64), local_bytes=32 * _KIB, registers=0,
            full_registers=0, warp=64, items_per_core=2048, cores=2, madds=192, line=64,
            memory=45.0, launch=8000, fp16=True,
        ),
        "adreno", "Adreno 6xx and 7xx; rates of the Adreno 640 in the Snapdragon 855",
    ),
    "metal": GpuDevice(
        Gpu(
            group_items=512, group_sides=(512, 512, 512), local_bytes=32 * _KIB, registers=0,
            full_registers=0, warp=32, items_per_core=1024, cores=4, madds=128, line=64,
            memory=30.0, launch=8000, fp16=True, language="metal",
        ),
        "", "Apple GPUs from family 4 on; rates of the A14, roughly",
    ),
    "generic_opencl": GpuDevice(
        Gpu(
            group_items=128, group_sides=(128, 128, 64), local_bytes=16 * _KIB, registers=0,
            full_registers=0, warp=32, items_per_core=1024, cores=4, madds=64, line=64,
            memory=16.0, launch=8000, fp16=True,
        ),
        "", "any GPU with OpenCL 1.2: what its embedded profile guarantees, or less",
    ),
}
# fmt: on
