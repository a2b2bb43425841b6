"""Run a library in this process, on this machine's processor or another of its devices."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from mbv3c.bundle import LIBRARY, entry_for
from mbv3c.errors import Mbv3cError
from mbv3c.execution.elf import check_whole
from mbv3c.execution.opencl.runtime import device_info, load_runtime
from mbv3c.execution.runners import Infer, KernelCall, Made, check_names, server_command
from mbv3c.execution.watching import run_watched, set_input
from mbv3c.feeds import Array, Feed, arrays_of
from mbv3c.precision import FP16, FP32, Precision
from mbv3c.scratch import scratch_folder
from mbv3c.steps import step

_BUILTIN = "vm."  # what the virtual machine calls beside the kernels


@dataclass(frozen=True)
class LibraryRunner:
    """Runs the host part of a library in this process, and its kernels on a device.

    It stops before and after every kernel.

    Attributes:
        description: name of the device, for reports.
        device: TVM's name of the device, such as "cpu" or "opencl"; its runtime is loaded.
        reopen: function of a module that opens a bundle for this device in another process.
    """

    description: str
    device: str
    reopen: Callable[[Path], Infer]

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        infer = self.opened(bundle)
        return [infer(x) for x in inputs]

    def opened(self, bundle: Path) -> Infer:
        """Load `model.so` of a bundle and return what runs it on one input.

        Threads may call that at the same time. On the processor each of them gets a virtual
        machine of its own, and they share the library and its weights; on other devices, which
        compute in order anyway, one waits for the other.

        Raises:
            Mbv3cError: the library does not load, or, when what is returned is called, fails.
        """
        with self._failing(bundle):
            device = tvm.device(self.device)
            machines = _Machines(load_library(bundle / LIBRARY), device)

        def infer(x: Feed) -> list[Array]:
            entry = entry_for(bundle, x)
            with self._failing(bundle), machines.mine() as machine:
                return arrays(machine[entry](*tensors(x, device)))

        return infer

    def run_kernels(self, bundle: Path, x: Feed, calls: Sequence[KernelCall]) -> list[Made]:
        instrument, entry = _Instrument(calls), entry_for(bundle, x)
        with self._failing(bundle):
            machine = self._machine(bundle)
            run_watched(machine, entry, instrument, tensors(x, tvm.device(self.device)))
        check_names(bundle, instrument.names, calls)
        return instrument.made

    def stream_command(self, bundle: Path) -> list[str]:
        return server_command(self.reopen, bundle)

    def _machine(self, bundle: Path) -> relax.VirtualMachine:
        return relax.VirtualMachine(load_library(bundle / LIBRARY), tvm.device(self.device))

    @contextmanager
    def _failing(self, bundle: Path) -> Iterator[None]:
        try:
            with step(f"running {bundle / LIBRARY}", "the bundle's library"):
                yield
        except (RuntimeError, ValueError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [repr(error)])[-1]
            raise Mbv3cError(
                f"{bundle / LIBRARY} does not run on {self.description}: {reason}"
            ) from error


class _Machines:
    """Virtual machines of a library for threads: one of them must not run in two at once."""

    def __init__(self, library: tvm.runtime.Module, device: Any) -> None:
        self._library, self._device = library, device
        self._free = [relax.VirtualMachine(library, device)]  # fails here, if it does
        self._own, self._lock = threading.local(), threading.Lock()

    @contextmanager
    def mine(self) -> Iterator[relax.VirtualMachine]:
        if self._device.type != "cpu":
            with self._lock:
                yield self._free[0]
            return
        if not hasattr(self._own, "machine"):
            with self._lock:
                made = not self._free and relax.VirtualMachine(self._library, self._device)
                self._own.machine = made or self._free.pop()
        yield self._own.machine


def load_library(path: Path) -> tvm.runtime.Module:
    """Load a library, also where another one was loaded from the same path before.

    dlopen(3) takes a path that it knows for the library that it has loaded from there, whatever
    the file is now. So each load has a path of its own, which `tvm.runtime.load_module` would
    resolve. It would also keep every library, with its weights, until the process ends; here one
    goes with the last of its machines and functions.

    Raises:
        ToolError: the file is no whole library for a Linux machine; dlopen(3) would end the
            process where it is cut short.
    """
    check_whole(path, "library")
    with scratch_folder("load") as folder:
        link = folder / path.name
        link.symlink_to(path.resolve())
        return tvm_ffi.load_module(str(link), keep_module_alive=False)


def open_here(bundle: Path) -> Infer:
    """Open a bundle for this machine's processor."""
    return HostRunner().opened(bundle)


@dataclass(frozen=True)
class HostRunner(LibraryRunner):
    """Runs in this process, on this machine's processor."""

    description: str = "this machine"
    device: str = "cpu"
    reopen: Callable[[Path], Infer] = open_here


def tensors(x: Feed, device: Any = None) -> list[Any]:
    """Return the arrays of an input as TVM's tensors on a device, by default the processor."""
    return [tvm.runtime.tensor(array, device or tvm.cpu()) for array in arrays_of(x)]


def arrays(result: Any) -> list[Array]:
    """Return the outputs of an inference: one comes as a tensor, several as an array of them."""
    several = [result] if isinstance(result, tvm.runtime.Tensor) else result
    return [output.numpy() for output in several]


def infer_stateful(
    machine: Any, device: Any, entry: str, x: Feed, instrument: Any = None
) -> list[Array]:
    """Run one inference as a device can: its input is sent, and its outputs are fetched."""
    name = set_input(machine, entry, tensors(x, device), instrument)
    machine.invoke_stateful(name)
    return arrays(machine.get_outputs(name))


class _Instrument:
    """What a library's driver calls around each kernel, or the virtual machine around any call."""

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


def open_opencl(precision: Precision = FP32) -> LibraryRunner:
    """Load the OpenCL runtime and open its device, for kernels of a precision.

    Raises:
        ToolError: there is none; the message says what to install.
    """
    load_runtime()
    device = device_info()
    kind = "" if device.is_gpu else ", a CPU"
    emulated = ", half precision emulated" if precision == FP16 and not device.has_half else ""
    description = f"{device.name} ({device.platform}{kind}{emulated})"
    return LibraryRunner(description, "opencl", open_on_device)


def open_on_device(bundle: Path) -> Infer:
    """Open a bundle for this machine's OpenCL device.

    Raises:
        ToolError: there is none; the message says what to install.
    """
    return open_opencl().opened(bundle)
