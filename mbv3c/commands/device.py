"""The commands of `mbv3c device`, and the options that say on which device to run."""

import os
import signal
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import PATH, Progress, echo, json_option, print_json

if TYPE_CHECKING:
    from mbv3c.execution.device.server import Serving
    from mbv3c.execution.device.tracker import Listed


@click.group(name="device")
def device() -> None:
    """Serve this machine as a device, and list the devices of a tracker."""


@device.command()
@click.option("--host", help="Address to listen at: 0.0.0.0 for all.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="TCP port; 0 takes a free one.  [default: 9090]")
@click.option("--tracker", help="HOST:PORT of the tracker to register at.")
@click.option("--key", help="Name to register as; without --tracker what clients must name.")
@click.option(
    "--session-seconds",
    type=float,
    help="How long one client may have the device.  [default: 3600]",
)
@click.option(
    "--upload-mib", type=int, help="Largest file that a client may send.  [default: 1024]"
)
@click.option(
    "--disk-mib", type=int, help="Size of all files of a client together.  [default: 4096]"
)
@click.option("--files", type=int, help="How many files a client may have.  [default: 1000]")
@click.option(
    "--memory-mib", type=int, help="Memory of each process of a client.  [default: 9/10 of all]"
)
@click.option(
    "--secret",
    type=PATH,
    help="File of the secret that clients must know; needed if --host is no loopback.",
)
@json_option
def serve(tracker: str | None, as_json: bool, **given: Any) -> None:
    """Serve this machine to clients that may run any code on it, until Ctrl-C.

    With --json, the document comes when the port is open.
    """
    # A server compiles nothing; without its compiler TVM is there at once and takes less memory.
    os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")
    from mbv3c.execution.device.place import parse_address
    from mbv3c.execution.device.server import ServeOptions, serve

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    options = {name: value for name, value in given.items() if value is not None}
    if tracker is not None:
        options["tracker"] = parse_address(tracker, "--tracker")
    progress = Progress()
    try:
        serve(ServeOptions(**options), lambda serving: _ready(serving, as_json), progress)
    except KeyboardInterrupt:
        progress("stopped")


def _ready(serving: "Serving", as_json: bool) -> None:
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
    if not address.is_loopback:
        echo(
            "whoever knows the secret can run any code as this user; nothing is encrypted, so "
            "whoever can change what passes between can, too: use it in a network that you trust",
            err=True,
        )


@device.command(name="list")
@click.option("--tracker", required=True, help="HOST:PORT of the tracker.")
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
