"""Talk to a device, in a process that can be ended whenever the device hangs.

    python -m mbv3c.execution.device.client REQUEST.json

TVM's client waits for ever for a device that says nothing, and cannot be interrupted. So every
step sets an alarm whose signal ends this process; the file `step` says which one it was. What the
request asked for goes to `result.json` beside it: the machine, the arrays' files, or an error.

It also times models on the device (`timing`), and measures for `mbv3c bench` (`bench_client`).
"""

import json
import sys
import uuid
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.execution.device.admission import named
from mbv3c.execution.device.alarms import STEP, Steps
from mbv3c.execution.device.bench_client import bench_on
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.stops import STOP, stops_of
from mbv3c.execution.device.timing import time_models
from mbv3c.execution.device.tracker import Request, list_devices
from mbv3c.feeds import load_feed, save_array
from mbv3c.nearest import among
from mbv3c.process_tree import end_with_parent

_LOOK = 10.0  # seconds between two looks at what the tracker says

__all__ = ["MADE", "RESULT", "STEP", "main"]

RESULT, MADE = "result.json", "made.npz"


def main(request_file: Path) -> None:
    """Do what a request asks for; every outcome but a killed process leaves a result."""
    if sys.platform == "linux":  # whoever asked may be killed: the device must be free then
        end_with_parent()
    request = json.loads(request_file.read_text())
    steps = Steps(request_file.parent)
    try:
        result = _answer(request, request_file.parent, steps)
    except (Mbv3cError, RuntimeError, ValueError, TypeError, OSError) as error:
        text = str(error).strip() or repr(error)
        result = {"error": text, "step": steps.failed, "tool": isinstance(error, ToolError)}
    (request_file.parent / RESULT).write_text(json.dumps(result))


def _answer(request: dict[str, Any], folder: Path, steps: Steps) -> dict[str, Any]:
    limit = request["seconds"]
    secret = Path(request["secret"]) if request["secret"] else None
    address = Address(*request["address"])
    place = Place(address, request["tracked"], request["key"], secret=secret)
    remote = steps.run(
        "waiting for it to be free" if place.tracked else "connecting",
        request["wait_seconds"],
        lambda: _connect(place, request["session_seconds"]),
    )
    if "bench" in request:  # what it is was asked before: that opens a GPU's driver
        return bench_on(request, remote, steps)
    machine = steps.run("asking what it is", limit, lambda: _machine(remote))
    if "sides" in request:
        return {"machine": machine, **time_models(request, remote, folder, steps)}
    if request["library"] is None:
        return {"machine": machine, "outputs": []}
    found: dict[str, Any] = {"machine": machine}
    stops = None
    if request.get("stops"):
        stops = steps.run("asking whether it stops", limit, lambda: stops_of(remote))
        if stops is None:
            return {**found, "outputs": [], "stops": False}
    return {**found, "outputs": _run(request, remote, folder, steps, stops)}


def _connect(place: Place, session_seconds: float) -> Any:
    from tvm import rpc

    address = place.address
    if not place.tracked:
        name = named(address, place.key, place.secret)
        return rpc.connect(address.host, address.port, name, session_seconds)
    devices, _ = list_devices(address)
    keys = sorted({device.key for device in devices})
    if place.key not in keys:
        raise ToolError(
            f"the tracker {address} has no device {place.key!r}{among(place.key, keys)}; "
            "see `mbv3c device list`"
        )
    if place.secret is not None:
        return _connect(replace(_offered(place), secret=place.secret), session_seconds)
    tracker = rpc.connect_tracker(address.host, address.port)
    return tracker.request(place.key, session_timeout=session_seconds, max_retry=2)


def _offered(place: Place) -> Place:
    """Wait for the tracker to hand out a device; return where that is."""
    with closing(Request(place.address, place.key)) as request:
        while (found := request.poll(_LOOK)) is None:
            pass  # an alarm ends this process, if none comes
    address, match_key = found
    return Place(address, key=match_key)


def _machine(remote: Any) -> dict[str, Any] | None:
    """Ask the device what it is; None of a server that is not ours."""
    from mbv3c.execution.device.session import DESCRIBE

    try:
        function = remote.get_function(DESCRIBE)
    except (AttributeError, RuntimeError, ValueError):
        return None
    return dict(json.loads(function()))


def _run(
    request: dict[str, Any],
    remote: Any,
    folder: Path,
    steps: Steps,
    stops: tuple[Any, Any] | None = None,
) -> list[list[str]]:
    """Run a library once per input; return the files of each one's outputs.

    With `stops` the kernels get what is in the request's file, and what is wanted of them comes
    back in `MADE`.
    """
    from tvm import relax

    from mbv3c.execution.host import infer_stateful

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

        if stops is not None:
            given = bytearray(Path(request["stops"]).read_bytes())
            steps.run("sending the kernels' inputs", first, lambda: stops[0](given))
        written = []
        inputs = zip(request["inputs"], request["entries"], strict=True)
        for index, (source, entry) in enumerate(inputs):
            x = load_feed(Path(source))
            seconds = limit if index else first
            what = f"inference {index + 1} of {len(request['inputs'])}"
            infer = partial(infer_stateful, machine, device, entry, x, stops and STOP)
            outputs = steps.run(what, seconds, infer)
            files = [str(folder / f"out{index}.{i}.npy") for i in range(len(outputs))]
            for file, output in zip(files, outputs, strict=True):
                save_array(Path(file), output)
            written.append(files)
        if stops is not None:
            made = steps.run("fetching what kernels made", first, stops[1])
            (folder / MADE).write_bytes(bytes(made))
        return written
    finally:
        failed = steps.failed
        with suppress(RuntimeError):  # a device that is gone has nothing left to remove
            steps.run("removing the library", limit, lambda: remote.remove(name))
        steps.failed = failed


if __name__ == "__main__":
    main(Path(sys.argv[1]))
