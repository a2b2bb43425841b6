"""Kernels under the roofs of their device: how much they compute for each byte, and how fast.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
multicore architectures", Commun. ACM 52 (2009), 65-76. Bytes are those of all tensors that a call
reads or writes, each counted once: what caches must at least be given. So a roof of memory may be
passed by kernels whose tensors stay in a cache, and that of the level-1 cache may not.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

from mbv3c.figures import inline_panels, label_text
from mbv3c.lowering.describe import KernelRecord
from mbv3c.report.documents import Bench, BenchKernel
from mbv3c.target import Limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES, _NAMED = 4.2, 6
_DOT, _ROOF, _SLOPES = "#1f77b4", "#c2410c", ("#8a5fb4", "#2b8a63")
_LEAST_AREA, _AREA = 12.0, 600.0  # of a dot, in square points
_ROOM = 2.5  # around the dots, as a factor
_WIDE, _HIGH = 0.3, 0.045  # of a name, as shares of the picture


@dataclass(frozen=True)
class Row:
    """A line of a profile.

    Attributes:
        kernel: what was measured.
        bytes: bytes that it reads and writes in an inference; 0 if that is not known.
        rate: multiply-adds in the unit of the profile; None where it has none.
    """

    kernel: BenchKernel
    bytes: int
    rate: float | None

    @property
    def intensity(self) -> float | None:
        """Multiply-adds for each byte; None where there are none, or no bytes are known."""
        return self.kernel.madds / self.bytes if self.bytes and self.kernel.madds else None


@dataclass(frozen=True)
class Roofs:
    """The limits of a device in the unit of a profile.

    Attributes:
        peak: the most multiply-adds.
        slopes: bytes by what gives them: a name, and how many.
    """

    peak: float
    slopes: tuple[tuple[str, float], ...]

    def over(self, intensity: float) -> float:
        """Return what a kernel can reach whose tensors are all in the nearest cache."""
        nearest = max((given for _, given in self.slopes), default=float("inf"))
        return min(self.peak, nearest * intensity)


@dataclass(frozen=True)
class Profile:
    """A profile whose kernels have a rate.

    Attributes:
        unit: unit of the rates, in words.
        rows: the lines, in the order of the network.
        roofs: the limits; None where they are not known.
        no_roofs: why not.
    """

    unit: str
    rows: Sequence[Row]
    roofs: Roofs | None
    no_roofs: str = ""


def profile_of(bench: Bench, kernels: Sequence[KernelRecord], limits: Limits | None) -> Profile:
    """Return the profile of a measurement, with the bytes that the bundle's plan has.

    Args:
        bench: a measurement with kernels.
        kernels: the calls of the bundle.
        limits: what a core of the target can do; None if that is not known.
    """
    measured = bench.kernels or ()
    sizes = _sizes(measured, kernels)
    if any(kernel.us for kernel in measured):
        rates = [kernel.madds / kernel.us / 1e3 if kernel.us else None for kernel in measured]
        roofs, why = _of_time(limits, bench.threads)
        unit = "billion multiply-adds a second"
    elif any(kernel.estimated_cycles for kernel in measured):
        rates = [_over(kernel.madds, kernel.estimated_cycles) for kernel in measured]
        roofs, why = _of_cycles(limits)
        unit = "multiply-adds a cycle"
    else:
        rates = [_over(kernel.madds, kernel.instructions) for kernel in measured]
        roofs, why = _of_instructions(limits)
        unit = "multiply-adds an instruction"
    rows = [Row(*each) for each in zip(measured, sizes, rates, strict=True)]
    return Profile(unit, rows, roofs, why)


def _over(madds: int, of: float | None) -> float | None:
    return madds / of if of else None


def _sizes(measured: Sequence[BenchKernel], kernels: Sequence[KernelRecord]) -> list[int]:
    """Return the bytes of each line: of its call, or of all calls of its kernel."""
    if [one.kernel for one in measured] == [one.kernel for one in kernels]:
        return [one.bytes for one in kernels]
    sums: defaultdict[str, int] = defaultdict(int)
    for one in kernels:
        sums[one.kernel] += one.bytes
    return [sums[one.kernel] for one in measured]


_UNKNOWN = "the limits of this processor are not in mbv3c's tables"
_Found = tuple[Roofs | None, str]


def _of_time(limits: Limits | None, threads: int) -> _Found:
    if limits is None:
        return None, _UNKNOWN
    if not limits.clock_mhz:
        return None, "the clock and the memory of this board are not in mbv3c's tables"
    per_second = limits.clock_mhz * threads / 1e3
    slopes = [("level-1 caches", limits.l1_per_cycle * per_second)] if limits.l1_per_cycle else []
    slopes += [(f"memory of {limits.board}", limits.memory_gb)] if limits.memory_gb else []
    return Roofs(limits.madds_per_cycle * per_second, tuple(slopes)), ""


def _of_cycles(limits: Limits | None) -> _Found:
    if limits is None:
        return None, _UNKNOWN
    slopes = [("level-1 cache", limits.l1_per_cycle)] if limits.l1_per_cycle else []
    if limits.memory_gb and limits.clock_mhz:
        given = limits.memory_gb * 1e3 / limits.clock_mhz
        slopes.append((f"memory of {limits.board}", given))
    return Roofs(limits.madds_per_cycle, tuple(slopes)), ""


def _of_instructions(limits: Limits | None) -> _Found:
    if limits is None or not limits.madds_per_instruction:
        return None, _UNKNOWN
    slopes = [("loads", limits.bytes_per_instruction)] if limits.bytes_per_instruction else []
    return Roofs(limits.madds_per_instruction, tuple(slopes)), ""


def roofline_picture(profile: Profile, alt: str) -> str | None:
    """Return the picture as an SVG element; None where no kernel has both a rate and bytes."""
    dots = [
        (row.intensity, row.rate, row.kernel) for row in profile.rows if row.intensity and row.rate
    ]
    if not dots:
        return None

    def draw(panels: "Sequence[Axes]") -> None:
        (axes,) = panels
        across, up = [one[0] for one in dots], [one[1] for one in dots]
        left, right = min(across) / _ROOM, max(across) * _ROOM
        if profile.roofs is not None:
            _draw_roofs(axes, profile.roofs, left, right)
        shares = [one[2].share for one in dots]
        areas = [_LEAST_AREA + _AREA * share for share in shares]
        axes.scatter(across, up, s=areas, color=_DOT, alpha=0.55, zorder=3, linewidths=0)
        low, high = _range(up, profile.roofs)
        for intensity, rate, kernel in _apart(dots, right / left, high / low):
            text = f"{label_text(kernel.kernel, 30)} {kernel.share:.1%}"
            axes.annotate(
                text, (intensity, rate), xytext=(5, -9), textcoords="offset points", fontsize=7
            )
        axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high))
        axes.set_xlabel("multiply-adds for each byte read or written")
        axes.set_ylabel(profile.unit)
        axes.grid(visible=True, which="both", alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        if profile.roofs is not None:
            axes.legend(frameon=False, fontsize=8, loc="lower right")

    return inline_panels([_INCHES], draw, alt)


_Dot = tuple[float, float, BenchKernel]


def _apart(dots: Sequence[_Dot], across: float, up: float) -> list[_Dot]:
    """Return the dots that take most, without those whose name would lie on another.

    Args:
        dots: intensity, rate and kernel of each.
        across: the right end of the picture over the left one.
        up: the upper end of the picture over the lower one.
    """
    named: list[_Dot] = []
    for dot in sorted(dots, key=lambda one: -one[2].share):
        covered = any(
            abs(log(dot[0] / other[0])) < _WIDE * log(across)
            and abs(log(dot[1] / other[1])) < _HIGH * log(up)
            for other in named
        )
        if not covered and len(named) < _NAMED:
            named.append(dot)
    return named


def _range(up: Sequence[float], roofs: Roofs | None) -> tuple[float, float]:
    top = max(up) if roofs is None else max(*up, roofs.peak)
    return min(up) / _ROOM, top * _ROOM


def _draw_roofs(axes: "Axes", roofs: Roofs, left: float, right: float) -> None:
    label = f"most that the core computes: {roofs.peak:,.4g}"
    axes.plot([left, right], [roofs.peak] * 2, color=_ROOF, linewidth=2, label=label)
    for (name, given), colour in zip(roofs.slopes, _SLOPES, strict=False):
        ends = [left, max(left, min(right, roofs.peak / given))]
        heights = [given * end for end in ends]
        label = f"{label_text(name)}: {given:,.4g} bytes"
        axes.plot(ends, heights, color=colour, linestyle="--", label=label)
