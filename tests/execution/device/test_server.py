"""The server survives its clients, and nothing of it survives its end."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import tvm
from tvm import rpc

from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device import visitors
from mbv3c.execution.device.admission import (
    MAGIC,
    NONCE,
    PROOF,
    TICKET_OPTION,
    named,
    ticket_for,
)
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.runner import RpcRunner
from mbv3c.execution.device.serve_options import ServeOptions
from mbv3c.execution.device.server import serve
from mbv3c.execution.device.session import DESCRIBE
from mbv3c.execution.device.tracker import receive
from tests.command_line import document, mbv3c, mbv3c_process
from tests.execution.device.serving import HOST, Served, served, wait_for

CALL = """
import sys
from tvm import rpc
remote = rpc.connect("127.0.0.1", int(sys.argv[1]))
remote.upload(sys.argv[2])
remote.load_module("model.so")[sys.argv[3]]()
"""


def _call(served: Served, library: Path, function: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CALL, str(served.port), str(library), function],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def _calling(served: Served, library: Path, function: str) -> Iterator["subprocess.Popen[str]"]:
    """Call a function that does not return; the caller ends when this does."""
    with _call(served, library, function) as client:
        try:
            yield client
        finally:
            client.kill()


@contextmanager
def _heeded(number: signal.Signals) -> Iterator[None]:
    """Let processes that start here heed a signal, though `nohup` or the like had it ignored."""
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


def _failure(served: Served, library: Path, function: str) -> str:
    done = _call(served, library, function)
    _, errors = done.communicate(timeout=60)
    assert done.returncode == 1
    return errors


def _works(served: Served) -> bool:
    return '"architecture"' in rpc.connect(HOST, served.port).get_function(DESCRIBE)()


def _group(leader: int) -> list[int]:
    """Return the processes of a process group that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def test_session_says_what_the_machine_is(device: Served) -> None:
    assert _works(device)
    assert device.document["machine"]["architecture"] == os.uname().machine
    assert device.document["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert device.document["machine"]["opencl_missing"] == "no OpenCL driver is installed"
    assert device.document["pid"] == device.process.pid


def test_probe_says_what_a_device_is(device: Served) -> None:
    found = document(mbv3c("device", "probe", device.address, "--json"))
    assert found["machine"]["name"] == device.document["machine"]["name"]
    assert found["boards"] == []
    assert mbv3c("device", "probe", "board:port").returncode == 2


def test_session_has_what_tuning_needs(device: Served) -> None:
    """MetaSchedule fills its inputs with this; without it every measurement fails."""
    remote = rpc.connect(HOST, device.port)
    fill = remote.get_function("tvm.contrib.random.random_fill_for_measure")
    x = tvm.runtime.empty((64,), "float32", remote.cpu())
    fill(x)
    assert len(set(x.numpy())) > 32


def test_listens_on_loopback_only(device: Served) -> None:
    port = f":{device.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()
    listening = [line.split()[1] for line in lines if f"{port} 00000000:0000 0A" in line]
    assert listening == [f"0100007F{port}"]


def test_crash_ends_the_session_alone_and_says_why(device: Served, misbehaving: Path) -> None:
    assert "died of SIGILL: the library has instructions that this processor lacks" in _failure(
        device, misbehaving, "crash"
    )
    assert _works(device)


def test_file_leads_not_out_of_the_folder(device: Served) -> None:
    remote = rpc.connect(HOST, device.port)
    with pytest.raises(Exception, match="leads out of the session's folder"):
        remote.upload(bytearray(b"x"), "../escaped")
    assert not (device.log.parent / "escaped").exists()


def test_silent_and_foreign_clients_do_not_stop_it(device: Served) -> None:
    with socket.create_connection((HOST, device.port)) as silent:
        silent.sendall(b"\x71")
        start = time.monotonic()
        assert _works(device)
        assert time.monotonic() - start < 10
    with socket.create_connection((HOST, device.port)) as foreign:
        foreign.sendall(b"GET / HTTP/1.1\r\n\r\n")
        device.await_line("it does not speak TVM's RPC protocol")
    with socket.create_connection((HOST, device.port)) as wrong:
        wrong.sendall(struct.pack("<ii", 0xFF271, 1 << 30))
        assert wrong.recv(4) == b""
    assert _works(device)


def test_idle_and_trickling_clients_shut_nobody_out(device: Served) -> None:
    """More of them than the server keeps; of these some say a byte now and then."""
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((HOST, device.port)))
            for _ in range(visitors.MOST + 18)
        ]
        start = time.monotonic()
        for one in idle[-4:]:
            one.sendall(b"\x71")
        assert _works(device)
        assert time.monotonic() - start < visitors.HELLO_SECONDS
        assert "it was silent for longest" in device.log.read_text()
        while time.monotonic() - start < visitors.HELLO_SECONDS:
            time.sleep(1)
            for one in idle[-4:]:
                with suppress(OSError):
                    one.sendall(b"\xf2")
        for one in idle:  # all were sent away, the trickling ones too
            one.settimeout(5)
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
    assert _works(device)


