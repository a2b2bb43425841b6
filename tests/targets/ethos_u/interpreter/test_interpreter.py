"""What changes when a program changes, and what is said of a broken one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbv3c.errors import UsageError
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import (
    InterpreterError,
    Program,
    StreamError,
    UnsupportedError,
    decode,
    read_driver_actions,
    read_program,
)
from tests.targets.ethos_u.interpreter.tosa_graphs import (
    INT8,
    Graph,
    compile_for,
    compile_to,
    random_inputs,
)

KERNEL_WAIT = 0x012  # until no operation is under way


@pytest.fixture(scope="module")
def graph() -> tuple[Graph, bytes]:
    """Return a 3x3 convolution to 32 bits, behind a table."""
    rng, graph = np.random.default_rng(5), Graph()
    x = graph.input((1, 5, 6, 16))
    x = graph.op("TABLE", [x, graph.const(rng.permutation(256) - 128, INT8)], x.shape, INT8)
    sums = graph.conv(x, rng.integers(-127, 128, (8, 3, 3, 16)), rng.integers(-99, 99, 8))
    return graph, graph.finish(sums)


@pytest.fixture(scope="module")
def file(graph: tuple[Graph, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_to(graph[1], "ethos-u55-128", tmp_path_factory.mktemp("npu"))


@pytest.fixture(scope="module")
def program(file: Path) -> Program:
    """Return the program; those made of it by `replace` share the weights it has decoded."""
    return read_program(file)


@pytest.fixture(scope="module")
def inputs(graph: tuple[Graph, bytes]) -> list[NDArray[Any]]:
    return random_inputs(graph[0])


@pytest.fixture(scope="module")
def output(program: Program, inputs: list[NDArray[Any]]) -> NDArray[Any]:
    return interpret(program, inputs)[0]


def register(program: Program, name: str) -> int:
    """Return the last value of a register."""
    found = [one for one in decode(program.words) if one.name == f"SET_{name}"]
    return found[-1].param if found[-1].payload is None else found[-1].payload


def with_constants(program: Program, change: Callable[[NDArray[np.uint8]], None]) -> Program:
    constants = program.constants.copy()
    change(constants)
    return replace(program, constants=constants)


def with_register(program: Program, name: str, value: int) -> Program:
    """Return the program with a register set to another value wherever it is set."""
    words = program.words.copy()
    for command in decode(program.words):
        if command.name == f"SET_{name}" and command.payload is None:
            words[command.word] = value << 16 | int(words[command.word]) & 0xFFFF
        elif command.name == f"SET_{name}":
            words[command.word + 1] = value
    return replace(program, words=words)


@pytest.mark.parametrize("part", range(3))
def test_every_bit_of_the_weights_counts(
    program: Program, inputs: list[NDArray[Any]], output: NDArray[Any], part: int
) -> None:
    base, length = register(program, "WEIGHT_BASE"), register(program, "WEIGHT_LENGTH")
    stream = program.constants[base : base + length]
    assert length > 900  # of 8x3x3x16 weights
    changed = refused = 0
    end = length - 16 - int(np.argmax(stream[::-1] != 0xFF))  # behind it only the end marker
    for position in np.random.default_rng(0).integers(0, end * 8, 30)[part::3]:

        def flip(constants: NDArray[np.uint8], at: int = int(position)) -> None:
            constants[base + at // 8] ^= 1 << at % 8

        try:
            (actual,) = interpret(with_constants(program, flip), inputs)
        except StreamError as error:
            assert error.operation == "OP_CONV"
            refused += 1
        else:
            assert not np.array_equal(actual, output), position
            changed += 1
    assert changed > 3
    assert refused > 0 or part == 1  # whose flips all leave a stream of the right length


@pytest.mark.parametrize("bit", range(0, 30, 3))
@pytest.mark.parametrize("channel", [0, 7])
def test_every_bit_of_a_bias_counts(
    program: Program, inputs: list[NDArray[Any]], output: NDArray[Any], channel: int, bit: int
) -> None:
    def flip(constants: NDArray[np.uint8]) -> None:
        constants[register(program, "SCALE_BASE") + 10 * channel + bit // 8] ^= 1 << bit % 8

    (actual,) = interpret(with_constants(program, flip), inputs)
    differs = (actual != output).any(axis=(0, 1))
    assert differs.tolist() == [number == channel for number in range(8)]


def test_every_entry_of_a_table_counts(
    program: Program, inputs: list[NDArray[Any]], output: NDArray[Any]
) -> None:
    copies = [one for one in decode(program.words) if one.name == "SET_DMA0_SRC"]
    assert copies

    def flip(constants: NDArray[np.uint8]) -> None:
        assert copies[0].payload is not None
        constants[copies[0].payload + 128 + int(inputs[0][0, 2, 2, 3])] ^= 1

    (actual,) = interpret(with_constants(program, flip), inputs)
    assert not np.array_equal(actual, output)


@pytest.mark.parametrize(
    ("name", "value"),
    [("IFM_ZERO_POINT", 1), ("OFM_ZERO_POINT", 1), ("IFM_BASE0", 16), ("IFM_STRIDE_Y", 80)],
)
def test_registers_count(
    program: Program,
    inputs: list[NDArray[Any]],
    output: NDArray[Any],
    name: str,
    value: int,
) -> None:
    try:
        (actual,) = interpret(with_register(program, name, value), inputs)
    except StreamError:
        return
    assert not np.array_equal(actual, output)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_corrupt_stream_is_an_error_or_another_program(
    program: Program, inputs: list[NDArray[Any]], data: st.DataObject
) -> None:
    words = program.words.copy()
    at = data.draw(st.integers(0, len(words) - 1))
    words[at] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    try:
        outputs = interpret(replace(program, words=words), inputs)
    except InterpreterError as error:
        assert str(error)
    else:
        assert outputs[0].shape == program.outputs[0].shape


@pytest.mark.parametrize("length", [0, 1, 7, 40, -3, -1])
def test_a_truncated_stream_is_an_error(
    program: Program, inputs: list[NDArray[Any]], length: int
) -> None:
    with pytest.raises(StreamError, match="at word"):
        interpret(replace(program, words=program.words[:length]), inputs)


def test_reads_of_what_nobody_wrote_are_errors(
    program: Program, inputs: list[NDArray[Any]]
) -> None:
    elsewhere = with_register(program, "IFM_REGION", 1)
    elsewhere = with_register(elsewhere, "IFM_BASE0", 640)
    with pytest.raises(StreamError, match=r"OP_POOL at word \d+: reads .* nothing was written to"):
        interpret(replace(elsewhere, scratch={1: 4096}), inputs)


@pytest.mark.parametrize(
    ("register_name", "value", "message"),
    [
        ("IFM_BASE0", 0x7FFFFFF0, "OP_POOL at word .*: reads bytes 0x7ffffff0 to .* of region 1"),
        ("OFM_BASE0", 0x7FFFFFF0, "OP_POOL at word .*: writes bytes 0x7ffffff0 to .* of region 1"),
        (
            "WEIGHT_BASE",
            0x7FFFFFF0,
            "OP_CONV at word .*: reads bytes 0x7ffffff0 to .* of region 0",
        ),
        ("DMA0_SRC", 0x7FFFFFF0, "OP_DMA_START at word .*: reads bytes .* of region 0"),
        ("OFM_REGION", 0, "writes to region 0, which holds the constants"),
        ("IFM_REGION", 6, "reads in region 6, which the program does not have"),
        ("WEIGHT_LENGTH", 16, "OP_CONV at word .*: the weight stream is corrupt: .*underrun"),
        ("SCALE_LENGTH", 16, "OP_CONV at word .*: 16 bytes of scales for 8 channels"),
        ("IFM_DEPTH_M1", 7, "channels"),
        ("ACC_FORMAT", 2, "accumulators of format 2"),
        ("ACTIVATION", 3, "activation 0x0003"),
        ("KERNEL_STRIDE", 1 << 5, "parts of 4x4 taps"),
        ("IFM_PRECISION", 0xD, "elements of 64 bits"),
        ("OFM_HEIGHT_M1", 0xFFFF, "bytes|elements"),
        ("OFM_PRECISION", 0x4101, "rounding mode 1"),
        ("DMA0_SRC_REGION", 1 << 9, "more than one dimension"),
    ],
)
def test_what_is_wrong_is_said(
    program: Program, inputs: list[NDArray[Any]], register_name: str, value: int, message: str
) -> None:
    with pytest.raises(InterpreterError, match=message):
        interpret(with_register(program, register_name, value), inputs)


def test_a_register_that_was_never_set_is_an_error(
    program: Program, inputs: list[NDArray[Any]]
) -> None:
    words = program.words[-2:]
    assert [one.name for one in decode(words)] == ["OP_CONV", "OP_STOP"]
    with pytest.raises(StreamError, match=r"OP_CONV at word 0: register \w+ was never set"):
        interpret(replace(program, words=words), inputs)


def test_a_sum_beyond_its_accumulator_is_an_error(
    program: Program, inputs: list[NDArray[Any]]
) -> None:
    def raise_bias(constants: NDArray[np.uint8]) -> None:
        constants[register(program, "SCALE_BASE") + 4] = 0x40

    with pytest.raises(StreamError, match="a sum overflows its 32-bit accumulator"):
        interpret(with_constants(program, raise_bias), inputs)


def test_a_table_may_be_lost_where_accumulators_overwrite_it(
    graph: tuple[Graph, bytes], inputs: list[NDArray[Any]], tmp_path: Path
) -> None:
    program = compile_for(graph[1], "ethos-u55-64", tmp_path)
    interpret(program, inputs)
    commands = list(decode(program.words))
    (conv,) = [one.word for one in commands if one.name == "OP_CONV"]
    # All once more, behind a convolution that has no table.
    wait = np.array([KERNEL_WAIT], np.uint32)
    again = np.concatenate([program.words[: conv + 1], wait, program.words])
    interpret(replace(program, words=again), inputs)
    copy = next(one.word for one in commands if one.name == "OP_DMA_START")
    without_copy = np.delete(again, conv + 2 + copy)
    with pytest.raises(StreamError, match=r"OP_POOL .* nothing was written to"):
        interpret(replace(program, words=without_copy), inputs)


def test_a_missing_wait_is_an_error(program: Program, inputs: list[NDArray[Any]]) -> None:
    waits = [one.word for one in decode(program.words) if one.name == "OP_DMA_WAIT"]
    assert waits
    for wait in waits:
        without = replace(program, words=np.delete(program.words, wait))
        with pytest.raises(StreamError, match=r"OP_DMA_START at word \d+ may still be using"):
            interpret(without, inputs)


def test_a_copy_over_what_is_still_read_is_an_error(
    program: Program, inputs: list[NDArray[Any]]
) -> None:
    twice = np.concatenate([program.words[:-1], program.words])
    with pytest.raises(StreamError, match=r"OP_DMA_START .* OP_POOL at word \d+ may still be"):
        interpret(replace(program, words=twice), inputs)


def test_an_output_over_its_own_input_is_an_error(
    program: Program, inputs: list[NDArray[Any]]
) -> None:
    words = with_register(program, "OFM_BASE0", register(program, "IFM_BASE0") + 16)
    with pytest.raises(StreamError, match=r"OP_\w+ at word \d+: writes over its own input"):
        interpret(replace(words, scratch={1: 1 << 20}), inputs)


@pytest.mark.parametrize(
    ("accelerator", "message"),
    [
        ("ethos-u65-512", r"Ethos-U65 with 512 MACs .* known: ethos-u55-32, .*ethos-u65-256"),
        ("ethos-u85-256", r"Ethos-U85 with 256 MACs"),
    ],
)
def test_other_accelerators_are_refused(
    graph: tuple[Graph, bytes], tmp_path: Path, accelerator: str, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        compile_for(graph[1], accelerator, tmp_path)


def test_inputs_must_fit(program: Program, inputs: list[NDArray[Any]]) -> None:
    with pytest.raises(UsageError, match="0 inputs for a program of 1"):
        interpret(program, [])
    with pytest.raises(UsageError, match=r"shape \[1, 5, 6, 16\] and int16 for one of shape"):
        interpret(program, [inputs[0].astype(np.int16)])
    with pytest.raises(UsageError, match=r"shape \[6, 5, 16\]"):
        interpret(program, [inputs[0][0].transpose(1, 0, 2)])


@pytest.mark.parametrize("size", [0, 3, 100, 2000])
def test_a_broken_file_is_an_error(file: Path, tmp_path: Path, size: int) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(file.read_bytes()[:size])
    with pytest.raises(StreamError, match=r"broken\.npz is not a raw output of vela"):
        read_program(broken)


def test_a_file_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="is not a raw output of vela"):
        read_program(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(StreamError, match="cmd_data"):
        read_program(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda payload: b"ELF0" + payload[4:], "does not begin with driver actions"),
        (lambda payload: payload[:8], "end within the accelerator's configuration"),
        (lambda payload: payload[:20], "hold no command stream"),
        (lambda payload: payload[:-4], r"announce \d+ words of commands, but \d+ follow"),
        (lambda payload: payload[:4] + b"\x09" + payload[5:], "driver action 9 at word 1"),
        (lambda payload: payload[:4] + payload[16:], "do not say for which accelerator"),
    ],
)
def test_a_broken_header_is_an_error(
    file: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    with np.load(file) as arrays:
        payload = arrays["cmd_data"].tobytes()
    read_driver_actions(payload)
    with pytest.raises(InterpreterError, match=message):
        read_driver_actions(change(payload))


def test_driver_actions_of_the_second_format_are_refused(
    graph: tuple[Graph, bytes], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="let vela write --cop-format COP1"):
        compile_for(graph[1], "ethos-u55-128", tmp_path, "--cop-format", "COP2")


MODES = (
    ("--optimise", "Size"),
    ("--optimise", "Performance", "--arena-cache-size", "1024"),
    ("--memory-mode", "Sram_Only"),
    ("--tensor-allocator", "LinearAlloc"),
)


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("accelerator", ["ethos-u55-128", "ethos-u65-256"])
def test_vela_may_place_things_elsewhere(
    graph: tuple[Graph, bytes],
    inputs: list[NDArray[Any]],
    output: NDArray[Any],
    tmp_path: Path,
    accelerator: str,
    options: tuple[str, ...],
) -> None:
    program = compile_for(graph[1], accelerator, tmp_path, *options)
    np.testing.assert_array_equal(interpret(program, inputs)[0], output)
