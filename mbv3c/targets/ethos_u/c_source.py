"""A C header and source with a command stream, ready for Arm's driver of the Ethos-U."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.bundle import Golden
from mbv3c.feeds import only_array
from mbv3c.quoting import for_comment
from mbv3c.targets.ethos_u.devices import NpuOptions, NpuTarget
from mbv3c.targets.ethos_u.interpreter.program import scratch_bytes
from mbv3c.targets.ethos_u.lowering.region import Boundary, Region
from mbv3c.targets.ethos_u.memories import memories_of

_STEM = "model"
_PREFIX = "mbv3c_model"
_ALIGNMENT = 16  # bytes; what the driver asks for
_WORDS_A_LINE = 8
_BYTES_A_LINE = 24


@dataclass(frozen=True)
class StreamLayout:
    """Where things lie in the memory regions of a command stream.

    Attributes:
        commands: driver actions and command stream, for the driver.
        constants: weights, biases and tables.
        constants_region: number of the region of the constants.
        scratch: bytes of every other region, by the region's number.
        kinds: `arena`, or `cache` for the fast memory beside it, by the region's number.
        inputs, outputs: region and offset in bytes of each input and output.
    """

    commands: bytes
    constants: bytes
    constants_region: int
    scratch: dict[int, int]
    kinds: dict[int, str]
    inputs: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[int, int], ...]


def read_layout(raw: bytes) -> StreamLayout:
    """Read vela's raw output."""
    with np.load(io.BytesIO(raw)) as file:
        return layout_of(file)


def layout_of(file: Mapping[str, NDArray[Any]]) -> StreamLayout:
    """Return where things lie by the arrays of vela's raw output."""
    return StreamLayout(
        _bytes(file["cmd_data"]),
        _bytes(file["weight_data"]),
        int(file["weight_region"]),
        scratch_bytes(file),
        {int(file["scratch_fast_region"]): "cache", int(file["scratch_region"]): "arena"},
        *(
            tuple(
                (int(region), int(offset))
                for region, offset in zip(
                    file[f"{kind}_region"], file[f"{kind}_offset"], strict=True
                )
            )
            for kind in ("input", "output")
        ),
    )


def _bytes(array: NDArray[Any]) -> bytes:
    """Return a buffer that vela stored as a byte string, which has lost trailing zeros."""
    data = array.tobytes()
    return data + bytes(-len(data) % _ALIGNMENT)


