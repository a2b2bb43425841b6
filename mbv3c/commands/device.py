"""The commands of `mbv3c device`, and the options that say on which device to run."""

import os
import signal
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.ending import until_interrupted
from mbv3c.commands.options import PATH, Progress, echo, json_option, print_json
from mbv3c.commands.places import FILE
from mbv3c.commands.targets import board_row
from mbv3c.errors import ToolError

_PORT = 9090  # at which `device serve` listens by default

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mbv3c.boards import Board
    from mbv3c.execution.device.machine import Machine
    from mbv3c.execution.device.place import Address
    from mbv3c.execution.device.serve_options import ServeOptions
    from mbv3c.execution.device.server import Serving
    from mbv3c.execution.device.tracker import Listed


@click.group(name="device")
def device() -> None:
    """Serve this machine as a device, list those of a tracker, and say what one is."""


@device.command()
@click.option("--host", help="Listen at this address; 0.0.0.0 for all.  [default: 127.0.0.1]")
@click.option(
    "--port", type=int, help="Listen at this TCP port; 0 takes a free one.  [default: 9090]"
)
@click.option("--tracker", help="Register at the tracker at HOST:PORT.")
@click.option("--key", help="Name to register as; without --tracker what clients must name.")
@click.option(
    "--session-seconds",
    type=float,
    help="Let one client have the device for so many seconds.  [default: 3600]",
)
@click.option(
    "--upload-mib",
    type=int,
    help="Take files of so many MiB at most from a client.  [default: 1024]",
)
@click.option(
    "--disk-mib", type=int, help="Keep so many MiB of files at most for a client.  [default: 4096]"
)
@click.option(
    "--files", type=int, help="Keep so many files at most for a client.  [default: 1000]"
)
@click.option(
    "--memory-mib",
    type=int,
    help="Give each process of a client so many MiB of memory.  [default: 9/10 of all]",
)
@click.option(
    "--secret",
    type=PATH,
    help="Read the secret that clients must know from a file; needed if --host is no loopback.",
)
@json_option
def serve(tracker: str | None, as_json: bool, **given: Any) -> None:
    """Serve this machine to clients that may run any code on it, until Ctrl-C.

    With --json, the document comes when the port is open.
    """
    # A server compiles nothing; without its compiler TVM is there at once and takes less memory.
    os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")
    from mbv3c.execution.device.place import parse_address
    from mbv3c.execution.device.serve_options import ServeOptions

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    options = {name: value for name, value in given.items() if value is not None}
    if tracker is not None:
        options["tracker"] = parse_address(tracker, "--tracker")
    asked = ServeOptions(**options)
    asked.check()
    from mbv3c.execution.device.server import serve

    progress = Progress()
    with until_interrupted(progress):
        serve(asked, lambda serving: _ready(serving, asked, as_json), progress)


def _ready(serving: "Serving", asked: "ServeOptions", as_json: bool) -> None:
    machine, address = serving.machine, serving.address
    if as_json:
        print_json(
            {"host": address.host, "port": address.port, "pid": os.getpid()}
            | {"machine": machine.to_json()}
        )
        return
    echo(f"serving {machine.name} at {address}: {machine.sentence}")
    if machine.opencl is None:
        echo(f"no OpenCL: {machine.opencl_missing}")
    echo(f"commands reach it with `{options_of(address, asked)}`; Ctrl-C ends it", err=True)
    if not address.is_loopback:
        echo(
            "whoever knows the secret can run any code as this user; nothing is encrypted, so "
            "whoever can change what passes between can, too: use it in a network that you trust",
            err=True,
        )


def options_of(address: "Address", asked: "ServeOptions") -> str:
    """Return the options with which another command runs on what is served at an address."""
    secret = f" --secret {asked.secret}" if asked.secret else ""
    if asked.tracker is None:
        key = f" --key {asked.key}" if asked.key else ""
        return f"--device {address}{key}{secret}"
    return f"--tracker {asked.tracker} --key {asked.key}{secret}"


@device.command(name="list")
@click.option("--tracker", required=True, help="Ask the tracker at HOST:PORT.")
@json_option
def list_(tracker: str, as_json: bool) -> None:
    """List the devices of a tracker: key, address, whether it is free, what it is."""
    from dataclasses import asdict

    from mbv3c.execution.device.place import parse_address
    from mbv3c.execution.device.tracker import list_devices

    address = parse_address(tracker, "--tracker")
    devices, queues = list_devices(address)
    if as_json:
        rows = [
            {"key": dev.key, **asdict(dev.address), "busy": dev.busy, "machine": dev.machine}
            for dev in devices
        ]
        document = {"tracker": str(address), "devices": rows}
        print_json({**document, "queues": [asdict(queue) for queue in queues]})
        return
    if not devices:
        echo(f"the tracker {address} has no devices")
        return
    echo(f"{'key':<20}{'address':<24}{'state':<10}what it is")
    for dev in devices:
        state = {True: "busy", False: "free", None: "unknown"}[dev.busy]
        echo(f"{dev.key:<20}{dev.address!s:<24}{state:<10}{_sentence(dev)}")
    for queue in queues:
        if queue.waiting:
            echo(f"{queue.waiting} clients wait for {queue.key}")


def _sentence(device: "Listed") -> str:
    from mbv3c.execution.device.machine import machine_from_json

    if device.machine is None:
        return "its server does not say"
    return machine_from_json(device.machine).sentence


@device.command()
@click.argument("host", metavar="HOST[:PORT]")
@click.option("--key", help="Name that its server wants to hear.")
@click.option("--secret", type=FILE, help="Read the secret that its server wants from a file.")
@click.option("--timeout", type=float, help="Give it so many seconds for a step.  [default: 60]")
@json_option
def probe(
    host: str, key: str | None, secret: "Path | None", timeout: float | None, as_json: bool
) -> None:
    """Ask a served device what it is, and say which board of `targets --board` that is."""
    from mbv3c.boards import boards_like
    from mbv3c.execution.device.place import parse_place
    from mbv3c.execution.device.runner import RpcRunner

    ported = ":" in host and not host.endswith("]")
    place = parse_place(host if ported else f"{host}:{_PORT}", None, key, timeout, secret)
    assert place is not None
    runner = RpcRunner(place, seconds=place.seconds)
    runner.look()
    machine = runner.machine
    if machine is None:
        raise ToolError(
            f"{place} does not say what it is: only `mbv3c device serve` does, this is another"
        )
    boards = boards_like(machine.model, machine.kinds, machine.cores)
    if as_json:
        rows = [board_row(board) for board in boards]
        print_json({"machine": machine.to_json(), "boards": rows})
        return
    called = f" ({machine.model})" if machine.model else ""
    echo("\n".join([f"{machine.name}{called}: {machine.sentence}", *rows_for(boards, machine)]))


def rows_for(boards: "list[Board]", machine: "Machine") -> "Iterator[str]":
    """Say which rows a machine may be, and what to compile for."""
    from mbv3c.targets import every_wing, stands_for

    if not boards:
        known = {target.device: target.name for wing in every_wing() for target in wing.targets}
        fit = sorted(known[kind] for kind in machine.kinds if kind in known)
        yield "it is no row of `mbv3c targets --board`"
        if fit:
            yield f"targets for its processor: {', '.join(fit)}"
        return
    if len(boards) > 1:
        yield f"by its processor it is one of {len(boards)} boards:"
    for board in boards:
        for part in board.parts:
            yield f"  {stands_for(board.spelled(part))}  [{board.product}]"
