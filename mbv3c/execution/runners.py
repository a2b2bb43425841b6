"""Who can run a library here."""

import tempfile
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from mbv3c.bundle import LIBRARY, output_files
from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.execution.opencl.runtime import DeviceInfo, device_info, load_runtime
from mbv3c.execution.processes import require
from mbv3c.execution.toolbox import EmulatorKit, emulator_kit, native_arch
from mbv3c.targets.table import NATIVE, Target

Tensor = NDArray[np.float32]

_EMULATED_TIMEOUT = 600.0  # seconds per input; a Large takes a few


class Runner(Protocol):
    """Runs the library of a bundle.

    Attributes:
        description: what executes it, as reports name it.
    """

    @property
    def description(self) -> str: ...

    def run(self, bundle: Path, inputs: list[Tensor]) -> list[list[Tensor]]:
        """Run `model.so` of a bundle once per input and return the outputs of each.

        Raises:
            Mbv3cError: the library does not load or fails.
        """
        ...


@dataclass(frozen=True)
class HostRunner:
    """Runs in this process, on this machine's processor."""

    description: str = "this machine"

    def run(self, bundle: Path, inputs: list[Tensor]) -> list[list[Tensor]]:
        try:
            library = tvm.runtime.load_module(str(bundle / LIBRARY))
            main = relax.VirtualMachine(library, tvm.cpu())["main"]
            return [_arrays(main(tvm.runtime.tensor(x))) for x in inputs]
        except (RuntimeError, ValueError, TypeError) as error:
            raise Mbv3cError(
                f"{bundle / LIBRARY} does not run on this machine: {_reason(error)}"
            ) from error


def _arrays(result: Any) -> list[Tensor]:
    """Return the outputs of an inference: one comes as a tensor, several as an array of them."""
    several = [result] if isinstance(result, tvm.runtime.Tensor) else result
    return [output.numpy() for output in several]


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[-1]


@dataclass(frozen=True)
class OpenClRunner:
    """Runs the host part in this process, and the kernels on this machine's OpenCL device.

    Attributes:
        device: the device, as its driver names it.
        halves: whether the kernels compute with half precision, which the device may lack.
    """

    device: DeviceInfo
    halves: bool = False

    @property
    def description(self) -> str:
        kind = "" if self.device.is_gpu else ", a CPU"
        emulated = ", half precision emulated" if self.halves and not self.device.has_half else ""
        return f"{self.device.name} ({self.device.platform}{kind}{emulated})"

    def run(self, bundle: Path, inputs: list[Tensor]) -> list[list[Tensor]]:
        try:
            library = tvm.runtime.load_module(str(bundle / LIBRARY))
            device = tvm.opencl(0)
            main = relax.VirtualMachine(library, device)["main"]
            return [_arrays(main(tvm.runtime.tensor(x, device))) for x in inputs]
        except (RuntimeError, ValueError, TypeError) as error:
            raise Mbv3cError(
                f"{bundle / LIBRARY} does not run on {self.description}: {_reason(error)}"
            ) from error


def open_opencl(precision: str = "fp32") -> OpenClRunner:
    """Load the OpenCL runtime and open its device, for kernels of a precision.

    Raises:
        ToolError: there is none; the message says what to install.
    """
    load_runtime()
    return OpenClRunner(device_info(), precision == "fp16")


@dataclass(frozen=True)
class EmulatedRunner:
    """Runs under qemu-user through the program that a board uses."""

    kit: EmulatorKit
    cpu: str

    @property
    def description(self) -> str:
        return f"emulated {self.cpu}"

    def run(self, bundle: Path, inputs: list[Tensor]) -> list[list[Tensor]]:
        with tempfile.TemporaryDirectory(prefix="mbv3c-run-") as name:
            folder = Path(name)
            files = [(folder / f"in{i}.npy", folder / f"out{i}.npy") for i in range(len(inputs))]
            for x, (source, _) in zip(inputs, files, strict=True):
                np.save(source, np.ascontiguousarray(x))
            command = [*self.kit.command(self.cpu), str(bundle)]
            require(
                [*command, *(str(path) for pair in files for path in pair)],
                doing=f"running {bundle.name} on the {self.description}",
                remedy="`mbv3c doctor` checks the emulator",
                timeout=_EMULATED_TIMEOUT * len(inputs),
            )
            written = set(folder.iterdir())
            return [
                [np.load(path) for path in takewhile(written.__contains__, output_files(first))]
                for _, first in files
            ]


def runner_for(target: Target, precision: str = "fp32") -> Runner | None:
    """Return what can run a target's libraries of a precision here, or None.

    A library of this machine's own architecture runs in this process; one for an emulated
    processor runs under qemu if the kit has been fetched. That of a GPU runs on an OpenCL device
    if its host code is for this machine.

    Raises:
        ToolError: this machine has no OpenCL device for a GPU's library.
    """
    if target.gpu:
        return open_opencl(precision) if target.arch in (NATIVE, native_arch()) else None
    if target.arch in (NATIVE, native_arch()):
        return HostRunner()
    kit = emulator_kit()
    if kit is not None and target.emulated_as:
        return EmulatedRunner(kit, target.emulated_as)
    return None


def require_runner(target: Target, precision: str = "fp32") -> Runner:
    """Return what can run a target's libraries of a precision here.

    Raises:
        ToolError: nothing can.
    """
    runner = runner_for(target, precision)
    if runner is None:
        raise ToolError(
            f"nothing here runs a library for {target.name}: "
            + (
                f"its host code is for {target.arch}; `mbv3c verify` runs the same kernels"
                if target.gpu
                else "fetch the emulator with `mbv3c doctor --fetch`"
            )
        )
    return runner