def test_a_client_waits_for_its_turn_while_others_knock(device: Served) -> None:
    served_before = device.log.read_text().count("serving ")
    first = rpc.connect(HOST, device.port)
    with ExitStack() as stack:
        for _ in range(18):
            stack.enter_context(socket.create_connection((HOST, device.port)))
        waiting = threading.Thread(target=_works, args=(device,))
        waiting.start()
        time.sleep(0.5)
        assert device.log.read_text().count("serving ") == served_before + 1
        del first
        waiting.join(timeout=30)
        assert not waiting.is_alive()
    assert device.log.read_text().count("serving ") == served_before + 2


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, no_opencl: dict[str, str]
) -> Iterator[Served]:
    """Serve whoever knows a secret, and give no session more than a gigabyte."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "secret").write_text("0123456789abcdef" * 4 + "\n")
    options = ("--secret", folder / "secret", "--memory-mib", 1024)
    with served(folder, *options, environment=no_opencl) as one:
        yield one


def _address(one: Served) -> Address:
    return Address(HOST, one.port)


def test_only_who_knows_the_secret_is_served(guarded: Served) -> None:
    secret = guarded.log.parent / "secret"
    with pytest.raises(Exception, match="match"):
        rpc.connect(HOST, guarded.port)
    with pytest.raises(Exception, match="match"):
        rpc.connect(HOST, guarded.port, f" {TICKET_OPTION}{'0' * 64}")
    with pytest.raises(ToolError, match="does not know the secret"):
        ticket_for(_address(guarded), b"another secret that is long enough")
    ticket = named(_address(guarded), "", secret)
    assert secret.read_text().strip() not in ticket
    assert '"architecture"' in rpc.connect(HOST, guarded.port, ticket).get_function(DESCRIBE)()
    with pytest.raises(Exception, match="match"):  # a ticket is for one connection
        rpc.connect(HOST, guarded.port, ticket)
    guarded.await_line("it does not know the secret", times=3)
    done = RpcRunner(Place(_address(guarded), secret=secret))
    done.look()
    assert done.machine is not None


def test_an_answer_of_the_server_is_none_of_the_client(guarded: Served) -> None:
    """Sent back, what the server has shown shows nothing."""
    with socket.create_connection((HOST, guarded.port), 10) as connection:
        connection.sendall(MAGIC + bytes(NONCE))
        answer = receive(connection, NONCE + PROOF, "the server")
        connection.sendall(answer[NONCE:])
        assert connection.recv(1) == b""


def test_a_session_has_no_more_memory_than_it_may(guarded: Served) -> None:
    name = named(_address(guarded), "", guarded.log.parent / "secret")
    remote = rpc.connect(HOST, guarded.port, name)
    tvm.runtime.empty((1 << 28,), "uint8", remote.cpu())
    with pytest.raises(Exception, match=r"(?i)alloc|memory"):
        tvm.runtime.empty((1 << 31,), "uint8", remote.cpu())


def test_a_server_without_a_secret_is_told_from_one_with_another(
    device: Served, guarded: Served
) -> None:
    with pytest.raises(ToolError, match="takes no secret"):
        named(_address(device), "", guarded.log.parent / "secret")


def test_vanished_client_does_not_keep_the_device(device: Served, misbehaving: Path) -> None:
    gone = device.log.read_text().count("its client is gone")
    client = _call(device, misbehaving, "hang")
    session = _hanging_session(device)
    client.kill()
    client.communicate()
    device.await_line("its client is gone", 20, times=gone + 1)
    assert _group(session) == []
    assert _sessions(device) == []
    assert _works(device)


def _hanging_session(served: Served) -> int:
    """Return the session in which `hang` runs, when it does: then it has a child."""
    found: list[int] = []

    def hangs() -> bool:
        found[:] = [pid for pid in served.sessions() if len(_group(pid)) == 2]
        return bool(found)

    wait_for(hangs, 30, served.log)
    return found[0]


def _sessions(served: Served) -> list[str]:
    return [path.name for path in served.log.parent.glob(".mbv3c-scratch-session-*")]


def test_limits(tmp_path: Path, no_opencl: dict[str, str], misbehaving: Path) -> None:
    limits = ("--session-seconds", 4, "--upload-mib", 1, "--disk-mib", 2, "--files", 4)
    with served(tmp_path, *limits, "--key", "mine", environment=no_opencl) as limited:
        with pytest.raises(Exception, match="match"):
            rpc.connect(HOST, limited.port)
        remote = rpc.connect(HOST, limited.port, "mine")
        with pytest.raises(Exception, match="larger than --upload-mib allows"):
            remote.upload(bytearray(2 << 20), "large.bin")
        remote = rpc.connect(HOST, limited.port, "mine")
        remote.upload(bytearray(misbehaving.read_bytes()), "model.so")
        hang = remote.load_module("model.so")["hang"]
        with pytest.raises(Exception, match="the session's 4 s are over"):
            hang()
        assert _sessions(limited) == []
        remote = rpc.connect(HOST, limited.port, "mine")
        most = bytearray(1 << 20)
        remote.upload(most, "a")
        remote.upload(most, "b")
        with pytest.raises(Exception, match="larger together than --disk-mib allows"):
            remote.upload(most, "c")
        remote.upload(most, "a")  # in the place of what was there
        remote.remove("a")
        for name in "acd":
            remote.upload(bytearray(b"x"), name)
        with pytest.raises(Exception, match="more than 4 files"):
            remote.upload(bytearray(b"x"), "e")
        (folder,) = limited.log.parent.glob(".mbv3c-scratch-session-*")
        (folder / "b").write_bytes(most * 3)  # as a library may
        limited.await_line("the session was ended: its files are")
        # The client may ask for less than the server allows.
        remote = rpc.connect(HOST, limited.port, "mine", session_timeout=0.5)
        with pytest.raises(Exception, match=r"the session's 0.5 s are over"):
            time.sleep(1)
            remote.get_function(DESCRIBE)()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stops_with_all_that_it_started(
    tmp_path: Path, no_opencl: dict[str, str], misbehaving: Path, number: signal.Signals
) -> None:
    with _heeded(number), served(tmp_path, environment=no_opencl) as one:
        with _calling(one, misbehaving, "hang") as client:
            session = _hanging_session(one)
            one.process.send_signal(number)
            assert one.process.wait(timeout=10) == 0
            client.communicate(timeout=30)
            assert client.returncode == 1
        assert "stopped" in one.log.read_text()
        assert _group(session) == []
        assert _sessions(one) == []


def test_killed_server_takes_its_session_along(
    tmp_path: Path, no_opencl: dict[str, str], misbehaving: Path
) -> None:
    with served(tmp_path, environment=no_opencl) as one:
        with _calling(one, misbehaving, "hang") as client:
            session = _hanging_session(one)
            one.process.kill()
            wait_for(lambda: session not in _group(session), 10)
            os.killpg(session, signal.SIGKILL)  # what the library started itself
            client.communicate(timeout=30)
        assert client.returncode == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tracker", "192.0.2.1:9190", "--key", "a"), "--host 127.0.0.1 cannot be reached"),
        (("--tracker", "127.0.0.1:9190"), "--tracker needs --key"),
        (("--tracker", "127.0.0.1"), "'127.0.0.1' is no address"),
        (("--key", "two words"), "has a space in it"),
        (("--upload-mib", 0), "--upload-mib must be more than 0"),
        (("--files", 0), "--files must be more than 0"),
        (("--port", 70000), "--port 70000 is not possible"),
    ],
)
def test_wrong_options_are_refused(options: tuple[object, ...], message: str) -> None:
    done = mbv3c("device", "serve", *options)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ServeOptions(memory_mib=0), "--memory-mib must be more than 0"),
        (ServeOptions("0.0.0.0"), r"add --secret FILE \(`openssl rand -hex 32` makes one\)"),
        (ServeOptions(secret=Path("/nowhere")), "the secret /nowhere cannot be read: No such"),
        (ServeOptions(secret=Path("/dev/null")), "has 0 characters, and 32 are the least"),
    ],
)
def test_what_cannot_be_served_is_named(options: ServeOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        serve(options, lambda serving: None, lambda line: None)


def test_port_in_use_is_an_error(device: Served) -> None:
    done = mbv3c_process("device", "serve", "--port", device.port)
    assert done.returncode == 1
    assert f"cannot listen at 127.0.0.1:{device.port}: Address already in use" in done.stderr