@dataclass(frozen=True)
class CProgram:
    """What is written in C of a command stream.

    Attributes:
        layout: the command stream, and where things lie.
        target: the name of the device.
        memories: the names of the memories of `constants`, `arena` and `cache`, as vela has them.
        inputs, outputs: the ends of the stream.
        prefix: what the names of files and in C begin with; empty for `model.h`, `mbv3c_model`.
        float_io: whether to write functions that convert to and from fp32.
    """

    layout: StreamLayout
    target: str
    memories: Mapping[str, str]
    inputs: Sequence[Boundary]
    outputs: Sequence[Boundary]
    prefix: str = ""
    float_io: bool = False

    @property
    def stem(self) -> str:
        """What the names of files begin with."""
        return self.prefix or _STEM

    def name(self, name: str) -> str:
        """Return a name in C."""
        return f"{self.prefix or _PREFIX}_{name}"

    def macro(self, name: str) -> str:
        return self.name(name).upper()

    def array(self, name: str) -> str:
        """Declare an array of words."""
        return f"{self.name(name)}[{self.macro(f'{name}_SIZE')} / 4]"

    def section(self, kind: str, memory: str, name: str) -> str:
        """Return the name of a section: its kind, whose it is, its memory in snake case."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", memory).lower()
        return f".{kind}.{self.name(name)}.{words}"


def program_of(
    layout: StreamLayout, target: NpuTarget, options: NpuOptions, region: Region
) -> CProgram:
    """Return what is written in C of a stream."""
    return CProgram(
        layout,
        target.name,
        memories_of(target, options.knobs),
        region.inputs,
        region.outputs,
        options.prefix,
        options.float_io,
    )


def texts(program: CProgram, golden: Golden) -> dict[str, str]:
    """Return header, source and test vectors of a command stream, by the names of files.

    Args:
        program: what to write.
        golden: an input of the stream and what it gives, as the device has them.
    """
    return {
        f"{program.stem}.h": header(program),
        f"{program.stem}.c": source(program),
        f"{program.stem}_golden.h": "\n".join(_golden_header(program)) + "\n",
        f"{program.stem}_golden.c": "\n".join(_golden_source(program, golden)) + "\n",
    }


def header(program: CProgram) -> str:
    """Return the text of the header."""
    return "\n".join(_header(program)) + "\n"


def _header(program: CProgram) -> Iterator[str]:
    layout, macro = program.layout, program.macro
    regions = max([layout.constants_region, *layout.scratch]) + 1
    memories = program.memories
    yield f"/* A network for {program.target}; written by mbv3c. Nothing here is for another"
    yield " * accelerator."
    yield " *"
    yield " * With Arm's driver (ethos-u-core-driver), one inference is:"
    yield " *"
    yield f" *     uint64_t base[{macro('REGIONS')}];"
    yield f" *     size_t size[{macro('REGIONS')}];"
    yield " *     fill base and size as below; write the inputs to their places"
    yield f" *     ethosu_invoke_v3(driver, {program.name('commands')}, {macro('COMMANDS_SIZE')},"
    yield f" *                      base, size, {macro('REGIONS')}, NULL);"
    yield " *     read the outputs from their places"
    yield " *"
    yield " * The array of base addresses, by region, with the memory that vela counted on:"
    for region in range(regions):
        if region == layout.constants_region:
            place = f"{program.name('constants')}, in {memories['constants']}"
            yield f" *     base[{region}] = {place}"
        elif region in layout.scratch:
            extent, memory = macro(f"REGION_{region}_SIZE"), memories[layout.kinds[region]]
            section = macro(f"REGION_{region}_SECTION")
            yield f" *     base[{region}] = bytes to write to, in {memory}:"
            yield f" *         static uint8_t region_{region}[{extent}]"
            yield f" *             __attribute__((section({section}), aligned({_ALIGNMENT})));"
        else:
            yield f" *     base[{region}] = 0: not used"
    yield " *"
    yield " * Inputs and outputs are int8 in the order N, H, W, C, at base[region] + offset; an"
    yield " * integer q stands for (q - zero point) * scale. Words are little-endian."
    yield " */"
    yield f"#ifndef {macro('H')}"
    yield f"#define {macro('H')}"
    yield ""
    yield from _BEGIN
    yield f"#define {macro('COMMANDS_SIZE')} {len(layout.commands)}u"
    yield f"#define {macro('CONSTANTS_SIZE')} {len(layout.constants)}u"
    yield f"#define {macro('CONSTANTS_REGION')} {layout.constants_region}"
    yield f'#define {macro("CONSTANTS_MEMORY")} "{memories["constants"]}"'
    yield f"#define {macro('REGIONS')} {regions}"
    for region, size in sorted(layout.scratch.items()):
        yield f"#define {macro(f'REGION_{region}_SIZE')} {size}u"
        memory = memories[layout.kinds[region]]
        yield f'#define {macro(f"REGION_{region}_MEMORY")} "{memory}"'
    yield ""
    yield "/* Sections, for a linker script. One that knows none of them puts constants among what"
    yield " * is only read, scratch among what begins as zero. Define a name to choose another. */"
    yield from _sections(program)
    for kind, ends, places in (
        ("INPUT", program.inputs, layout.inputs),
        ("OUTPUT", program.outputs, layout.outputs),
    ):
        yield ""
        for index, (end, (region, offset)) in enumerate(zip(ends, places, strict=True)):
            name = f"{kind}_{index}"
            shape = ", ".join(map(str, end.device_shape))
            yield f"/* {for_comment(end.name)} */"
            yield f"#define {macro(f'{name}_SHAPE')} {{{shape}}}"
            yield f"#define {macro(f'{name}_SIZE')} {int(np.prod(end.device_shape))}u"
            yield f"#define {macro(f'{name}_REGION')} {region}"
            yield f"#define {macro(f'{name}_OFFSET')} {offset}u"
            yield f"#define {macro(f'{name}_SCALE')} {_float(end.quantization.scale)}"
            yield f"#define {macro(f'{name}_ZERO_POINT')} ({end.quantization.zero_point})"
    yield ""
    for name in ("commands", "constants"):
        yield f"extern const uint32_t {program.array(name)};"
    yield ""
    if program.float_io:
        yield "/* From fp32, laid out as in the ONNX model, to the device's integers, and back. */"
        yield from (f"{line};" for line in _conversions(program))
        yield ""
    yield from _END
    yield ""
    yield f"#endif /* {macro('H')} */"


_BEGIN = (
    *("#include <stddef.h>", "#include <stdint.h>", ""),
    *("#ifdef __cplusplus", 'extern "C" {', "#endif", ""),
)
_END = ("#ifdef __cplusplus", "}", "#endif")


def _sections(program: CProgram) -> Iterator[str]:
    layout, memories = program.layout, program.memories
    sections = {
        "COMMANDS": program.section("rodata", memories["constants"], "commands"),
        "CONSTANTS": program.section("rodata", memories["constants"], "constants"),
    }
    for region in sorted(layout.scratch):
        memory = memories[layout.kinds[region]]
        sections[f"REGION_{region}"] = program.section("bss", memory, f"region_{region}")
    for name, section in sections.items():
        macro = program.macro(f"{name}_SECTION")
        yield f"#ifndef {macro}"
        yield f'#define {macro} "{section}"'
        yield "#endif"


def source(program: CProgram) -> str:
    """Return the text of the source; with `float_io` its functions need no C library."""
    layout = program.layout
    parts = [f'#include "{program.stem}.h"\n']
    for name, data in (("commands", layout.commands), ("constants", layout.constants)):
        words = [f"0x{word:08x}" for word in np.frombuffer(data, "<u4")]
        section = program.macro(f"{name}_SECTION")
        parts.append(f"__attribute__((section({section}), aligned({_ALIGNMENT})))")
        parts.append(f"const uint32_t {program.array(name)} = {{")
        parts.append(_lines(words, _WORDS_A_LINE))
        parts.append("};\n")
    if program.float_io:
        parts.append(_ROUNDING)
        bodies = [*(_QUANTIZE for _ in program.inputs), *(_DEQUANTIZE for _ in program.outputs)]
        ends = [*program.inputs, *program.outputs]
        for head, body, end in zip(_conversions(program), bodies, ends, strict=True):
            parts.append(f"{head}\n{body % _numbers(end)}")
    return "\n".join(parts)


def _lines(words: Sequence[str], a_line: int) -> str:
    starts = range(0, len(words), a_line)
    return ",\n".join(",".join(words[start : start + a_line]) for start in starts)


def _vectors(program: CProgram) -> list[str]:
    """Declare the arrays of the test vectors: the inputs, then the outputs."""
    return [
        f"int8_t {program.name(f'golden_{kind}_{index}')}[{program.macro(f'{kind}_{index}_SIZE')}]"
        for kind, ends in (("input", program.inputs), ("output", program.outputs))
        for index, _ in enumerate(ends)
    ]


def _golden_header(program: CProgram) -> Iterator[str]:
    guard = program.macro("GOLDEN_H")
    yield "/* An input, and what the NPU must give for it, bit for bit. For tests on a board. */"
    yield f"#ifndef {guard}"
    yield f"#define {guard}"
    yield ""
    yield f'#include "{program.stem}.h"'
    yield ""
    yield from _BEGIN[3:]
    yield from (f"extern const {vector};" for vector in _vectors(program))
    yield ""
    yield from _END
    yield ""
    yield f"#endif /* {guard} */"


def _golden_source(program: CProgram, golden: Golden) -> Iterator[str]:
    yield f'#include "{program.stem}_golden.h"'
    arrays = [only_array(golden.input), *golden.outputs]
    for vector, array in zip(_vectors(program), arrays, strict=True):
        assert array.dtype == np.int8
        yield ""
        yield f"const {vector} = {{"
        yield _lines(list(map(str, array.ravel().tolist())), _BYTES_A_LINE)
        yield "};"


# Halves to even, as QuantizeLinear rounds: above 2^23 a float has no fraction. `volatile` keeps a
# compiler that may reorder sums from dropping this sum.
_ROUNDING = """\
static int8_t quantized(float x, float scale, int32_t zero_point)
{
    float steps = x / scale;
    volatile float shifted;
    int32_t q;
    if (!(steps > -1024.0f)) steps = -1024.0f;
    if (steps > 1024.0f) steps = 1024.0f;
    shifted = steps + 12582912.0f;
    q = (int32_t)(shifted - 12582912.0f) + zero_point;
    return (int8_t)(q < -128 ? -128 : q > 127 ? 127 : q);
}
"""
_QUANTIZE = """\
{
    uint32_t p, c;
    for (p = 0; p < %(places)du; ++p)
        for (c = 0; c < %(channels)du; ++c)
            q[p * %(channels)du + c] = quantized(x[c * %(places)du + p], %(scale)s, %(zero)d);
}
"""
_DEQUANTIZE = """\
{
    uint32_t p, c;
    for (p = 0; p < %(places)du; ++p)
        for (c = 0; c < %(channels)du; ++c)
            x[c * %(places)du + p] = (float)(q[p * %(channels)du + c] - (%(zero)d)) * %(scale)s;
}
"""


def _conversions(program: CProgram) -> list[str]:
    """Return the heads of the functions that convert inputs and outputs."""
    return [
        *(
            f"void {program.name(f'quantize_input_{index}')}(const float *x, int8_t *q)"
            for index, _ in enumerate(program.inputs)
        ),
        *(
            f"void {program.name(f'dequantize_output_{index}')}(const int8_t *q, float *x)"
            for index, _ in enumerate(program.outputs)
        ),
    ]


def _numbers(end: Boundary) -> dict[str, int | str]:
    """Return what the loops over an image's tensor need."""
    *places, channels = end.device_shape
    if end.channels_last:  # nothing moves
        places, channels = [1], int(np.prod(end.device_shape))
    return {
        "places": int(np.prod(places)),
        "channels": channels,
        "scale": _float(end.quantization.scale),
        "zero": end.quantization.zero_point,
    }


def _float(value: float) -> str:
    """Write a float of C, exactly."""
    return f"{value:.8e}f"
