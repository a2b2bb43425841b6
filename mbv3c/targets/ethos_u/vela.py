"""Build for an Ethos-U: vela makes a command stream of a TOSA file and estimates its cost."""

import csv
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.scratch import scratch_folder
from mbv3c.targets.ethos_u.devices import Knobs, NpuTarget, check_knobs
from mbv3c.targets.ethos_u.memories import VELA_INI

VELA_CONFIG = "Arm/vela.ini"
ESTIMATED = "estimated by vela"
_KIB = 1024
_NETWORK = "model"
TOSA_FILE = f"{_NETWORK}.tosa"
_LONGEST = 900  # seconds
_LAYER_KEYS = ("name", "operation", "cycles", "macs")


@dataclass(frozen=True)
class LayerCost:
    """What vela estimates for an operation.

    Attributes:
        name: name of the operation's result, after the first ONNX node that it computes.
        operation: vela's name of the operation.
        on_npu: whether the NPU computes the operation; vela leaves all others to the CPU.
        cycles: estimated cycles; 0 if the operation is fused into another.
        macs: multiply-accumulates.
    """

    name: str
    operation: str
    on_npu: bool
    cycles: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """What vela estimates for a network, in the memories of the chosen system.

    Attributes:
        cycles: cycles of the accelerator for an inference.
        milliseconds: time of these cycles at the clock of the system.
        sram_bytes: bytes of tensors in SRAM.
        dram_bytes: bytes of tensors in DRAM.
        flash_bytes: read-only bytes: command stream, weights, biases and tables.
        macs: multiply-accumulates of an inference.
        layers: cost of each operation, in the order of the network.
    """

    cycles: int
    milliseconds: float
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    macs: int
    layers: tuple[LayerCost, ...]

    @property
    def cpu_operators(self) -> int:
        """How many operations vela leaves to the CPU."""
        return sum(not layer.on_npu for layer in self.layers)


@dataclass(frozen=True)
class VelaOutput:
    """What vela makes of a network.

    Attributes:
        tflite: the network as a TFLite file, whose custom operator holds the command stream.
        raw: command stream and constants as arrays, in .npz.
        cost: vela's estimates.
        feasible: whether the network keeps its budget of SRAM, which vela exceeds in silence.
    """

    tflite: bytes
    raw: bytes
    cost: Cost
    feasible: bool


def build(
    tosa: bytes, target: NpuTarget, knobs: Knobs, sram_bytes: int | None = None
) -> VelaOutput:
    """Compile a TOSA file.

    Args:
        tosa: bytes of the file.
        target: the device.
        knobs: choices for vela.
        sram_bytes: budget of SRAM that vela aims at; None for the SRAM of the device.

    Raises:
        UsageError: a knob has a value that does not suit the device.
        ToolError: vela failed.
    """
    with _estimated(tosa, target, knobs, sram_bytes) as (folder, command, cost):
        _vela([*command, "--output-format", "raw"])
        return VelaOutput(
            (folder / f"{_NETWORK}_vela.tflite").read_bytes(),
            (folder / f"{_NETWORK}_vela.npz").read_bytes(),
            cost,
            _fits(cost, knobs, sram_bytes),
        )


def estimate(
    tosa: bytes, target: NpuTarget, knobs: Knobs, sram_bytes: int | None = None
) -> tuple[Cost, bool]:
    """Return what a choice costs by vela's estimate, and whether it keeps its budget of SRAM.

    Raises:
        Mbv3cError: as `build` says.
    """
    with _estimated(tosa, target, knobs, sram_bytes) as (_, _, cost):
        return cost, _fits(cost, knobs, sram_bytes)


