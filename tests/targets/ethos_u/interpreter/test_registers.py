"""Words of a command stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.targets.ethos_u.interpreter.program import Registers, StreamError, decode

STOP = 0xFFFF0000


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def test_commands_and_payloads() -> None:
    first, second, stop = decode(words(0x00050104, 0x00124000, 0x89ABCDEF, STOP))
    assert (first.word, first.name, first.param, first.payload) == (0, "SET_IFM_DEPTH_M1", 5, None)
    assert (second.word, second.name) == (1, "SET_IFM_BASE0")
    assert (stop.word, stop.name) == (3, "OP_STOP")
    registers = Registers()
    registers.set(first)
    registers.set(second)
    assert registers["IFM_DEPTH_M1"] == 5
    assert registers.address("IFM_BASE0") == 0x1289ABCDEF
    assert registers.pair("IFM_BASE0") == (0x12, 0x89ABCDEF)


@pytest.mark.parametrize(
    ("param", "payload", "stride"),
    [(0, 96, 96), (0, 0xFFFFFFA0, 0xFFFFFFA0), (0xFF, 0xFFFFFFA0, -96)],
)
def test_strides_may_be_negative(param: int, payload: int, stride: int) -> None:
    registers = Registers()
    registers.set(next(decode(words(param << 16 | 0x4005, payload, STOP))))
    assert registers.signed_address("IFM_STRIDE_Y") == stride


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ([], "decoding at word 0: the stream ends without OP_STOP"),
        ([0x00050104], "decoding at word 1: the stream ends without OP_STOP"),
        ([0x00124000], "SET_IFM_BASE0 at word 0: the stream ends before the payload"),
        ([STOP, 0], "OP_STOP at word 0: 1 words follow"),
        ([0x000001FF, STOP], "decoding at word 0: 0x000001ff is no command"),
        ([0x00050504, STOP], "0x00050504 is no command"),
        ([0x00128000, 0, STOP], "0x00128000 is no command"),
        ([0x0012C000, 0, STOP], "0x0012c000 is no command"),
    ],
)
def test_broken_streams(stream: list[int], message: str) -> None:
    with pytest.raises(StreamError, match=message):
        list(decode(words(*stream)))


@given(st.lists(st.integers(0, 0xFFFFFFFF), max_size=30))
def test_any_words_are_commands_or_an_error(stream: list[int]) -> None:
    try:
        commands = list(decode(words(*stream)))
    except StreamError as error:
        assert error.word is not None
    else:
        assert commands[-1].name == "OP_STOP"
