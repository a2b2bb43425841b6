"""Measured choices for `compile`: from the user's own database, or those that are shipped."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from mbv3c.lowering import gpu_kernels, kernels
from mbv3c.lowering.plan import TUNED, Plan
from mbv3c.targets import cpu
from mbv3c.targets.table import NATIVE, Target
from mbv3c.tuning.database import Context, Database, Record, best, folder_for
from mbv3c.tuning.tasks import key_of

OWN = Path("tune_logs")


@dataclass(frozen=True)
class Recorded:
    """Choices that a bundle's manifest lists."""

    knobs: dict[str, dict[str, Any]]

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs of a kernel of the bundle."""
        return self.knobs.get(key_of(kind, shape))


def recorded(tuned: Sequence[dict[str, Any]]) -> Recorded:
    """Return the choices that a bundle's manifest lists under `tuned_kernels`."""
    return Recorded({one["key"]: one["knobs"] for one in tuned})


def tuned_kernels(plan: Plan) -> list[dict[str, Any]]:
    """Return what a manifest lists under `tuned_kernels`: keys and knobs, each kernel once."""
    found = {
        key_of(step.kind, step.shape): step.knobs for step in plan.steps if step.origin == TUNED
    }
    return [{"key": key, "knobs": knobs} for key, knobs in found.items()]


@dataclass
class Measured:
    """The best choices of some records.

    Attributes:
        records: by key.
        warnings: why databases that are there were not used.
    """

    records: dict[str, Record] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs that were measured to be best for a kernel."""
        record = self.records.get(key_of(kind, shape))
        return record.knobs if record is not None else None


def device_of(target: Target) -> str:
    """Return the `FAMILY:DEVICE` under which measurements are kept; this machine by its core."""
    if target.device != NATIVE:
        return target.name.removesuffix("-android")
    return f"{target.family}:{cpu.resolve(target).cpu}"


def context_of(target: Target, unit: str) -> Context:
    """Return what new records for a target have in common."""
    version = gpu_kernels.VERSION if target.gpu else kernels.VERSION
    return Context(device_of(target), version, metadata.version("apache-tvm"), unit)


def shipped() -> Path:
    """Return the folder of the databases that come with mbv3c."""
    return Path(str(resources.files("mbv3c") / "tune_logs"))


def measured(target: Target, roots: Sequence[Path]) -> Measured:
    """Return the best choices for a target in the databases under some folders, best of all.

    A database of other kernels or of another TVM is left out, with a warning.

    Raises:
        DatabaseError: one is damaged.
    """
    found = Measured()
    records: list[Record] = []
    for root in roots:
        database = Database(folder_for(root, device_of(target)))
        known = database.context()
        if known is None:
            continue
        if known != context_of(target, known.unit):
            found.warnings.append(
                f"{database.folder} was measured with kernels {known.kernels} and apache-tvm "
                f"{known.tvm} for {known.target}: not used; tune again"
            )
            continue
        records += database.records()
    found.records = best(records)
    return found
