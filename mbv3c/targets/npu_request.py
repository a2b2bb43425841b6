"""What a user asks of `compile --target npu`, checked and put into the values it stands for."""

from dataclasses import dataclass
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.targets.npu_knobs import OPTIMISE, Knobs, check_knobs
from mbv3c.targets.npu_table import FAMILY, NpuTarget, find_npu

GIVEN = (
    "optimise",
    "sram",
    "float_io",
    "mean",
    "memory_mode",
    "system_config",
)
_PRECISION = "int8"
_KIB = 1024


@dataclass(frozen=True)
class Request:
    """Options as they were given; None is nothing given.

    Attributes:
        target: `FAMILY[:DEVICE]`.
        precision: int8, or nothing.
        cores, keep_float: nothing.
        given: the options of `GIVEN`.
    """

    target: str
    precision: str | None
    cores: int | None
    keep_float: str | None
    given: dict[str, Any]

    def check_no_npu(self) -> None:
        """Refuse options of the NPU for another target.

        Raises:
            UsageError: there are some.
        """
        given = [_option(name) for name, value in self.given.items() if value is not None]
        if given:
            raise UsageError(f"{', '.join(given)} are for --target {FAMILY} only")

    def read(self, *, compare_size: bool) -> tuple[NpuTarget, dict[str, Any]]:
        """Return the device and the fields of `npu_knobs.NpuOptions`.

        Raises:
            UsageError: something is not for an NPU, or not for this one.
        """
        target = find_npu(self.target)
        if self.precision not in (None, _PRECISION):
            raise UsageError(
                f"{target.name} computes in {_PRECISION} only; leave --precision {self.precision} "
                "out"
            )
        if self.cores is not None:
            raise UsageError(f"--cores is for CPUs; {target.name} has one core for an inference")
        if self.keep_float is not None:
            raise UsageError(f"--keep-float is for CPUs; {target.name} computes no fp32")
        names = {value.lower(): value for value in OPTIMISE}
        wanted = self.given["optimise"] or "performance"
        if wanted.lower() not in names:
            raise UsageError(f"--optimise {wanted!r} is unknown; known: {', '.join(names)}")
        chosen = {key: self.given[key] for key in ("mean", "memory_mode", "system_config")}
        knobs = Knobs(
            optimise=names[wanted.lower()],
            **{key: value for key, value in chosen.items() if value is not None},
        )
        check_knobs(knobs, target)
        sram = self.given["sram"]
        if sram is not None and sram < 1:
            raise UsageError(f"--sram {sram} makes no sense; give a number of KiB, such as 512")
        return target, {
            "knobs": knobs,
            "sram_bytes": None if sram is None else sram * _KIB,
            "float_io": bool(self.given["float_io"]),
            "compare_size": compare_size,
            "pinned": tuple(key for key in ("optimise", "mean") if self.given[key] is not None),
        }


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
