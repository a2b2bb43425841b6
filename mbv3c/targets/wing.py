"""What is known of a backend without importing it: its devices, its options, its tools.

The backend itself, behind `load`, imports TVM or vela; a wing imports neither, so that devices,
options and missing tools are listed at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mbv3c.errors import UsageError
from mbv3c.nearest import among
from mbv3c.precision import Precision
from mbv3c.progress import Progress
from mbv3c.target import Target

if TYPE_CHECKING:
    from mbv3c.targets.backend import Backend

TARGET_HEADER = f"{'target':<38}{'verified here on':<21}example"


@dataclass(frozen=True)
class Option:
    """An option of `compile` that a backend adds.

    Attributes:
        name: the name in Python; `--like-this` on the command line.
        type: the type of the value; bool makes a flag.
        help: what the command line says about it.
        between: the least and the largest value of a number; None for any.
    """

    name: str
    type: type
    help: str
    between: tuple[int, int] | None = None

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    def check(self, value: Any) -> None:
        """Make sure that a value is possible on some device.

        Raises:
            UsageError: it is not.
        """
        if self.between is None or value is None:
            return
        least, most = self.between
        if not least <= value <= most:
            raise UsageError(f"{self.flag} {value} is not possible; choose {least} to {most}")


SRAM = Option("sram", int, "For npu and mcu, fit into so many KiB of SRAM, or fail.")
# What all backends that write C take.
PREFIX = Option(
    "prefix", str, "Begin names in C with this.  [default: the model's; npu: mbv3c_model]"
)


@dataclass(frozen=True)
class TargetTable:
    """The targets of a backend, as `mbv3c targets` lists them.

    Attributes:
        header: the heads of the columns; tables with equal heads are printed as one.
        line: function that gives the text of a target, behind its name.
        row: function that gives the documented JSON form of a target, without `name` and
            `default`.
        key: the key of the rows in the JSON document.
        wide: width of the column of names.
    """

    header: str = TARGET_HEADER
    line: Callable[[Any], str] = lambda target: ""
    row: Callable[[Any], dict[str, Any]] = lambda target: {}
    key: str = "targets"
    wide: int = 38


@dataclass(frozen=True)
class Requirement:
    """One row of `mbv3c doctor`.

    Attributes:
        name: what was looked for.
        ok: whether it is there and fits.
        detail: what was found.
        remedy: what to do when it is not ok; empty otherwise.
        optional: whether only some targets need it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Doctor:
    """What looks for everything that a backend stands on, and fetches it.

    Attributes:
        diagnose: says for every part whether it is here; imports none of them.
        fetches: fetches parts, by the names that `mbv3c doctor --fetch` takes.
    """

    diagnose: Callable[[], Sequence[Requirement]] = tuple
    fetches: Mapping[str, Callable[[Progress], object]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wing:
    """What is known of a backend without importing it.

    Attributes:
        module: the module whose `BACKEND` is the backend.
        others: the modules of backends for some of the devices alone, by the device's full name.
        targets: every device, in the order in which `mbv3c targets` lists them.
        defaults: the default device of every family.
        precisions: the precisions in which the devices may compute, the default one first.
        table: how the devices are listed.
        options: the options of `compile` that only this backend takes.
        refusals: why options of other backends make no sense here, by the option's name, with
            `{target}` for the target's name.
        closed: devices that users ask for and that cannot be had, with the reason.
        doctor_module: the module whose `DOCTOR` looks for the backend's tools; empty without any.
    """

    module: str
    targets: Sequence[Target]
    defaults: Mapping[str, str]
    precisions: Sequence[Precision]
    table: TargetTable = field(default_factory=TargetTable)
    options: Sequence[Option] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    closed: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    doctor_module: str = ""

    def find(
        self, family: str, device: str, others: Callable[[], Mapping[str, str]] = dict
    ) -> Target:
        """Look a device up; without a name, the family's default one.

        Args:
            family: the family.
            device: the device's name.
            others: function that gives the names of other families and of boards, and what to
                propose for each.

        Raises:
            UsageError: there is no such device; the nearest ones are named.
        """
        devices = {entry.device: entry for entry in self.targets if entry.family == family}
        wanted = device or self.defaults[family]
        if wanted in devices:
            return devices[wanted]
        said = f"unknown device {wanted!r} of {family}"
        if wanted in self.closed:
            said = f"there is no {family}:{wanted}: {self.closed[wanted]}"
        own = {name: f"{family}:{name}" for name in devices}
        raise UsageError(f"{said}{among(wanted, devices, own | dict(others()), 'mbv3c targets')}")

    def is_default(self, target: Target) -> bool:
        """Say whether a device is its family's default one."""
        return self.defaults[target.family] == target.device

    def load(self, target: Target) -> "Backend":
        """Import the backend of a device."""
        backend: Backend = import_module(self.others.get(target.name, self.module)).BACKEND
        return backend

    def doctor(self) -> Doctor:
        """Import what looks for the backend's tools."""
        if not self.doctor_module:
            return Doctor()
        doctor: Doctor = import_module(self.doctor_module).DOCTOR
        return doctor
