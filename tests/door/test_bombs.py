"""Small models that would grow: refused within seconds, with the number that is too large."""

import resource
import time
from pathlib import Path

import onnx
import pytest
from onnx import helper

from mbv3c.door.files import Refused
from mbv3c.door.growth import check_growth
from mbv3c.door.models import check_model, parse_model
from tests.command_line import mbv3c
from tests.door.models import BOMBS, calls, chain, integers, loop, model, nested, number


def let_in(given: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    path = folder / "given.onnx"
    path.write_bytes(given.SerializeToString())
    read = parse_model(path)
    check_model(read)
    check_growth(read)
    return read


@pytest.mark.parametrize("name", BOMBS)
def test_they_are_refused_in_time(name: str, tmp_path: Path) -> None:
    given, reason = BOMBS[name]
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(Refused, match=reason):
        let_in(given, tmp_path)
    assert time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


@pytest.mark.parametrize(
    "given",
    [
        calls(8),
        chain(2_000),
        nested(3),
        loop([number("n", 12), number("true", True, "bool")]),
        model(
            [
                helper.make_node("Reshape", ["x", "s"], ["z"]),
                helper.make_node("Reshape", ["z", "t"], ["y"]),
            ],
            [integers("s", 2, -1), integers("t", 1, 4)],
        ),
    ],
    ids=["functions", "nodes", "graphs", "loop", "reshape"],
)
def test_what_is_like_them_and_small_is_let_in(given: onnx.ModelProto, tmp_path: Path) -> None:
    assert let_in(given, tmp_path) == given


def test_commands_say_so_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bomb.onnx"
    for name in ("Range", "an endless loop", "functions that double"):
        path.write_bytes(BOMBS[name][0].SerializeToString())
        for command in (("inspect", path), ("optimize", path, "-o", tmp_path / "y.onnx")):
            done = mbv3c(*command)
            assert done.returncode == 1
            assert f"error: {path} cannot be compiled: " in done.stderr
