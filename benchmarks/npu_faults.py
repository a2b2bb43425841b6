"""Plant single faults in the command stream of an NPU bundle and see whether `verify` finds them.

    .venv-npu/bin/python -m benchmarks.npu_faults BUNDLE [--interpret] [--places N] [--write]

Weights are decompressed, changed and compressed again by vela's codec, in their place; biases,
scales and entries of tables are changed as they lie among the constants; registers are changed in
the words of the commands. Counted is what `verify` finds by having vela make the stream once more,
and, with `--interpret`, by interpreting it on two inputs and comparing its constants with TOSA's.
"""

import argparse
import io
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from ethosu import mlw_codec
from numpy.typing import NDArray

from benchmarks.results import replace_section
from mbv3c.bundle import NPU_STREAM
from mbv3c.parity.inputs import inputs_of
from mbv3c.targets import open_bundle
from mbv3c.targets.ethos_u.backend import BACKEND
from mbv3c.targets.ethos_u.compiling import compiled_by_vela, lowering, run_tosa
from mbv3c.targets.ethos_u.interpreter.program import Program, Registers, decode, read_program
from mbv3c.targets.ethos_u.lowering.device_graph import device_graph
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.lowering.region import Region
from mbv3c.targets.ethos_u.made_again import entries_of, stream_differences
from mbv3c.targets.ethos_u.manifest import manifest_of
from mbv3c.targets.ethos_u.placement import npu_part
from mbv3c.targets.ethos_u.verify import check_stream

PLACES = 54
TITLE = "Single faults in the command stream of an NPU"
_RECORD, _BIAS_BYTES, _SCALE_BYTES = 10, 5, 4  # of a channel: bias, scale, shift
_TABLE = 256
_TRIES = 200
_WEIGHTS = {"weight 1 step off": 1, "weight 10 steps off": 10, "weight of the other sign": 0}
_BIAS, _SCALE = "bias off by 20", "scale off by 1"
_TABLE_STEP = "entry of a table 1 step off"
_PARAMETER, _PAYLOAD = "register of 16 bits off by 1", "register of 32 bits off by 1"
KINDS = (*_WEIGHTS, _BIAS, _SCALE, _TABLE_STEP, _PARAMETER, _PAYLOAD)

T = TypeVar("T")
Block = tuple[int, int]  # offset among the constants, and bytes


@dataclass
class Constants:
    """Where constants lie in their region.

    Attributes:
        weights: compressed weights of an operation each.
        scales: records of the channels of an operation each.
        tables: tables of 256 bytes.
    """

    weights: list[Block] = field(default_factory=list)
    scales: list[Block] = field(default_factory=list)
    tables: list[Block] = field(default_factory=list)


def constants_of(program: Program) -> Constants:
    """Follow the commands of a stream to its constants, also where they are copied first."""
    registers, found = Registers(), Constants()
    copied: list[tuple[int, int, Block]] = []  # region, address, and what lies there

    def place(region: int, address: int, size: int) -> Block | None:
        if region == program.constants_region:
            return address, size
        for to, begin, (source, length) in reversed(copied):
            if to == region and begin <= address and address + size <= begin + length:
                return source + address - begin, size
        return None

    for command in decode(program.words):
        if command.name.startswith("SET_"):
            registers.set(command)
        elif command.name == "OP_DMA_START":
            block = registers.address("DMA0_SRC"), registers.address("DMA0_LEN")
            if registers["DMA0_SRC_REGION"] == program.constants_region:
                to = registers["DMA0_DST_REGION"]
                copied.append((to, registers.address("DMA0_DST"), block))
                if to >> 8 & 1:  # the accelerator's own memory: tables
                    found.tables += [(block[0] + at, _TABLE) for at in range(0, block[1], _TABLE)]
        elif command.name in ("OP_CONV", "OP_DEPTHWISE"):
            for kind, blocks in (("WEIGHT", found.weights), ("SCALE", found.scales)):
                block_of = place(
                    registers[f"{kind}_REGION"],
                    registers.address(f"{kind}_BASE"),
                    registers.address(f"{kind}_LENGTH"),
                )
                assert block_of is not None
                blocks.append(block_of)
    return Constants(*(sorted(set(blocks)) for blocks in vars(found).values()))


def changed_weights(data: bytes, kind: str, rng: np.random.Generator) -> bytes | None:
    """Return compressed weights of which one is another, in as many bytes; None if none fits."""
    weights = list(mlw_codec.decode(bytearray(data)))
    for _ in range(_TRIES):
        at = int(rng.choice(np.flatnonzero(weights)))
        step = _WEIGHTS[kind]
        wrong = weights[at] + (-step if weights[at] > 0 else step) if step else -weights[at]
        other = [*weights[:at], wrong, *weights[at + 1 :]]
        packed = bytes(mlw_codec.encode(other))
        if len(packed) <= len(data):
            packed = packed.ljust(len(data), b"\xff")
            assert list(mlw_codec.decode(bytearray(packed))) == other
            return packed
    return None


def with_another_weight(
    stored: bytes, begin: int, blocks: Sequence[Block], kind: str, rng: np.random.Generator
) -> bytes:
    """Return constants with another weight, in the first block where it takes no more room."""
    for offset, size in blocks:
        at = begin + offset
        block = changed_weights(stored[at : at + size], kind, rng)
        if block is not None:
            return stored[:at] + block + stored[at + size :]
    raise AssertionError("no weight can be changed in its place")


def added(data: bytes, at: int, size: int, by: int) -> bytes:
    """Return bytes in which a little-endian number is another."""
    number = (int.from_bytes(data[at : at + size], "little") + by) % (1 << 8 * size)
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


