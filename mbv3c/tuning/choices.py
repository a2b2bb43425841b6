"""Measured choices for `compile`: from the user's own database, or those that are shipped."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from mbv3c.job import NATIVE, Target
from mbv3c.lowering.kernels import Choices
from mbv3c.lowering.plan import TRANSFERRED, TUNED, Plan
from mbv3c.targets.cpu import kernels as cpu_kernels
from mbv3c.targets.cpu import library as cpu
from mbv3c.targets.cpu.isa import portable
from mbv3c.targets.opencl import kernels as gpu_kernels
from mbv3c.tuning.database import Context, Database, Record, best, folder_for
from mbv3c.tuning.tasks import key_of
from mbv3c.tuning.transfer import Neighbours, neighbours

OWN = Path("tune_logs")


@dataclass(frozen=True)
class Recorded(Choices):
    """Choices that a bundle's manifest lists, by key."""

    tuned: dict[str, dict[str, Any]]
    transferred: dict[str, dict[str, Any]]

    @property
    def knobs(self) -> dict[str, dict[str, Any]]:
        """All of them."""
        return self.tuned | self.transferred

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs of a kernel of the bundle, if they were measured for it."""
        return self.tuned.get(key_of(kind, shape))

    def near(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs of a kernel of the bundle, if they are a similar one's."""
        return self.transferred.get(key_of(kind, shape))


def recorded(listed: Sequence[dict[str, Any]]) -> Recorded:
    """Return the choices that a bundle's manifest lists under `tuned_kernels`."""
    tuned, transferred = (
        {one["key"]: one["knobs"] for one in listed if one.get("origin", TUNED) == origin}
        for origin in (TUNED, TRANSFERRED)
    )
    return Recorded(tuned, transferred)


def tuned_kernels(plan: Plan) -> list[dict[str, Any]]:
    """Return what a manifest lists under `tuned_kernels`: of each kernel key, knobs and origin."""
    found = {
        key_of(step.kind, step.shape): (step.knobs, step.origin)
        for step in plan.steps
        if step.origin in (TUNED, TRANSFERRED)
    }
    return [
        {"key": key, "knobs": knobs, "origin": origin} for key, (knobs, origin) in found.items()
    ]


@dataclass
class MeasuredChoices(Choices):
    """The best choices of some records.

    Attributes:
        records: by key.
        neighbours: what is known for kernels that are not among them.
        warnings: why databases that are there were not used.
        notes: where choices come from that were measured elsewhere.
    """

    records: dict[str, Record] = field(default_factory=dict)
    neighbours: Neighbours = field(default_factory=Neighbours)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs that were measured to be best for a kernel."""
        record = self.records.get(key_of(kind, shape))
        return record.knobs if record is not None else None

    def near(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs that were measured to be best for the most similar kernel."""
        record = self.neighbours.nearest(key_of(kind, shape))
        return record.knobs if record is not None else None


def best_choices(records: Sequence[Record]) -> MeasuredChoices:
    """Return the best choices of some records, and of those what serves similar kernels."""
    return MeasuredChoices(best(records), neighbours(records))


def device_of(target: Target) -> str:
    """Return the `FAMILY:DEVICE` under which measurements are kept; this machine by its core."""
    if target.device != NATIVE:
        return target.name.removesuffix("-android")
    return f"{target.family}:{cpu.resolve(target).cpu}"


def context_of(target: Target, unit: str) -> Context:
    """Return what new records for a target have in common."""
    version = gpu_kernels.VERSION if target.gpu else cpu_kernels.VERSION
    return Context(device_of(target), version, metadata.version("apache-tvm"), unit)


def shipped() -> Path:
    """Return the folder of the databases that come with mbv3c."""
    return Path(str(resources.files("mbv3c") / "tune_logs"))


def measured(target: Target, roots: Sequence[Path], new: Sequence[Record] = ()) -> MeasuredChoices:
    """Return the best choices for a target in the databases under some folders.

    Records that are `new` count as if they were in the first folder.

    A kernel that was measured in an earlier folder is not looked for in those behind it: one's own
    measurements come before what is shipped, in whatever unit that is.

    For this machine, kernels that were not measured on its very core are as they were on others
    with the same instructions, by the target `isa.portable` gives. A database of other kernels or
    of another TVM is left out, with a warning.

    Raises:
        DatabaseError: one is damaged.
    """
    warnings: list[str] = []
    records = [*new, *_records(target, roots, warnings)]
    notes = []
    wider = portable(target)
    if wider is not None:
        own = {record.key for record in records}
        others = [one for one in _records(wider, roots, warnings) if one.key not in own]
        if best(others):
            notes.append(
                f"{len(best(others))} kernels tuned on another processor with {wider.isa}"
            )
        records += others
    found = best_choices(records)
    found.warnings, found.notes = warnings, notes
    return found


def _records(target: Target, roots: Sequence[Path], warnings: list[str]) -> list[Record]:
    """Return what was measured for a target, and say which databases cannot be used."""
    records: list[Record] = []
    for root in roots:
        database = Database(folder_for(root, device_of(target)))
        known = database.context()
        if known is None:
            continue
        if known != context_of(target, known.unit):
            warnings.append(
                f"{database.folder} was measured with kernels {known.kernels} and apache-tvm "
                f"{known.tvm} for {known.target}: not used; tune again"
            )
            continue
        before = {record.key for record in records}
        records += [record for record in database.records() if record.key not in before]
    return records
