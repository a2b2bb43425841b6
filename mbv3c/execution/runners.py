"""Who can run a library here."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from mbv3c.bundle import LIBRARY, output_files
from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.execution import worker
from mbv3c.execution.opencl.runtime import DeviceInfo, device_info, load_runtime
from mbv3c.execution.processes import require
from mbv3c.execution.toolbox import EmulatorKit, emulator_kit, native_arch
from mbv3c.targets.isa import require_isa
from mbv3c.targets.table import NATIVE, Target

Tensor = NDArray[np.float32]

_EMULATED_TIMEOUT = 600.0  # seconds per input; a Large takes a few


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel within an inference: what it gets instead, and what is wanted of it.

    Attributes:
        kernel: its name in the library.
        given: what to write over its arguments before it runs, by their positions.
        wanted: the types of the arguments whose memory is wanted after it ran, by position.
    """

    kernel: str
    given: dict[int, NDArray[Any]] = field(default_factory=dict)
    wanted: dict[int, str] = field(default_factory=dict)


# What was wanted of a call: the arguments' memory, flat, by position.
Made = dict[int, NDArray[Any]]

_BUILTIN = "vm."  # what the virtual machine calls beside the kernels


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


@runtime_checkable
class KernelRunner(Runner, Protocol):
    """Also stops before and after every kernel."""

    def run_kernels(self, bundle: Path, x: Tensor, calls: Sequence[KernelCall]) -> list[Made]:
        """Run `model.so` once with other inputs for its kernels; return what was wanted of each.

        Raises:
            Mbv3cError: the library does not load or fails, or calls other kernels than `calls`,
                or with arguments of another size.
        """
        ...


@runtime_checkable
class StreamingRunner(Runner, Protocol):
    """Also runs in a process of its own that takes one input after the other."""

    def stream_command(self, bundle: Path) -> list[str]:
        """Return the command of a process that answers arrays; see `mbv3c.execution.worker`."""
        ...


class _Instrument:
    """What the virtual machine calls before and after everything that it calls."""

    def __init__(self, calls: Sequence[KernelCall]) -> None:
        self._calls = calls
        self.made: list[Made] = []
        self.names: list[str] = []

    def __call__(self, _: Any, name: str, before: bool, __: Any, *arguments: Any) -> None:
        if name.startswith(_BUILTIN):
            return
        if before:
            self.names.append(name)
        at = len(self.names) - 1
        if at >= len(self._calls):
            return
        if before:
            for place, array in self._calls[at].given.items():
                arguments[place].copyfrom(array.reshape(arguments[place].shape))
        else:
            self.made.append(
                {place: arguments[place].numpy().ravel() for place in self._calls[at].wanted}
            )


def _check_names(bundle: Path, names: Sequence[str], calls: Sequence[KernelCall]) -> None:
    if list(names) != [call.kernel for call in calls]:
        raise Mbv3cError(
            f"{bundle / LIBRARY} calls other kernels than its manifest says; compile it again"
        )


@dataclass(frozen=True)
class HostRunner:
    """Runs in this process, on this machine's processor."""

    description: str = "this machine"

    def run(self, bundle: Path, inputs: list[Tensor]) -> list[list[Tensor]]:
        infer = self.opened(bundle)
        return [infer(x) for x in inputs]

    def opened(self, bundle: Path) -> Callable[[Tensor], list[Tensor]]:
        """Load `model.so` of a bundle and return what runs it on one input.

        Raises:
            Mbv3cError: the library does not load; or, from what is returned, fails.
        """
        with self._failing(bundle):
            main = self._machine(bundle)["main"]

        def infer(x: Tensor) -> list[Tensor]:
            with self._failing(bundle):
                return arrays(main(tvm.runtime.tensor(x)))

        return infer

    def stream_command(self, bundle: Path) -> list[str]:
        return [sys.executable, "-m", worker.__name__, worker.CPU, str(bundle)]

    def run_kernels(self, bundle: Path, x: Tensor, calls: Sequence[KernelCall]) -> list[Made]:
        instrument = _Instrument(calls)
        with self._failing(bundle):
            machine = self._machine(bundle)
            machine.set_instrument(instrument)
            machine["main"](tvm.runtime.tensor(x))
        _check_names(bundle, instrument.names, calls)
        return instrument.made

    def _machine(self, bundle: Path) -> relax.VirtualMachine:
        return relax.VirtualMachine(tvm.runtime.load_module(str(bundle / LIBRARY)), tvm.cpu())

    @contextmanager
    def _failing(self, bundle: Path) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError, TypeError) as error:
            raise Mbv3cError(
                f"{bundle / LIBRARY} does not run on this machine: {_reason(error)}"
            ) from error


