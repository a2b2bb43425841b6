"""Run a GPU's library on this machine's OpenCL device."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm import relax

from mbv3c.bundle import LIBRARY
from mbv3c.errors import Mbv3cError
from mbv3c.execution.opencl.runtime import DeviceInfo, device_info, load_runtime
from mbv3c.execution.runners import Tensor, _reason, arrays
from mbv3c.targets import serve as worker


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
