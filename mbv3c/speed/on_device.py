"""Measure a bundle on a device: how times are spread, memory, heat, clock, energy, for a while."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Any

from mbv3c.bundle import GOLDEN_INPUT, Bundle, entry_for
from mbv3c.errors import UsageError
from mbv3c.execution.device.bench_client import BenchAsked
from mbv3c.execution.device.bench_session import LIBRARY
from mbv3c.execution.device.machine import Machine
from mbv3c.execution.device.place import Place
from mbv3c.execution.device.runner import RpcRunner
from mbv3c.execution.timing.beside import ONNXRUNTIME
from mbv3c.execution.timing.latency import FEW, Distribution, Ratio, distribution, ratio
from mbv3c.feeds import load_feed, shape_text
from mbv3c.progress import Progress
from mbv3c.speed.device_request import NONE, DeviceBenchRequest
from mbv3c.speed.measure import DEFAULT_RUNS
from mbv3c.targets import backend_for

_PARTS = 4  # of a long run, of which the first and the last are compared


@dataclass(frozen=True)
class Energy:
    """What one inference took, by one sensor.

    Attributes:
        sensor: what the board and the kernel call it.
        millijoules: energy of an inference, what the board takes without it included.
        watts: power meanwhile.
    """

    sensor: str
    millijoules: float
    watts: float


@dataclass(frozen=True)
class SideOnDevice:
    """A side in one configuration.

    Attributes:
        spread: how its times are spread.
        memory_bytes: what its process took at most, beyond what it took before it opened the
            library or the model; None where the device does not say.
        energy: by every sensor; empty without one.
    """

    spread: Distribution
    memory_bytes: int | None
    energy: tuple[Energy, ...]


@dataclass(frozen=True)
class Row:
    """One configuration.

    Attributes:
        cluster: "all", "big", "little", "middle", or the numbers that the user gave.
        cpus: processors; empty where TVM chose them.
        threads: number of threads.
        ours: the library.
        theirs: onnxruntime; None where it was not measured.
        ratio: our time over theirs.
        undisturbed: whether the system seldom gave the processors to others; None if unknown.
        mhz: least and highest clock that was seen.
        celsius: first and highest temperature.
        throttled: whether the clock was held down.
    """

    cluster: str
    cpus: tuple[int, ...]
    threads: int
    ours: SideOnDevice
    theirs: SideOnDevice | None
    ratio: Ratio | None
    undisturbed: bool | None
    mhz: tuple[float, float] | None
    celsius: tuple[float, float] | None
    throttled: bool | None


@dataclass(frozen=True)
class Window:
    """A part of a long run; what the device does not tell is None.

    Attributes:
        seconds: when it ended, since the long run began.
        spread: how its times are spread.
        celsius, mhz: temperature in its end, and mean clock.
        throttled: whether the clock was held down at any time.
    """

    seconds: float
    spread: Distribution
    celsius: float | None
    mhz: float | None
    throttled: bool | None


@dataclass(frozen=True)
class Sustained:
    """The quickest configuration for some minutes.

    Attributes:
        minutes: how long it ran.
        cluster, threads: which one it is.
        windows: parts of equal length.
        first_ms, last_ms: median of the medians in the first quarter, and in the last.
        energy: of one inference, by every sensor, over the whole time.
    """

    minutes: float
    cluster: str
    threads: int
    windows: tuple[Window, ...]
    first_ms: float
    last_ms: float
    energy: tuple[Energy, ...]


@dataclass(frozen=True)
class OnDevice:
    """What was measured on a device.

    Attributes:
        ran_on: the device in words.
        machine: what it says it is; None of a server of TVM's own.
        rows: the configurations.
        sustained: the long run; None without one.
        versions: versions of the other runtimes on the device, by name.
        missing: what the device does not tell, each in words.
    """

    ran_on: str
    machine: Machine | None
    rows: tuple[Row, ...]
    sustained: Sustained | None
    versions: Mapping[str, str]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "ran_on": self.ran_on,
            "machine": None if self.machine is None else self.machine.to_json(),
            "configurations": [asdict(row) for row in self.rows],
            "sustained": None if self.sustained is None else asdict(self.sustained),
            "versions": dict(self.versions),
            "missing": list(self.missing),
        }


def measure_on_device(
    bundle: Bundle, request: DeviceBenchRequest, place: Place, progress: Progress
) -> OnDevice:
    """Measure a bundle on a device.

    Raises:
        UsageError: the request does not fit the bundle or the device.
        ToolError: the device cannot be reached, refuses, hangs or dies.
    """
    request.check()
    backend = backend_for(bundle)
    backend.check_bench(bundle)
    cores = backend.footprint(bundle).cores
    if request.threads is not None and request.threads > cores:
        raise UsageError(
            f"--threads {request.threads} is not possible: the bundle was compiled for {cores}; "
            f"compile it with --cores {request.threads}"
        )
    asked = BenchAsked(
        bundle=str(bundle.path),
        library=str(bundle.library),
        model=None if request.against == NONE else str(bundle.compiled_model),
        input=str(bundle.path / GOLDEN_INPUT),
        entry=entry_for(bundle.path, load_feed(bundle.path / GOLDEN_INPUT)),
        cores=cores,
        pin=request.pin,
        threads=request.threads,
        runs=DEFAULT_RUNS if request.runs is None else request.runs,
        minutes=request.minutes or 0.0,
    )
    with backend.open(bundle, progress, place) as opened:
        assert isinstance(opened.runner, RpcRunner)
        long = f", then for {asked.minutes:g} min" if asked.minutes else ""
        progress(f"timing it on {opened.ran_on}: {asked.runs} runs of each side{long}")
        found = opened.runner.bench(asdict(asked), 60 * asked.minutes)
        if "refused" in found:
            raise UsageError(found["refused"])
        return replace(_read(found, request), ran_on=opened.ran_on, machine=opened.runner.machine)


def measure_shapes_on_device(
    bundle: Bundle, request: DeviceBenchRequest, place: Place, progress: Progress
) -> dict[str, OnDevice]:
    """Measure a bundle on a device for every shape of its inputs; the first comes first.

    Raises:
        UsageError: the request does not fit the bundle or the device.
        ToolError: the device cannot be reached, refuses, hangs or dies.
    """
    with backend_for(bundle).programs(bundle) as programs:
        return {
            shape_text(record.shape for record in program.manifest.taken): measure_on_device(
                program, request, place, progress
            )
            for program in programs
        }


def _read(found: Mapping[str, Any], request: DeviceBenchRequest) -> OnDevice:
    """Make sense of what the device's client brought."""
    rows = tuple(_row(row) for row in found["rows"])
    look, sustained = found["look"], found["sustained"]
    versions = dict(look["runtimes"]) if look else {}
    return OnDevice(
        ran_on="",
        machine=None,
        rows=rows,
        sustained=None if sustained is None else _sustained(sustained, rows),
        versions=versions if rows[0].theirs else {},
        missing=tuple(_missing(look, request)),
    )


