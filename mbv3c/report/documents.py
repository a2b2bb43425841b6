"""The JSON documents of other commands, as far as a report shows them.

Keys are those of docs/json.md; what a report does not show is not looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mbv3c.accuracy.tally import Interval
from mbv3c.door.documents import read_json
from mbv3c.door.files import Refused
from mbv3c.errors import SavedFileError, UsageError
from mbv3c.quantization.report import LayerError
from mbv3c.speed.on_device import Row, Sustained

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class BenchKernel:
    """A kernel in the profile of `bench`: a call where it was timed, else all its calls."""

    kernel: str
    kind: str
    nodes: tuple[str, ...]
    madds: int
    share: float
    us: float | None = None
    calls: int | None = None
    instructions: int | None = None
    estimated_cycles: float | None = None


@dataclass(frozen=True)
class EstimatedCycles:
    """The sum of estimated cycles, and what estimated them."""

    total: float
    model: str


@dataclass(frozen=True)
class Bench:
    """What `bench --json` prints."""

    bundle: str
    cpu: str
    threads: int
    emulated: bool
    versions: dict[str, str]
    bundle_sha256: str | None = None
    median_ms: float | None = None
    min_ms: float | None = None
    against: str | None = None
    against_median_ms: float | None = None
    against_min_ms: float | None = None
    ratio: float | None = None
    ratio_quartiles: tuple[float, float] | None = None
    runs: int | None = None
    undisturbed: bool | None = None
    instructions: int | None = None
    estimated_cycles: EstimatedCycles | None = None
    kernels: tuple[BenchKernel, ...] | None = None


@dataclass(frozen=True)
class Counted:
    """A share of images with its interval."""

    share: float
    low: float
    high: float
    count: int
    of: int


@dataclass(frozen=True)
class DeviceShape:
    """What `bench --device` measured for one shape of the inputs."""

    shape: str
    configurations: tuple[Row, ...]
    sustained: Sustained | None = None


@dataclass(frozen=True)
class DeviceBench:
    """What `bench --device --json` prints."""

    bundle: str
    ran_on: str
    configurations: tuple[Row, ...]
    versions: dict[str, str]
    missing: tuple[str, ...]
    sustained: Sustained | None = None
    bundle_sha256: str | None = None
    shapes: tuple[DeviceShape, ...] | None = None

    def __post_init__(self) -> None:
        measured = [self.configurations, *(one.configurations for one in self.shapes or ())]
        if not all(measured):
            raise ValueError("nothing was measured")
        if any(long is not None and not long.windows for long in self.every_long_run):
            raise ValueError("a long run without a part of it")

    @property
    def by_shape(self) -> tuple[DeviceShape, ...]:
        """What was measured for each shape; the name of a single one is empty."""
        return self.shapes or (DeviceShape("", self.configurations, self.sustained),)

    @property
    def every_long_run(self) -> list[Sustained | None]:
        """The long run for each shape."""
        return [one.sustained for one in self.by_shape]

    @property
    def best(self) -> Row:
        """The configuration with the least median."""
        return min(self.configurations, key=lambda row: row.ours.spread.median_ms)


DEVICE_BENCH = "mbv3c bench BUNDLE --device HOST:PORT --json"


def bench_of(path: Path, command: str) -> Bench | DeviceBench:
    """Read what `bench --json` printed, here or on a device.

    Raises:
        UsageError: there is no such file.
        SavedFileError: it is no document of this command.
    """
    document = document_of(path, command)
    if "configurations" in document:
        return as_kind(document, DeviceBench, path, DEVICE_BENCH)
    return as_kind(document, Bench, path, command)


Tops = dict[str, Counted]


@dataclass(frozen=True)
class SeenImage:
    """An image on which two sides differ: the best classes of each, best first."""

    file: str
    given: tuple[int, ...] = ()
    quantized: tuple[int, ...] | None = None
    bundle: tuple[int, ...] = ()
    label: int | None = None
    lead: float | None = None


@dataclass(frozen=True)
class Accuracy:
    """What `verify --images --json` prints."""

    bundle: str
    ran_on: str
    folder: str
    images: int
    chosen: int
    read: int
    broken: int
    differing: int
    labels: str
    agreement: dict[str, Tops]
    first_differing: tuple[SeenImage, ...]
    bundle_sha256: str | None = None
    class_names: tuple[str, ...] | None = None
    accuracy: dict[str, Tops] | None = None
    difference: dict[str, dict[str, Interval]] | None = None


@dataclass(frozen=True)
class QuantizedOutput:
    """An output in the report of `quantize`."""

    name: str
    cosine: float | None
    snr_db: float | None = None


@dataclass(frozen=True)
class Quantized:
    """What `quantize --json` prints."""

    model: str
    calibration: str
    random_inputs: bool
    method: str
    outputs: tuple[QuantizedOutput, ...]
    layers: tuple[LayerError, ...]
    cosine: float | None = None
    snr_db: float | None = None


@dataclass(frozen=True)
class TunedNetwork:
    """What tuning made of the whole network."""

    before: float
    after: float
    ratio: float
    unit: str


@dataclass(frozen=True)
class TunedTask:
    """A kernel that was tuned."""

    task: str
    calls: int
    measured: int
    legal: int
    best_relative: float | None
    default_cost: float | None = None


@dataclass(frozen=True)
class Tuned:
    """What `tune --json` prints for a CPU or a GPU."""

    device: str
    runner: str
    kernels: int
    trials: int
    kept: int
    tasks: tuple[TunedTask, ...]
    network: TunedNetwork | None = None


def read(path: Path, kind: type[_Kind], command: str) -> _Kind:
    """Read a document that a command printed.

    Args:
        path: the file.
        kind: what it holds.
        command: the command, for the message.

    Raises:
        UsageError: there is no such file.
        SavedFileError: it is no document of this command.
    """
    return as_kind(document_of(path, command), kind, path, command)


def document_of(path: Path, command: str) -> dict[str, Any]:
    """Read a document as it is.

    Raises:
        UsageError: there is no such file.
        SavedFileError: it is no document of JSON with keys.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}; write it with `{command} > {path.name}`")
    try:
        found = read_json(path)
    except (OSError, Refused) as error:
        raise another(path, command, str(error)) from error
    if not isinstance(found, dict):
        raise another(path, command, "it holds no keys")
    return found


def as_kind(document: dict[str, Any], kind: type[_Kind], path: Path, command: str) -> _Kind:
    """Return a document in the type of what it holds.

    Raises:
        SavedFileError: it holds something else.
    """
    found = guarded(lambda: msgspec.convert(document, kind), path, command)
    if not _measurable(msgspec.to_builtins(found)):
        raise another(path, command, "it holds a number that nothing measures")
    return found


# What is drawn and divided by lies between these, or is 0.
_LEAST, _MOST = 1e-30, 1e30


def _measurable(value: Any) -> bool:
    """Say whether all numbers can be divided by each other, and drawn."""
    if isinstance(value, dict):
        return all(map(_measurable, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_measurable, value))
    if isinstance(value, int | float) and value:
        return _LEAST <= abs(value) <= _MOST
    return True


def guarded(make: Callable[[], _Kind], path: Path, command: str) -> _Kind:
    """Do something with a document that was read, which may hold anything.

    Raises:
        SavedFileError: it does not hold what the command writes.
    """
    try:
        return make()
    except (msgspec.ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise another(path, command, str(error)) from error


def another(path: Path, command: str, reason: str) -> SavedFileError:
    """Return the error of a file that is something else than a command prints."""
    return SavedFileError(
        f"{path} is not what `{command}` prints ({reason}); write it again with that command"
    )