def arrays(result: Any) -> list[Tensor]:
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
        infer = self.opened(bundle)
        return [infer(x) for x in inputs]

    def opened(self, bundle: Path) -> Callable[[Tensor], list[Tensor]]:
        """Load `model.so` of a bundle and return what runs it on one input.

        Raises:
            Mbv3cError: the library does not load; or, from what is returned, fails.
        """
        with self._failing(bundle):
            library = tvm.runtime.load_module(str(bundle / LIBRARY))
            device = tvm.opencl(0)
            main = relax.VirtualMachine(library, device)["main"]

        def infer(x: Tensor) -> list[Tensor]:
            with self._failing(bundle):
                return arrays(main(tvm.runtime.tensor(x, device)))

        return infer

    def stream_command(self, bundle: Path) -> list[str]:
        return [sys.executable, "-m", worker.__name__, worker.OPENCL, str(bundle)]

    @contextmanager
    def _failing(self, bundle: Path) -> Iterator[None]:
        try:
            yield
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
            self._start(bundle, (), [path for pair in files for path in pair])
            written = set(folder.iterdir())
            return [
                [np.load(path) for path in takewhile(written.__contains__, output_files(first))]
                for _, first in files
            ]

    def run_kernels(self, bundle: Path, x: Tensor, calls: Sequence[KernelCall]) -> list[Made]:
        with tempfile.TemporaryDirectory(prefix="mbv3c-run-") as name:
            folder = Path(name)
            np.save(folder / "in.npy", np.ascontiguousarray(x))
            for at, call in enumerate(calls):
                for place, array in call.given.items():
                    np.ascontiguousarray(array).tofile(folder / f"{at}.{place}.in")
                for place in call.wanted:
                    (folder / f"{at}.{place}.out").touch()
            self._start(bundle, ("--kernels", name), [folder / "in.npy", folder / "out.npy"])
            _check_names(bundle, (folder / "names").read_text().splitlines(), calls)
            return [
                {
                    place: np.fromfile(folder / f"{at}.{place}.out", dtype)
                    for place, dtype in call.wanted.items()
                }
                for at, call in enumerate(calls)
            ]

    def stream_command(self, bundle: Path) -> list[str]:
        return [*self.kit.command(self.cpu), "--stream", str(bundle)]

    def _start(self, bundle: Path, options: Sequence[str], files: Sequence[Path]) -> None:
        require(
            [*self.kit.command(self.cpu), *options, str(bundle), *map(str, files)],
            doing=f"running {bundle.name} on the {self.description}",
            remedy="`mbv3c doctor` checks the emulator",
            timeout=_EMULATED_TIMEOUT * len(files) / 2,
        )


def runner_for(target: Target, precision: str = "fp32") -> Runner | None:
    """Return what can run a target's libraries of a precision here, or None.

    A library of this machine's own architecture runs in this process; one for an emulated
    processor runs under qemu if the kit has been fetched. That of a GPU runs on an OpenCL device
    if its host code is for this machine.

    Raises:
        ToolError: this machine has no OpenCL device for a GPU's library, or lacks instructions.
    """
    if target.gpu:
        return open_opencl(precision) if target.arch in (NATIVE, native_arch()) else None
    if target.arch in (NATIVE, native_arch()):
        require_isa(target)
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
