"""What bundles take on devices: how times are spread by clusters and threads, and over time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mbv3c.execution.device.clusters import ALL, BIG, LITTLE, MIDDLE
from mbv3c.execution.timing.beside import ONNXRUNTIME
from mbv3c.execution.timing.latency import Distribution
from mbv3c.figures import inline_panels, label_text
from mbv3c.page import EMULATED, Html, Table, element, how, joined, picture, table
from mbv3c.report.documents import DeviceBench, DeviceShape
from mbv3c.report.subject import Subject, kind_of
from mbv3c.speed.on_device import Energy, Row, SideOnDevice, Sustained

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_ROWS, _MOST_SERIES, _MOST_WINDOWS = 40, 8, 400
_ROOM, _PER_LINE, _PANEL = 1.0, 0.2, 1.5  # inches
_OWN, _OTHER = "#1f77b4", "#c2410c"
_SPREAD = "The dot is the median; the bar ends at p99, or p90; the line goes from least to slowest"
_NOT_A_BOARD = "The processor is emulated: times are the emulator's and say nothing about a board."


def configuration(row: Row | Sustained) -> str:
    """Say on which processors and threads something ran."""
    return f"{row.cluster}, {row.threads} thread{'' if row.threads == 1 else 's'}"


def device_section(subject: Subject, bench: DeviceBench) -> Iterator[Html]:
    """Yield what a bundle took on a device, in its order: spread, memory and heat, a long run."""
    yield element("h4", f"On {bench.ran_on}")
    for one in bench.by_shape:
        yield from _shape(subject, bench, one)
    if bench.missing:
        items = [element("li", text) for text in bench.missing]
        yield element("p", "The device does not tell:", class_="missing")
        yield element("ul", *items, class_="missing")
    if kind_of(bench.ran_on) == EMULATED:
        yield element("p", _NOT_A_BOARD, class_="bad")
    versions = "".join(f"; {name} {version}" for name, version in bench.versions.items())
    yield how(kind_of(bench.ran_on), f"on {bench.ran_on}{versions}", *_again(subject, bench))


def _again(subject: Subject, bench: DeviceBench) -> list[str]:
    rows = bench.configurations
    line = ["bench", subject.path, "--device", "HOST:PORT"]
    line += [] if any(row.theirs for row in rows) else ["--against", "none"]
    pinned = rows[0].cluster
    if not pinned.startswith((ALL, BIG, LITTLE, MIDDLE)):
        line += ["--pin", pinned]
    line += ["--runs", str(rows[0].ours.spread.runs)]
    long = bench.sustained
    return [*line, *(["--minutes", f"{long.minutes:.3g}"] if long else []), "--json"]


def _shape(subject: Subject, bench: DeviceBench, one: DeviceShape) -> Iterator[Html]:
    rows = one.configurations[:_MOST_ROWS]
    behind = f" for inputs of {one.shape}" if one.shape else ""
    series: list[_Series] = [(subject.name, [row.ours.spread for row in rows])]
    if any(row.theirs for row in rows):
        theirs = [row.theirs.spread if row.theirs else None for row in rows]
        series.append((ONNXRUNTIME, theirs))
    again = f", file {at + 1}" if (at := subject.on_devices.index(bench)) else ""
    alt = f"Times of {subject.name} on {bench.ran_on}{behind}{again}"
    labels = [configuration(row) for row in rows]
    yield picture(_spreads(labels, series, alt), f"{_SPREAD}{behind}.")
    yield table(_times(rows, behind))
    yield table(_around(rows, behind))
    if any(row.undisturbed is False for row in rows):
        yield element("p", "The device was busy: times and ratios are uncertain.", class_="bad")
    if one.sustained is not None:
        yield from _sustained(one.sustained, f"{alt}, sustained")


def _times(rows: Sequence[Row], behind: str) -> Table:
    beside = any(row.theirs for row in rows)
    heads = ["median", "p90", "p99", "least", "slowest"]
    heads += [f"{ONNXRUNTIME}, median", "p99", "ratio (quartiles)"] if beside else []
    cells = []
    for row in rows:
        spread = row.ours.spread
        line = [spread.median_ms, spread.p90_ms, spread.p99_ms, spread.min_ms, spread.max_ms]
        said = list(map(_ms, line))
        if beside:
            other = row.theirs.spread if row.theirs else None
            said += [_ms(other.median_ms), _ms(other.p99_ms)] if other else ["-", "-"]
            said.append(_ratio(row))
        cells.append((configuration(row), *said))
    runs = rows[0].ours.spread.runs
    below = f"; a ratio below 1 is faster than {ONNXRUNTIME}" if beside else ""
    caption = f"Times of {runs:,} inferences each{behind}, in ms{below}"
    return Table(caption, ("processors", *heads), cells, numbers=True)


def _ms(time: float | None) -> str:
    return "-" if time is None else f"{time:.3f}"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return "-"
    low, high = row.ratio.quartiles
    return f"{row.ratio.median:.3f} ({low:.3f} to {high:.3f})"


Cell = Callable[[Row], str]


def _around(rows: Sequence[Row], behind: str) -> Table:
    """Return memory, heat, clock and energy, as far as the device told any of them."""
    columns: list[tuple[str, Cell]] = [
        ("memory, MiB", lambda row: _memory(row.ours)),
        (f"{ONNXRUNTIME}'s memory, MiB", lambda row: _memory(row.theirs)),
        ("°C, first and most", lambda row: _two(row.celsius)),
        ("MHz, least and most", lambda row: _two(row.mhz)),
        ("clock held down", lambda row: _yes(row.throttled)),
        ("mJ an inference", lambda row: _energies(row.ours)),
        (f"{ONNXRUNTIME}'s mJ", lambda row: _energies(row.theirs)),
        ("undisturbed", lambda row: _yes(row.undisturbed)),
    ]
    told = [(head, cell) for head, cell in columns if any(cell(row) != "-" for row in rows)]
    cells = [(configuration(row), *(cell(row) for _, cell in told)) for row in rows]
    heads = ("processors", *(head for head, _ in told))
    caption = f"Memory beyond that of an empty process, heat, clock, energy{behind}; idle included"
    return Table(caption, heads, cells, numbers=True)


def _memory(side: SideOnDevice | None) -> str:
    bytes_ = side.memory_bytes if side else None
    return "-" if bytes_ is None else f"{bytes_ / 2**20:.1f}"


def _two(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else " to ".join(dict.fromkeys(f"{end:,.0f}" for end in ends))


def _yes(said: bool | None) -> str:
    return "-" if said is None else "yes" if said else "no"


def _energies(side: SideOnDevice | None) -> str:
    each = [f"{one.millijoules:.3g} ({one.watts:.3g} W, {one.sensor})" for one in _energy(side)]
    return joined(element("div", text) for text in each) if each else "-"


def _energy(side: SideOnDevice | None) -> Sequence[Energy]:
    return side.energy if side else ()


def _sustained(long: Sustained, alt: str) -> Iterator[Html]:
    slower = long.last_ms / long.first_ms - 1 if long.first_ms else 0.0
    said = [
        f"For {long.minutes:.3g} min on {configuration(long)}: median {long.first_ms:.3f} ms "
        f"in the first quarter, {long.last_ms:.3f} ms in the last ({slower:+.1%})."
    ]
    said += [
        f"{one.millijoules:.3g} mJ an inference at {one.watts:.3g} W by {one.sensor}, idle "
        "included."
        for one in long.energy
    ]
    if any(window.throttled for window in long.windows):
        said.append("The clock was held down.")
    yield element("p", " ".join(said))
    yield picture(_over_time(long, alt), "Times, heat and clock over that time")


def _over_time(long: Sustained, alt: str) -> str:
    windows = long.windows[:: 1 + len(long.windows) // _MOST_WINDOWS]
    minutes = [window.seconds / 60 for window in windows]
    spreads = [window.spread for window in windows]
    panels: list[tuple[str, list[tuple[str, list[float | None]]]]] = [
        (
            "ms",
            [
                ("median", [spread.median_ms for spread in spreads]),
                ("p99", [spread.p99_ms for spread in spreads]),
            ],
        ),
        ("°C", [("temperature", [window.celsius for window in windows])]),
        ("MHz", [("clock", [window.mhz for window in windows])]),
    ]
    told = [
        (unit, known)
        for unit, lines in panels
        if (known := [(name, line) for name, line in lines if any(x is not None for x in line)])
    ]

    def draw(axes: "Sequence[Axes]") -> None:
        for one, (unit, lines) in zip(axes, told, strict=True):
            for (name, line), colour in zip(lines, (_OWN, _OTHER), strict=False):
                heights = [float("nan") if x is None else x for x in line]
                one.plot(minutes, heights, ".-", color=colour, label=name)
            one.set_ylabel(unit)
            one.ticklabel_format(axis="y", useOffset=False)
            one.grid(visible=True, alpha=0.2)
            one.spines[["top", "right"]].set_visible(False)
            if len(lines) > 1:
                one.legend(frameon=False, fontsize=8)
        axes[-1].set_xlabel("minutes")

    return inline_panels([_PANEL] * len(told), draw, alt)


_Series = tuple[str, Sequence[Distribution | None]]


def _spreads(labels: Sequence[str], series: Sequence[_Series], alt: str) -> str:
    """Draw how times are spread: a group of lines for each label, a line in it for each series."""
    shown = series[:_MOST_SERIES]
    height = _ROOM + _PER_LINE * (len(labels) * (len(shown) + 1) + len(shown))

    def draw(panels: "Sequence[Axes]") -> None:
        (axes,) = panels
        for at, (name, spreads) in enumerate(shown):
            colour = _OTHER if name == ONNXRUNTIME else _OWN if at == 0 else f"C{at + 1}"
            offset = (at + 0.5) / (len(shown) + 1) - 0.5 * len(shown) / (len(shown) + 1)
            known = [(y + offset, one) for y, one in enumerate(spreads) if one is not None]
            for y, one in known:
                rare = next(x for x in (one.p99_ms, one.p90_ms, one.max_ms) if x is not None)
                axes.plot([one.min_ms, one.max_ms], [y, y], color=colour, linewidth=1)
                axes.plot([one.median_ms, rare], [y, y], color=colour, linewidth=5, alpha=0.4)
            dots = [one.median_ms for _, one in known], [y for y, _ in known]
            axes.plot(*dots, "o", color=colour, markersize=5, label=label_text(name))
        axes.set_yticks(range(len(labels)), [label_text(label) for label in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("ms for an inference")
        axes.grid(visible=True, axis="x", alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        if len(shown) > 1:
            axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))

    return inline_panels([height], draw, alt)


@dataclass(frozen=True)
class _Side:
    """A bundle on a device.

    Attributes:
        name: the bundle.
        bench: what was measured, for the first shape of its inputs.
    """

    name: str
    bench: DeviceBench

    def at(self, wanted: str) -> Row | None:
        """Return the configuration of that name."""
        rows = self.bench.configurations
        return next((row for row in rows if configuration(row) == wanted), None)


def devices_side_by_side(subjects: Sequence[Subject]) -> Iterator[Html]:
    """Yield a table and a picture for each device on which more than one bundle was measured."""
    sides: dict[str, dict[str, _Side]] = {}
    for subject in subjects:
        for bench in subject.on_devices:
            sides.setdefault(bench.ran_on, {})[subject.name] = _Side(subject.name, bench)
    several = {device: list(each.values()) for device, each in sides.items() if len(each) > 1}
    if several:
        yield element("h2", "Side by side on devices")
    for device, each in several.items():
        yield element("h3", device)
        yield from _side_by_side(device, each)


def _side_by_side(device: str, sides: Sequence[_Side]) -> Iterator[Html]:
    every = (configuration(row) for side in sides for row in side.bench.configurations)
    labels = list(dict.fromkeys(every))[:_MOST_ROWS]
    rows = [[side.at(label) for side in sides] for label in labels]
    series: list[_Series] = [
        (side.name, [row.ours.spread if (row := found[at]) else None for found in rows])
        for at, side in enumerate(sides)
    ]
    yield picture(_spreads(labels, series, f"Times of all bundles on {device}"), f"{_SPREAD}.")
    cells = [
        (label, *(_cell(row) for row in found)) for label, found in zip(labels, rows, strict=True)
    ]
    head = ("processors", *(side.name for side in sides))
    caption = f"Median and p99 in ms, and the ratio to {ONNXRUNTIME} on the same model"
    yield table(Table(caption, head, cells, numbers=True))
    line = ("bench", "BUNDLE", "--device", "HOST:PORT", "--json")
    yield how(kind_of(device), f"on {device}, each bundle by itself", *line)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    said = [_ms(row.ours.spread.median_ms), _ms(row.ours.spread.p99_ms)]
    said += [] if row.ratio is None else [f"{row.ratio.median:.3f}"]
    return ", ".join(said)