def faults(raw: bytes, program: Program, kind: str, count: int) -> Iterator[bytes]:
    """Yield files of streams, each with one fault, spread over all that there is of a kind."""
    rng = np.random.default_rng(KINDS.index(kind))
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        stored = archive.read("weight_data.npy")
        commands = archive.read("cmd_data.npy")
    constants, words = constants_of(program), len(program.words)
    begin, first = len(stored) - len(program.constants), len(commands) - 4 * words
    if kind in (_PARAMETER, _PAYLOAD):
        registers = [one for one in decode(program.words) if one.name.startswith("SET_")]
        with_payload = [one for one in registers if (one.payload is None) == (kind == _PARAMETER)]
        for one in _spread(with_payload, count):
            at = first + 4 * one.word + (2 if kind == _PARAMETER else 4)
            yield replaced(raw, "cmd_data.npy", added(commands, at, 2 if at % 4 else 4, 1))
        return
    blocks = {_BIAS: constants.scales, _SCALE: constants.scales, _TABLE_STEP: constants.tables}
    given = blocks.get(kind, constants.weights)
    for offset, size in _spread(given, count):
        at = begin + offset
        if kind in _WEIGHTS:
            others = [given[i] for i in rng.permutation(len(given))]
            wrong = with_another_weight(stored, begin, [(offset, size), *others], kind, rng)
        elif kind == _TABLE_STEP:
            wrong = added(stored, at + int(rng.integers(size)), 1, 1)
        else:
            record = at + _RECORD * int(rng.integers(size // _RECORD))
            if not any(stored[record : record + _RECORD]):
                record = at  # not the filling behind the last channel
            if kind == _BIAS:
                wrong = added(stored, record, _BIAS_BYTES, 20)
            else:
                wrong = added(stored, record + _BIAS_BYTES, _SCALE_BYTES, 1)
        yield replaced(raw, "weight_data.npy", wrong)


def _spread(items: list[T], count: int) -> list[T]:
    return [items[int(i * len(items) / count) % len(items)] for i in range(count)]


def replaced(raw: bytes, name: str, data: bytes) -> bytes:
    """Return an .npz file with another entry."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as given, zipfile.ZipFile(made, "w") as archive:
        for entry in given.infolist():
            archive.writestr(entry, data if entry.filename == name else given.read(entry))
    return made.getvalue()


@dataclass
class Row:
    """What became of the faults of one kind."""

    kind: str
    planted: int = 0
    by_interpreting: int = 0
    by_files: int = 0


@dataclass(frozen=True)
class Checked:
    """What streams are checked with: the network, inputs, TOSA's outputs, and vela's files."""

    region: Region
    inputs: list[NDArray[np.int8]]
    outputs: list[list[NDArray[np.generic]]]
    wanted: dict[str, bytes]


def checked_with(path: Path) -> Checked:
    """Prepare what `verify` prepares for a bundle."""
    bundle = open_bundle(path)
    npu, device = manifest_of(bundle).npu, BACKEND.device_of(bundle)
    quantized = device_graph(onnx.load(bundle.compiled_model))
    region = npu_part(partition(quantized, lowering(npu.knobs.mean, device)))
    x = region.inputs[0].to_device(inputs_of(onnx.load(bundle.model))[0])
    noise = np.random.default_rng(20190506).integers(-128, 128, x.shape).astype(np.int8)
    made = compiled_by_vela(
        region.tosa, device, npu.knobs, npu.sram_budget_bytes, tuned=npu.tuned is not None
    )
    outputs = [run_tosa(region.tosa, [given]) for given in (x, noise)]
    return Checked(region, [x, noise], outputs, entries_of(io.BytesIO(made.raw)))


def measure(path: Path, count: int, *, interpreted: bool) -> Iterator[Row]:
    """Plant faults in a bundle's stream, one by one, and count those that are found."""
    checked, raw = checked_with(path), (path / NPU_STREAM).read_bytes()
    assert not [*stream_differences(entries_of(io.BytesIO(raw)), checked.wanted)]
    program = read_program(path / NPU_STREAM)
    with tempfile.TemporaryDirectory() as folder:
        forged = Path(folder) / NPU_STREAM
        for kind in KINDS:
            row = Row(kind)
            for wrong in faults(raw, program, kind, count):
                forged.write_bytes(wrong)
                if interpreted:
                    inputs = [[x] for x in checked.inputs]
                    given = (checked.region, inputs, checked.outputs)
                    row.by_interpreting += check_stream(forged, *given)[0] is not True
                differing = [*stream_differences(entries_of(io.BytesIO(wrong)), checked.wanted)]
                row.planted += 1
                row.by_files += len(differing) == 1
            yield row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.npu_faults", description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle for an NPU that is interpreted")
    parser.add_argument("--interpret", action="store_true", help="interpret the streams, too")
    parser.add_argument("--places", type=int, default=PLACES, help="places of each kind")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    more = " | found by interpreting" if arguments.interpret else ""
    lines = [
        f"| fault | planted | found by making it once more{more} |",
        "|---|--:|--:|" + ("--:|" if more else ""),
    ]
    rows = []
    for row in measure(arguments.bundle, arguments.places, interpreted=arguments.interpret):
        rows.append(row)
        shown = f" | {row.by_interpreting}" if more else ""
        lines.append(f"| {row.kind} | {row.planted} | {row.by_files}{shown} |")
        print(lines[-1], flush=True)
    if arguments.write:
        replace_section(TITLE, "\n".join(lines))
    return 0 if all(row.planted == row.by_files for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
