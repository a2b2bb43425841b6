"""Running a library on a device, and what is said when the device fails."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tvm import rpc

from mbv3c.errors import ToolError
from mbv3c.execution.device import client
from mbv3c.execution.device.alarms import Steps
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.runner import RpcRunner
from tests.execution.device import libraries
from tests.execution.device.serving import HOST, Served, free_port, served, wait_for

X = libraries.X


def _runner(port: int, seconds: float = 20) -> RpcRunner:
    return RpcRunner(Place(Address(HOST, port)), seconds=seconds)


def test_runs_and_names_the_device(device: Served, network: Path) -> None:
    runner = _runner(device.port)
    outputs = runner.run(network, [X, -X])
    for x, (output,) in zip((X, -X), outputs, strict=True):
        np.testing.assert_array_equal(output, 2 * x)
    name = device.document["machine"]["name"]
    assert runner.description.endswith(
        f" of {name}, device {HOST}:{device.port} (the library itself)"
    )
    wait_for(lambda: not list(device.log.parent.glob(".mbv3c-scratch-session-*")), 10)


def test_several_outputs(device: Served, two_outputs: Path) -> None:
    ((twice, four),) = _runner(device.port).run(two_outputs, [X])
    np.testing.assert_array_equal(twice, 2 * X)
    np.testing.assert_array_equal(four, 4 * X)


def test_device_that_hangs_is_given_up(device: Served, endless: Path) -> None:
    gone = device.log.read_text().count("its client is gone")
    start = time.monotonic()
    with pytest.raises(
        ToolError,
        match=rf"the device {HOST}:{device.port} did not answer within 4 s "
        r"\(inference 1 of 2\); it hangs, is busy, or is slow: .*--timeout",
    ):
        _runner(device.port, 0.8).run(endless, [X, X])
    assert time.monotonic() - start < 20
    # The server is rid of it, too.
    device.await_line("its client is gone", 20, times=gone + 1)
    _runner(device.port).look()


def test_library_that_hangs_when_loaded(device: Served, misbehaving: Path) -> None:
    with pytest.raises(ToolError, match=r"did not answer within 2.5 s \(loading the library\)"):
        _runner(device.port, 0.5).run(misbehaving.parent, [X])


def test_stopped_server_is_given_up(tmp_path: Path, no_opencl: dict[str, str]) -> None:
    with served(tmp_path, environment=no_opencl) as one:
        one.process.send_signal(signal.SIGSTOP)
        with pytest.raises(ToolError, match=r"did not answer within 2.5 s \(connecting\)"):
            _runner(one.port, 0.5).look()


def test_server_killed_in_the_middle(
    tmp_path: Path, no_opencl: dict[str, str], endless: Path
) -> None:
    with served(tmp_path, environment=no_opencl) as one:

        def kill() -> None:
            wait_for(lambda: list(tmp_path.glob(".mbv3c-scratch-session-*/*.so")), 60)
            time.sleep(0.5)
            os.kill(one.process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(
            ToolError, match=r"failed \(inference 1 of 1\): the connection was lost; its server"
        ):
            _runner(one.port).run(endless, [X])
        killer.join()


def test_nothing_there() -> None:
    with pytest.raises(ToolError, match=r"failed \(connecting\): nothing listens there; start"):
        _runner(free_port()).look()


def test_library_of_another_processor(device: Served, tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(b"\x7fELF no library")
    with pytest.raises(ToolError, match=r"failed \(loading the library\): "):
        _runner(device.port).run(tmp_path, [X])


# ---- TVM's own server ----


def test_tvms_own_server_runs_it_too(stock: int, network: Path) -> None:
    runner = _runner(stock)
    ((output,),) = runner.run(network, [X])
    np.testing.assert_array_equal(output, 2 * X)
    assert "whose server does not say what it is" in runner.description


def test_uploaded_file_is_removed(device: Served, network: Path, tmp_path: Path) -> None:
    """The client does it itself: other servers have one folder for all their clients."""
    np.save(tmp_path / "in.npy", X)
    request = {"library": str(network / "model.so"), "gpu": False, "seconds": 20.0}
    request |= {"first_seconds": 60.0, "inputs": [str(tmp_path / "in.npy")]}
    request |= {"entries": ["main"]}
    remote = rpc.connect(HOST, device.port)
    remote.upload(bytearray(b"kept"), "kept")
    ((output,),) = client._run(request, remote, tmp_path, Steps(tmp_path))
    np.testing.assert_array_equal(np.load(output), 2 * X)
    left = {path.name for path in device.log.parent.glob(".mbv3c-scratch-session-*/*")}
    assert left == {"kept"}
