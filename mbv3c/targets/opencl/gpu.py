"""What a kernel must know about a GPU, and what a launch costs there."""

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