def _missing(look: Mapping[str, Any] | None, request: DeviceBenchRequest) -> Iterable[str]:
    """Say what the device does not tell."""
    if look is None:
        yield (
            "temperature, clock, memory, energy and onnxruntime: its server is TVM's own and "
            "tells none of them; `mbv3c device serve` does"
        )
        return
    sensors = look["sensors"]
    if sensors["celsius"] is None:
        yield "temperature: it has no sensor that may be read"
    if sensors["mhz"] is None:
        yield "clock: its system does not tell"
    if not sensors["watts"] and not look["counters"]:
        yield "energy: it has no sensor that may be read"
    if not look["runtimes"] and request.against != NONE:
        yield f"{ONNXRUNTIME}: it is not installed there; `pip install {ONNXRUNTIME}` there"


def _row(row: Mapping[str, Any]) -> Row:
    sides = row["sides"]
    every = [block for side in sides.values() for block in side["blocks"] + side["energy"]]
    readings = [reading for block in every for reading in block.get("readings", ())]
    compared = None
    if ONNXRUNTIME in sides:
        ours, theirs = (_blocks(sides[name]) for name in (LIBRARY, ONNXRUNTIME))
        compared = ratio(ours, theirs)
    counted = [block["interruptions"] for block in every if "interruptions" in block]
    runs = sum(len(block["ms"]) for block in every)
    undisturbed = sum(counted) <= FEW * runs if counted else None
    return Row(
        cluster=row["cluster"],
        cpus=tuple(row["cpus"]),
        threads=row.get("threads") or len(row["cpus"]),
        ours=_side(sides[LIBRARY]),
        theirs=_side(sides[ONNXRUNTIME]) if ONNXRUNTIME in sides else None,
        ratio=compared,
        undisturbed=undisturbed and (compared is None or compared.steady),
        mhz=_between(readings, "mhz"),
        celsius=_first_and_most(readings),
        throttled=_any(readings),
    )


