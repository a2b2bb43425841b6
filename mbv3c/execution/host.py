"""Run a library in this process, on this machine's processor."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm import relax

from mbv3c.bundle import LIBRARY
from mbv3c.errors import Mbv3cError
from mbv3c.execution.runners import (
    KernelCall,
    Made,
    Tensor,
    _check_names,
    _Instrument,
    _reason,
    arrays,
)
from mbv3c.targets import serve as worker


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
