"""Where a device is: at an address of its own, or behind a tracker."""

from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import UsageError

DEFAULT_SECONDS = 60.0  # an inference of Large in the slowest emulator takes 5

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Address:
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK or self.host.startswith("127.")


@dataclass(frozen=True)
class Place:
    """Where a device is.

    Attributes:
        address: of the device, or of the tracker that hands devices out.
        tracked: whether it is a tracker's.
        key: what the tracker has the device under; of a device what its server wants to hear,
            empty unless it was started with one.
        secret: file of the secret that its server wants to be known; None if it wants none.
        seconds: how long the device may take for a step, such as an inference.
    """

    address: Address
    tracked: bool = False
    key: str = ""
    seconds: float = DEFAULT_SECONDS
    secret: Path | None = None

    def __str__(self) -> str:
        if self.tracked:
            return f"device {self.key!r} of the tracker {self.address}"
        return f"device {self.address}"


def parse_address(text: str, option: str) -> Address:
    """Read HOST:PORT; an IPv6 host stands in brackets.

    Raises:
        UsageError: it is none.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{option} {text!r} is no address; write it like 192.168.1.20:9090")
    return Address(host, int(port))


def parse_place(
    device: str | None,
    tracker: str | None,
    key: str | None,
    timeout: float | None = None,
    secret: Path | None = None,
) -> Place | None:
    """Read --device, --tracker, --key, --timeout and --secret; None without any of them.

    Raises:
        UsageError: they do not go together, or an address is none.
    """
    seconds = DEFAULT_SECONDS if timeout is None else timeout
    if not seconds > 0:
        raise UsageError(f"--timeout {seconds:g} is no time; give seconds above 0")
    if device is not None and tracker is not None:
        raise UsageError("--device and --tracker exclude each other: both say where the device is")
    if tracker is not None:
        if not key:
            raise UsageError("--tracker needs --key: `mbv3c device list` shows the tracker's keys")
        address = parse_address(tracker, "--tracker")
        return Place(address, tracked=True, key=key, seconds=seconds, secret=secret)
    if device is not None:
        return Place(parse_address(device, "--device"), False, key or "", seconds, secret)
    if key is not None:
        raise UsageError("--key belongs to --tracker or --device")
    if timeout is not None:
        raise UsageError("--timeout belongs to --device or --tracker")
    if secret is not None:
        raise UsageError("--secret belongs to --device or --tracker")
    return None
