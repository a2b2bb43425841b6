"""Devices behind TVM's own tracker."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tvm import rpc

from mbv3c.errors import ToolError
from mbv3c.execution.device import client
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.runner import RpcRunner
from mbv3c.execution.device.session import DESCRIBE
from mbv3c.execution.device.tracker import list_devices, receive
from tests.command_line import mbv3c
from tests.execution.device import libraries
from tests.execution.device.serving import (
    HOST,
    Served,
    end,
    free_port,
    served,
    tracked,
    wait_for,
)

HOLD = """
import sys
from tvm import rpc
remote = rpc.connect_tracker("127.0.0.1", int(sys.argv[1])).request("board")
print("holding", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[int]:
    with tracked(tmp_path_factory.mktemp("tracker"), port):
        yield port


@pytest.fixture(scope="module")
def board(
    tmp_path_factory: pytest.TempPathFactory, tracker: int, no_opencl: dict[str, str]
) -> Iterator[Served]:
    options = ("--tracker", f"{HOST}:{tracker}", "--key", "board")
    with served(tmp_path_factory.mktemp("board"), *options, environment=no_opencl) as one:
        one.await_line("registered as 'board'")
        yield one


def _place(port: int) -> Place:
    return Place(Address(HOST, port), tracked=True, key="board")


def _busy(port: int) -> bool | None:
    (one,), _ = list_devices(Address(HOST, port))
    return one.busy


def test_free_busy_and_free_again(board: Served, port: int) -> None:
    devices, queues = list_devices(Address(HOST, port))
    assert [(one.key, one.address, one.busy) for one in devices] == [
        ("board", Address(HOST, board.port), False)
    ]
    assert devices[0].machine is not None
    assert devices[0].machine["cpu"] == board.document["machine"]["cpu"]
    assert [(one.key, one.free, one.waiting) for one in queues] == [("board", 1, 0)]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    wait_for(lambda: _busy(port), 10)
    listed = json.loads(mbv3c("device", "list", "--tracker", f"{HOST}:{port}", "--json").stdout)
    assert [(one["key"], one["port"], one["busy"]) for one in listed["devices"]] == [
        ("board", board.port, True)
    ]
    assert listed["queues"] == [{"key": "board", "free": 0, "waiting": 0}]
    holder.communicate()
    wait_for(lambda: _busy(port) is False, 10)
    shown = mbv3c("device", "list", "--tracker", f"{HOST}:{port}").stdout
    assert f"board               {HOST}:{board.port}" in shown
    assert " free " in shown
    assert board.document["machine"]["architecture"] in shown


def test_registers_again_with_a_new_tracker(
    tmp_path: Path, network: Path, no_opencl: dict[str, str]
) -> None:
    port = free_port()
    address = Address(HOST, port)
    options = ("--tracker", address, "--key", "board")
    # There is no tracker yet, which is no reason not to start.
    with served(tmp_path, *options, environment=no_opencl) as board:
        board.await_line(f"the tracker {address} does not answer")
        with pytest.raises(ToolError, match=f"the tracker {address} does not answer: .*refused"):
            list_devices(address)
        for times in (1, 2):
            with tracked(tmp_path, port):
                board.await_line("registered as 'board'", times=times)
                ((output,),) = RpcRunner(_place(port), seconds=20).run(network, [libraries.X])
                np.testing.assert_array_equal(output, 2 * libraries.X)
                if times == 2:
                    end(board.process)
                    wait_for(lambda: list_devices(address)[0] == [], 10)
                    shown = mbv3c("device", "list", "--tracker", address).stdout
                    assert shown == f"the tracker {address} has no devices\n"


def test_serves_one_client_after_the_other(board: Served, port: int, network: Path) -> None:
    runner = RpcRunner(_place(port), seconds=20)
    for _ in range(2):
        ((output,),) = runner.run(network, [libraries.X])
        np.testing.assert_array_equal(output, 2 * libraries.X)
    assert f"device 'board' of the tracker {HOST}:{port}" in runner.description
    # Whoever does not come through the tracker would cut in before those that wait.
    with pytest.raises(ToolError, match="another --key, a --secret, or clients that come"):
        RpcRunner(Place(Address(HOST, board.port)), seconds=20).look()


def test_what_the_tracker_offers_is_a_place_of_its_own(board: Served, port: int) -> None:
    """By which clients with a secret connect: TVM's own cannot bring a ticket along."""
    offered = client._offered(_place(port))
    assert (offered.address, offered.tracked) == (Address(HOST, board.port), False)
    remote = rpc.connect(HOST, board.port, offered.key)
    assert '"architecture"' in remote.get_function(DESCRIBE)()


def test_unknown_key_is_named_and_not_waited_for(board: Served, port: int) -> None:
    place = Place(Address(HOST, port), tracked=True, key="phone")
    with pytest.raises(ToolError, match="has no device 'phone'; known: board; see `mbv3c device"):
        RpcRunner(place, seconds=20).look()


def test_held_device_is_waited_for_only_so_long(board: Served, port: int) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    with pytest.raises(ToolError, match=r"'board' of .* did not answer within 2.5 s \(waiting"):
        RpcRunner(_place(port), seconds=0.5).look()
    holder.communicate()


def test_tvms_own_server_is_listed(board: Served, port: int, tmp_path: Path) -> None:
    log, stock = tmp_path / "stock.log", free_port()
    command = [
        "-m",
        "tvm.exec.rpc_server",
        "--host",
        HOST,
        "--port",
        str(stock),
        "--port-end",
        str(stock + 1),
    ]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command, "--tracker", f"{HOST}:{port}", "--key", "stock"],
            stdout=file,
            stderr=file,
            process_group=0,
        )
    try:
        wait_for(lambda: len(list_devices(Address(HOST, port))[0]) == 2, 60, log)
        (_, one), _ = list_devices(Address(HOST, port))
        assert (one.key, one.busy, one.machine) == ("stock", None, None)
        shown = mbv3c("device", "list", "--tracker", f"{HOST}:{port}").stdout
        assert "its server does not say" in shown
    finally:
        end(process)


def test_what_is_no_tracker_is_said(device: Served) -> None:
    with pytest.raises(ToolError, match="does not answer"):
        list_devices(Address(HOST, device.port))


def test_a_sender_that_trickles_is_not_waited_for() -> None:
    """The time-out is for the whole, not for each byte."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.3)
        over = threading.Event()

        def trickle() -> None:
            while not over.wait(0.05):
                theirs.sendall(b"x")

        with ThreadPoolExecutor(1) as pool:
            pool.submit(trickle)
            try:
                with pytest.raises(TimeoutError):
                    receive(ours, 1000, "it")
            finally:
                over.set()
        assert ours.gettimeout() == 0.3