@contextmanager
def _estimated(
    tosa: bytes, target: NpuTarget, knobs: Knobs, sram_bytes: int | None
) -> Iterator[tuple[Path, list[str], Cost]]:
    """Compile a TOSA file in a folder; yield the folder, the arguments of vela and the cost."""
    check_knobs(knobs, target)
    with scratch_folder("vela") as folder:
        network = folder / TOSA_FILE
        network.write_bytes(tosa)
        config = VELA_CONFIG
        if target.vela_config is not None:
            (folder / VELA_INI).write_text(target.vela_config)
            config = str(folder / VELA_INI)
        command = [
            str(network),
            *arguments(target, knobs, sram_bytes, config),
            "--output-dir",
            str(folder),
        ]
        _vela([*command, "--verbose-performance"])
        yield folder, command, read_cost(folder)


def cost_json(cost: Cost) -> dict[str, Any]:
    """Return vela's estimates in the documented form."""
    document = msgspec.to_builtins(cost)
    layers = document.pop("layers")
    return {
        "figures": ESTIMATED,
        **document,
        "cpu_operators": cost.cpu_operators,
        "layers": [{key: layer[key] for key in _LAYER_KEYS} for layer in layers],
    }


def check_budget(cost: Cost, least: Cost, target: NpuTarget, sram_bytes: int) -> None:
    """Refuse a network that does not keep the user's budget of SRAM.

    Raises:
        Mbv3cError: the network needs more; the message says how much it needs at least.
    """
    if cost.sram_bytes <= sram_bytes:
        return
    raise Mbv3cError(
        f"the network needs {_kib(cost.sram_bytes)} of SRAM on {target.name} and --sram allows "
        f"{_kib(sram_bytes)}; the least that vela found is {_kib(least.sram_bytes)}, with "
        "--optimise size; lower --resolution or --width, or raise the budget"
    )


def _kib(size: int) -> str:
    return f"{size / _KIB:.0f} KiB"


def _fits(cost: Cost, knobs: Knobs, sram_bytes: int | None) -> bool:
    limits = [limit for limit in (sram_bytes, knobs.arena_cache_size) if limit is not None]
    return cost.sram_bytes <= min(limits, default=cost.sram_bytes)


def arguments(
    target: NpuTarget, knobs: Knobs, sram_bytes: int | None, config: str = VELA_CONFIG
) -> list[str]:
    """Return vela's options for a choice, without the paths of files."""
    arena = knobs.arena_cache_size or sram_bytes
    options = ["--accelerator-config", target.device, "--config", config]
    options += ["--system-config", knobs.system_config or target.system_config]
    options += ["--memory-mode", knobs.memory_mode or target.memory_mode]
    options += ["--optimise", knobs.optimise, "--cop-format", "COP1"]
    return options + (["--arena-cache-size", str(arena)] if arena else [])


def _vela(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "ethosu.vela", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"vela did not finish within {_LONGEST} s") from error
    if done.returncode != 0:
        printed = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        raise ToolError(f"vela failed with status {done.returncode}: {printed[-1]}")


def read_cost(folder: Path) -> Cost:
    """Read what vela has written of a network's costs into a folder."""
    (summary_file,) = folder.glob(f"{_NETWORK}_summary_*.csv")
    summary = _rows(summary_file)[0]
    layers = tuple(
        LayerCost(
            name=row["Name"],
            operation=row["NNG Operator"],
            on_npu=row["Target"] == "NPU",
            cycles=int(row["Op Cycles"]),
            macs=int(row["MAC Count"]),
        )
        for row in _rows(folder / f"{_NETWORK}_per-layer.csv")
    )
    flash = sum(float(summary[f"{kind}_flash_memory_used"]) for kind in ("on_chip", "off_chip"))
    return Cost(
        cycles=int(summary["cycles_total"]),
        milliseconds=float(summary["inference_time"]) * 1e3,
        sram_bytes=round(float(summary["sram_memory_used"]) * _KIB),
        dram_bytes=round(float(summary["dram_memory_used"]) * _KIB),
        flash_bytes=round(flash * _KIB),
        macs=int(summary["nn_macs"]),
        layers=layers,
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
