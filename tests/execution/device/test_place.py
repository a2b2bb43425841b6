from pathlib import Path

import pytest

from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Address, Place, parse_address, parse_place


def test_reads_addresses() -> None:
    assert parse_address("board.local:9090", "--device") == Address("board.local", 9090)
    assert parse_address("[::1]:80", "--device") == Address("::1", 80)
    assert str(Address("::1", 80)) == "[::1]:80"
    assert Address("127.0.0.5", 1).is_loopback
    assert not Address("192.168.1.5", 1).is_loopback


@pytest.mark.parametrize("text", ["", "host", "host:", ":9090", "host:0", "host:65536", "h:-1"])
def test_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match=r"--device '.*' is no address; write it like"):
        parse_address(text, "--device")


def test_reads_places() -> None:
    assert parse_place(None, None, None) is None
    assert parse_place("a:1", None, "k") == Place(Address("a", 1), key="k")
    assert parse_place(None, "a:1", "k") == Place(Address("a", 1), tracked=True, key="k")
    secret = Path("s")
    assert parse_place("a:1", None, None, secret=secret) == Place(Address("a", 1), secret=secret)
    with pytest.raises(UsageError, match="--secret belongs to --device or --tracker"):
        parse_place(None, None, None, secret=secret)
    assert str(parse_place(None, "a:1", "k")) == "device 'k' of the tracker a:1"


@pytest.mark.parametrize(
    ("device", "tracker", "key", "message"),
    [
        ("a:1", "b:2", None, "exclude each other"),
        (None, "b:2", None, "--tracker needs --key"),
        (None, None, "k", "--key belongs to"),
    ],
)
def test_refuses_what_does_not_go_together(
    device: str | None, tracker: str | None, key: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        parse_place(device, tracker, key)