def _blocks(side: Mapping[str, Any]) -> list[list[float]]:
    return [block["ms"] for block in side["blocks"]]


def _side(side: Mapping[str, Any]) -> SideOnDevice:
    memory, before = None, None
    if side["memory"] is not None:
        memory, before = side["memory"]["peak_bytes"], side["memory"]["before_bytes"]
    return SideOnDevice(
        spread=distribution([each for block in _blocks(side) for each in block]),
        memory_bytes=None if memory is None or before is None else max(0, memory - before),
        energy=_energy([{**one, "runs": len(one["ms"])} for one in side["energy"]]),
    )


def _energy(windows: Sequence[Mapping[str, Any]]) -> tuple[Energy, ...]:
    """Divide what sensors counted, or power times seconds, by the number of inferences."""
    runs = sum(window["runs"] for window in windows)
    seconds = sum(window["seconds"] for window in windows)
    if not runs or not seconds:
        return ()
    found = []
    for name in dict.fromkeys(name for window in windows for name in window["joules"]):
        if all(name in window["joules"] for window in windows):
            spent = sum(window["joules"][name] for window in windows)
            found.append(Energy(name, 1e3 * spent / runs, spent / seconds))
    readings = [reading["watts"] for window in windows for reading in window["readings"]]
    for name in dict.fromkeys(name for reading in readings for name in reading):
        power = fmean(reading[name] for reading in readings if name in reading)
        found.append(Energy(name, 1e3 * power * seconds / runs, power))
    return tuple(found)


def _sustained(sustained: Mapping[str, Any], rows: Sequence[Row]) -> Sustained:
    row, windows = rows[sustained["row"]], sustained["windows"]
    read = tuple(
        Window(
            seconds=window["at"],
            spread=Distribution(**window["spread"]),
            celsius=heat[-1] if (heat := _known(window["readings"], "celsius")) else None,
            mhz=fmean(clocks) if (clocks := _known(window["readings"], "mhz")) else None,
            throttled=_any(window["readings"]),
        )
        for window in windows
    )
    part = max(1, len(read) // _PARTS)
    return Sustained(
        minutes=read[-1].seconds / 60,
        cluster=row.cluster,
        threads=row.threads,
        windows=read,
        first_ms=median(window.spread.median_ms for window in read[:part]),
        last_ms=median(window.spread.median_ms for window in read[-part:]),
        energy=_energy([{**one, "runs": one["spread"]["runs"]} for one in windows]),
    )


def _known(readings: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [reading[key] for reading in readings if reading[key] is not None]


def _between(readings: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float] | None:
    known = _known(readings, key)
    return (min(known), max(known)) if known else None


def _first_and_most(readings: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    known = _known(readings, "celsius")
    return (known[0], max(known)) if known else None


def _any(readings: Sequence[Mapping[str, Any]]) -> bool | None:
    known = [reading["throttled"] for reading in readings if reading["throttled"] is not None]
    return any(known) if known else None
