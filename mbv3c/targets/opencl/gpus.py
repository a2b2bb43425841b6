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
from math import ceil, prod

_OVERLAP = 0.1


@dataclass(frozen=True)
class Gpu:
    """The part of a GPU's description that limits a kernel, or decides how it is best written.

    Attributes:
        group_items: largest number of work-items of a work-group.
        group_sides: largest number of work-items of a work-group along each axis.
        local_bytes: local memory of a work-group; 0 if local memory is global memory.
        registers: 32-bit registers of a work-item; 0 if unknown.
        full_registers: number of registers up to which `items_per_core` work-items are under way;
            with more, half as many are. 0 if unknown.
        warp: work-items that a core executes in step.
        items_per_core: work-items that a core has under way, to hide the latency of memory.
        cores: number of shader cores.
        madds: fp32 multiply-adds that a core issues in a clock.
        line: bytes of a cache line; a core's level-1 cache gives a line in a clock.
        memory: bytes that memory gives all cores in a clock.
        launch: clocks that a launch takes beside its work.
        fp16: whether the GPU stores and loads half precision (cl_khr_fp16).
        language: language that the driver compiles, as TVM names it: opencl or metal.
    """

    group_items: int
    group_sides: tuple[int, int, int]
    local_bytes: int
    registers: int
    full_registers: int
    warp: int
    items_per_core: int
    cores: int
    madds: int
    line: int
    memory: float
    launch: int
    fp16: bool
    language: str = "opencl"

    def lines(self, neighbours: int, stride: int, width: int) -> int:
        """Return the cache lines that work-items ask for: `width` bytes each, `stride` apart."""
        apart = neighbours * -(-width // self.line)
        return min(apart, -(-((neighbours - 1) * stride + width) // self.line))

    def in_warp(self, across: int) -> tuple[int, int]:
        """Return the sides of a warp in a work-group of `across` work-items along x."""
        side = min(across, self.warp)
        return side, max(1, self.warp // side)

    def fits(self, group: tuple[int, ...]) -> bool:
        """Say whether the GPU launches a work-group of these sides."""
        sides = zip(group, self.group_sides, strict=False)
        return prod(group) <= self.group_items and all(side <= most for side, most in sides)

    def in_flight(self, registers: int) -> int:
        """Return how many work-items that hold `registers` registers are under way at once."""
        full = self.full_registers == 0 or registers <= self.full_registers
        return self.cores * (self.items_per_core if full else self.items_per_core // 2)


@dataclass(frozen=True)
class LaunchWork:
    """What a launch does.

    Attributes:
        items: work-items, including those that have nothing to do.
        madds: multiply-adds of a work-item.
        lines: cache lines that a warp asks for, counted once per load or store.
        touched: bytes of all tensors, each counted once.
        registers: 32-bit registers of a work-item.
    """

    items: int
    madds: int
    lines: float
    touched: int
    registers: int

    def occupancy(self, gpu: Gpu) -> float:
        """Return the share of the GPU's places for work-items that the launch takes, up to 1."""
        return min(1.0, self.items / gpu.in_flight(self.registers))

    def clocks(self, gpu: Gpu) -> float:
        """Estimate the time of the launch, in clocks: a roofline, not a measurement.

        The busiest of arithmetic, level-1 cache and memory decides; a tenth of the others' time is
        added, since nothing overlaps perfectly. Latency counts as hidden if a quarter of the
        places is taken; below that, arithmetic and caches idle in proportion. A warp takes its
        full time even if some of its work-items have nothing to do.
        """
        warps = ceil(self.items / gpu.warp)
        turns = ceil(warps / gpu.cores)  # of the busiest core
        hidden = min(1.0, 4 * self.occupancy(gpu))
        arithmetic = turns * gpu.warp * self.madds / gpu.madds / hidden
        parts = (arithmetic, turns * self.lines / hidden, self.touched / gpu.memory)
        return gpu.launch + max(parts) + _OVERLAP * (sum(parts) - max(parts))


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
