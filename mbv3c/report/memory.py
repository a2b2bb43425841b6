"""Where activations lie and when: the arena of an inference, and what a bundle takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from mbv3c.errors import BundleError
from mbv3c.figures import inline_panels, label_text
from mbv3c.lowering.describe import LifetimeRecord, MemoryRecord
from mbv3c.manifest import MANIFEST
from mbv3c.page import COMPUTED, Html, Table, element, how, picture, table
from mbv3c.report.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KIB = 1024
_INCHES, _MOST_DRAWN, _MOST_ROWS = 4.2, 400, 150
_AT_PEAK, _OTHER = "#d95f0e", "#1f77b4"
_NAMED = 0.06  # of the arena: smaller tensors have no name in the picture
_LETTERS, _LEAST_LETTERS = 90, 12  # that fit across the picture; fewer say nothing
_PEAK_NAMED, _TOP = 3, 1.2  # tensors, and the height of the picture over that of the arena


@dataclass(frozen=True)
class Peak:
    """The call at which most is alive.

    Attributes:
        call: which one, counted from 0.
        bytes: the sum of what is alive then.
        values: what is alive then, the largest first.
    """

    call: int
    bytes: int
    values: Sequence[LifetimeRecord]


def peak_of(memory: MemoryRecord) -> Peak:
    """Return the first call at which most is alive; of an empty arena one with nothing."""
    best = Peak(0, 0, ())
    for call in sorted({value.first for value in memory.values}):
        alive = [value for value in memory.values if value.first <= call <= value.last]
        total = sum(value.bytes for value in alive)
        if total > best.bytes:
            best = Peak(call, total, sorted(alive, key=lambda value: -value.bytes))
    return best


def check_memory(subject: Subject, memory: MemoryRecord) -> None:
    """Make sure that values lie in blocks that there are, and live forwards.

    Raises:
        BundleError: they do not.
    """
    for value in memory.values:
        inside = 0 <= value.block < len(memory.arena_blocks) and value.bytes >= 0
        if not inside or not 0 <= value.first <= value.last:
            raise BundleError(
                f"{subject.bundle.path / MANIFEST} is damaged: {value.value!r} lies in no block "
                "of the arena; compile it again"
            )


def memory_section(subject: Subject) -> Iterator[Html]:
    """Yield when each activation of a bundle lives, as a picture and as a table."""
    yield element("h3", "Memory of an inference")
    memory = subject.evidence.memory
    if memory is None or not memory.values:
        yield element(
            "p",
            "No timeline: what plans this memory does not say which tensor lies where; its sizes "
            "are below.",
            class_="missing",
        )
        return
    check_memory(subject, memory)
    peak, kernels = peak_of(memory), subject.evidence.kernels
    at = kernels[peak.call] if peak.call < len(kernels) else None
    nodes = f" ({', '.join(at.nodes[:3])})" if at is not None and at.nodes else ""
    where = f" in {at.kernel}{nodes}" if at is not None else ""
    yield element(
        "p",
        f"The arena has {memory.arena_bytes:,} bytes. Most is alive at call {peak.call}{where}: "
        f"{peak.bytes:,} bytes in {len(peak.values)} tensors.",
    )
    drawn = timeline_picture(memory, peak, f"Arena timeline of {subject.name}")
    yield picture(
        drawn,
        "Each bar is a tensor: across from the first call that touches it to the last, up the "
        "place in the arena. Those alive at the peak, the broken line, are in another colour.",
    )
    yield table(_table(memory, peak))
    yield how(COMPUTED, "by the plan in the manifest", "inspect", subject.path)


def _table(memory: MemoryRecord, peak: Peak) -> Table:
    alive = {value.value for value in peak.values}
    largest = sorted(memory.values, key=lambda value: -value.bytes)[:_MOST_ROWS]
    rows = [
        (
            value.value,
            f"{value.bytes:,}",
            f"{value.block}",
            f"{value.first}",
            f"{value.last}",
            "yes" if value.value in alive else "",
        )
        for value in largest
    ]
    left = len(memory.values) - len(rows)
    more = f"; {left} smaller ones are left out" if left else ""
    head = ("tensor", "bytes", "block", "first call", "last call", "at the peak")
    return Table(f"The tensors of the arena, the largest first{more}", head, rows, numbers=True)


def timeline_picture(memory: MemoryRecord, peak: Peak, alt: str) -> str:
    """Return the arena over the calls of an inference as an SVG element."""
    starts = [0, *accumulate(memory.arena_blocks)]
    alive = {value.value for value in peak.values}
    values = sorted(memory.values, key=lambda value: -value.bytes)[:_MOST_DRAWN]
    last = max(value.last for value in memory.values)

    def draw(panels: "Sequence[Axes]") -> None:
        (axes,) = panels
        for value in values:
            bottom, height = starts[value.block] / _KIB, value.bytes / _KIB
            width = value.last - value.first + 1
            colour = _AT_PEAK if value.value in alive else _OTHER
            axes.bar(
                value.first, height, width, bottom, align="edge", color=colour, alpha=0.55,
                edgecolor=colour, linewidth=0.6,
            )  # fmt: skip
            if value.bytes > _NAMED * memory.arena_bytes:
                fits = int(_LETTERS * width / (last + 1))
                if fits >= _LEAST_LETTERS:
                    text = label_text(value.value, fits)
                    place = value.first + width / 2, bottom + height / 2
                    axes.text(*place, text, ha="center", va="center", fontsize=6)
        axes.axvline(peak.call + 0.5, linestyle="--", color=_AT_PEAK, linewidth=1)
        for start in starts[1:-1]:
            axes.axhline(start / _KIB, color="0.5", linewidth=0.5)
        named = "\n".join(label_text(value.value, 48) for value in peak.values[:_PEAK_NAMED])
        right = peak.call > last / 2
        axes.text(
            peak.call + (0.2 if right else 0.8),
            memory.arena_bytes / _KIB * _TOP,
            f"peak, {peak.bytes / _KIB:,.1f} KiB:\n{named}",
            fontsize=7,
            va="top",
            ha="right" if right else "left",
        )
        axes.set(xlim=(0, last + 1), ylim=(0, memory.arena_bytes / _KIB * _TOP))
        axes.set_xlabel("calls of kernels, in their order")
        axes.set_ylabel("place in the arena, KiB")
        axes.spines[["top", "right"]].set_visible(False)

    return inline_panels([_INCHES], draw, alt)


_SIZES = {
    "library_bytes": "library, code and weights",
    "weight_bytes": "weights, as packed",
    "arena_bytes": "arena of activations",
    "code_bytes": "code",
    "constant_bytes": "constants",
    "flash_bytes": "flash",
    "sram_bytes": "SRAM",
    "dram_bytes": "DRAM",
    "stream_bytes": "command stream",
}


def size_section(subject: Subject) -> Iterator[Html]:
    """Yield what a bundle takes, and its files."""
    yield element("h3", "Sizes")
    taken = [(_SIZES.get(name, name), f"{size:,}") for name, size in subject.sizes.items()]
    if taken:
        yield table(Table("Where it runs, bytes", ("", "bytes"), taken, numbers=True))
    files = {name: (subject.bundle.path / name).stat().st_size for name in subject.bundle.files}
    total = sum(files.values())
    rows = [
        (name, f"{size:,}", f"{size / total:.1%}" if total else "-")
        for name, size in sorted(files.items(), key=lambda item: -item[1])
    ][:_MOST_ROWS]
    caption = f"The {len(files)} files of the bundle, {total:,} bytes"
    yield table(Table(caption, ("file", "bytes", "share"), rows, numbers=True))
    yield how(COMPUTED, "by the files and the manifest", "inspect", subject.path)
