"""What `mbv3c device probe` says of what it has found; tests/execution/device asks a server."""

from dataclasses import replace
from pathlib import Path

from mbv3c.boards import boards_like
from mbv3c.commands.device import options_of, rows_for
from mbv3c.execution.device.machine import read_machine
from mbv3c.execution.device.place import Address
from mbv3c.execution.device.serve_options import ServeOptions


def test_the_rows_that_a_machine_may_be(tmp_path: Path) -> None:
    nothing = read_machine(tmp_path)
    assert list(rows_for([], nothing)) == ["it is no row of `mbv3c targets --board`"]
    cluster = replace(nothing, cpu="cortex-a55 and cortex-a76", cores=8)
    several = boards_like("", cluster.kinds, cluster.cores)
    lines = list(rows_for(several, cluster))
    assert lines[0] == "by its processor it is one of 2 boards:"
    assert "  rock5b:gpu = mobile_gpu:mali  [Radxa ROCK 5B]" in lines
    assert list(rows_for(several[:1], cluster)) == lines[1:4]
    odd = replace(nothing, cpu="cortex-a72", cores=2)
    assert list(rows_for([], odd))[1] == "targets for its processor: arm_cpu:cortex-a72"


def test_a_server_says_how_it_is_reached() -> None:
    board = Address("192.168.1.20", 9090)
    alone = ServeOptions(board.host, key="mine", secret=Path("secret"))
    assert options_of(board, alone) == "--device 192.168.1.20:9090 --key mine --secret secret"
    tracked = ServeOptions(tracker=Address("192.168.1.10", 9190), key="pi5")
    assert options_of(board, tracked) == "--tracker 192.168.1.10:9190 --key pi5"
