"""Talk to a device, in a process that can be ended whenever the device hangs.

    python -m mbv3c.execution.device.client REQUEST.json

TVM's client waits for ever for a device that says nothing, and cannot be interrupted. So every
step sets an alarm whose signal ends this process; the file `step` says which one it was. What the
request asked for goes to `result.json` beside it: the machine, the arrays' files, or an error.
"""

import json
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.timing import time_models
from mbv3c.execution.device.tracker import list_devices
from mbv3c.execution.processes import end_with_parent

STEP, RESULT = "step", "result.json"

Result = TypeVar("Result")


class _Steps:
    """Runs steps under an alarm and keeps their names for whoever started this process.

    Attributes:
        failed: the last step that raised an exception.
        proven: whether the device ran what it must be able to run; see `timing`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / STEP
        self.failed = "starting"
        self.proven = False

    def run(self, name: str, seconds: float, step: Callable[[], Result]) -> Result:
        here = {"step": name, "seconds": seconds, "proven": self.proven}
        self._file.write_text(json.dumps(here))
        signal.setitimer(signal.ITIMER_REAL, seconds)  # its signal ends the process
        try:
            return step()
        except Exception:
            self.failed = name
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def main(request_file: Path) -> None:
    """Do what a request asks for; every outcome but a killed process leaves a result."""
    if sys.platform == "linux":  # whoever asked may be killed: the device must be free then
        end_with_parent()
    request = json.loads(request_file.read_text())
    steps = _Steps(request_file.parent)
    try:
        result = _answer(request, request_file.parent, steps)
    except (Mbv3cError, RuntimeError, ValueError, TypeError, OSError) as error:
        text = str(error).strip() or repr(error)
        result = {"error": text, "step": steps.failed, "tool": isinstance(error, ToolError)}
    (request_file.parent / RESULT).write_text(json.dumps(result))


def _answer(request: dict[str, Any], folder: Path, steps: _Steps) -> dict[str, Any]:
    limit = request["seconds"]
    place = Place(Address(*request["address"]), request["tracked"], request["key"])
    remote = steps.run(
        "waiting for it to be free" if place.tracked else "connecting",
        request["wait_seconds"],
        lambda: _connect(place, request["session_seconds"]),
    )
    machine = steps.run("asking what it is", limit, lambda: _machine(remote))
    if "sides" in request:
        return {"machine": machine, **time_models(request, remote, folder, steps)}
    if request["library"] is None:
        return {"machine": machine, "outputs": []}
    return {"machine": machine, "outputs": _run(request, remote, folder, steps)}


def _connect(place: Place, session_seconds: float) -> Any:
    from tvm import rpc

    address = place.address
    if not place.tracked:
        return rpc.connect(address.host, address.port, place.key, session_seconds)
    devices, _ = list_devices(address)
    keys = sorted({device.key for device in devices})
    if place.key not in keys:
        raise ToolError(
            f"the tracker {address} has no device {place.key!r}; it has "
            f"{', '.join(keys) or 'none'}: see `mbv3c device list`"
        )
    tracker = rpc.connect_tracker(address.host, address.port)
    return tracker.request(place.key, session_timeout=session_seconds, max_retry=2)


def _machine(remote: Any) -> dict[str, Any] | None:
    """Ask the device what it is; None of a server that is not ours."""
    from mbv3c.execution.device.session import DESCRIBE

    try:
        function = remote.get_function(DESCRIBE)
    except (AttributeError, RuntimeError, ValueError):
        return None
    found: dict[str, Any] = json.loads(function())
    return found


def _run(request: dict[str, Any], remote: Any, folder: Path, steps: _Steps) -> list[list[str]]:
    """Run a library once per input; return the files of each one's outputs."""
    from tvm import relax

    limit, first = request["seconds"], request["first_seconds"]
    # TVM's own servers have one folder for all their clients.
    name = f"mbv3c-{uuid.uuid4().hex}.so"
    library = bytearray(Path(request["library"]).read_bytes())
    try:
        steps.run("uploading the library", first, lambda: remote.upload(library, name))
        device = remote.device("opencl" if request["gpu"] else "cpu", 0)
        machine = steps.run(
            "loading the library",
            first,
            lambda: relax.VirtualMachine(remote.load_module(name), device),
        )

        written = []
        for index, source in enumerate(request["inputs"]):
            x = np.load(source)
            seconds = limit if index else first
            what = f"inference {index + 1} of {len(request['inputs'])}"
            outputs = steps.run(what, seconds, partial(_infer, machine, device, x))
            files = [str(folder / f"out{index}.{i}.npy") for i in range(len(outputs))]
            for file, output in zip(files, outputs, strict=True):
                np.save(file, output)
            written.append(files)
        return written
    finally:
        failed = steps.failed
        with suppress(RuntimeError):  # a device that is gone has nothing left to remove
            steps.run("removing the library", limit, lambda: remote.remove(name))
        steps.failed = failed


def _infer(machine: Any, device: Any, x: NDArray[Any]) -> list[NDArray[Any]]:
    import tvm

    from mbv3c.execution.host import arrays

    machine.set_input("main", tvm.runtime.tensor(x, device))
    machine.invoke_stateful("main")
    return arrays(machine.get_outputs("main"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
