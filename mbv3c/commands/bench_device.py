"""How `mbv3c bench --device` reads: what a bundle takes on a device."""

from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbv3c.speed.on_device import Energy, OnDevice, Sustained

_WIDE = 12  # of the words before what they name
_LINE = 80


def device_lines(measured: "OnDevice") -> "Iterator[str]":
    """Say what was measured on a device, in 80 columns but for names."""
    yield measured.ran_on
    yield from _table(measured)
    best = min(measured.rows, key=lambda row: row.ours.spread.median_ms)
    if best.ours.memory_bytes is not None:
        theirs = best.theirs.memory_bytes if best.theirs else None
        beside = "" if theirs is None else f"; onnxruntime {_mib(theirs)} for the model"
        yield f"{'memory':<{_WIDE}} {_mib(best.ours.memory_bytes)} for the library{beside}"
    heats = [row.celsius for row in measured.rows if row.celsius]
    if heats:
        highest = max(most for _, most in heats)
        yield f"{'temperature':<{_WIDE}} {heats[0][0]:.0f} °C at first, {highest:.0f} °C at most"
    clocks = [clock for row in measured.rows if row.mhz for clock in row.mhz]
    if clocks:
        down = ", held down" if any(row.throttled for row in measured.rows) else ""
        yield f"{'clock':<{_WIDE}} {_range(min(clocks), max(clocks))} MHz{down}"
    yield from _energy(best.ours.energy, "energy")
    if best.ours.energy and best.theirs:
        yield from _energy(best.theirs.energy, "onnxruntime")
    if measured.sustained is not None:
        yield from _sustained(measured.sustained)
    if measured.machine is not None and "emulated" in measured.machine.doubts:
        yield from wrap(measured.machine.doubts["emulated"], _LINE)
    if any(row.undisturbed is False for row in measured.rows):
        yield "the device was busy with other work: measure again when it is idle"
    if measured.missing:
        yield "not told by the device:"
        for text in measured.missing:
            yield from wrap(text, _LINE, initial_indent="  ", subsequent_indent="    ")


def _table(measured: "OnDevice") -> "Iterator[str]":
    beside = f"{'onnxruntime':>13}{'ratio':>7}" if measured.versions else ""
    heads = "".join(f"{head:>9}" for head in ("median", "p90", "p99", "slowest"))
    yield f"{'processors':<{_WIDE}}{'threads':>8}{heads}{beside}"
    for row in measured.rows:
        spread = row.ours.spread
        times = (spread.median_ms, spread.p90_ms, spread.p99_ms, spread.max_ms)
        line = f"{row.cluster:<{_WIDE}}{row.threads:>8}{''.join(map(_ms, times))}"
        if row.theirs and row.ratio:
            line += f"{row.theirs.spread.median_ms:>13.3f}{row.ratio.median:>7.3f}"
        yield line
    runs = measured.rows[0].ours.spread.runs
    yield f"in ms, of {runs} inferences each" + (
        f"; a ratio below 1 is faster than onnxruntime {measured.versions['onnxruntime']}"
        if beside
        else ""
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _ms(time: float | None) -> str:
    return f"{'-':>9}" if time is None else f"{time:>9.3f}"


def _range(least: float, most: float) -> str:
    return f"{least:.0f}" if round(least) == round(most) else f"{least:.0f} to {most:.0f}"


def _energy(energies: "tuple[Energy, ...]", head: str) -> "Iterator[str]":
    for energy in energies:
        yield (
            f"{head:<{_WIDE}} {energy.millijoules:.3g} mJ an inference at {energy.watts:.3g} W, "
            "idle included"
        )
        yield f"{'':<{_WIDE}} by {energy.sensor}"


def _sustained(long: "Sustained") -> "Iterator[str]":
    slower = long.last_ms / long.first_ms - 1
    plural = "" if long.threads == 1 else "s"
    yield f"for {long.minutes:.3g} min, {long.cluster}, {long.threads} thread{plural}:"
    yield (
        f"  median {long.first_ms:.3f} ms in the first quarter, {long.last_ms:.3f} ms in the last "
        f"({slower:+.1%})"
    )
    rare = [window.spread.p99_ms for window in long.windows if window.spread.p99_ms is not None]
    heats = [window.celsius for window in long.windows if window.celsius is not None]
    clocks = [window.mhz for window in long.windows if window.mhz is not None]
    said = [f"p99 {max(rare):.3f} ms at worst"] if rare else []
    said += [f"{max(heats):.0f} °C at most"] if heats else []
    said += [f"clock {min(clocks):.0f} MHz at least"] if clocks else []
    said += ["held down"] if any(window.throttled for window in long.windows) else []
    if said:
        yield f"  {', '.join(said)}"
    yield from (f"  {line}" for line in _energy(long.energy, "energy"))
