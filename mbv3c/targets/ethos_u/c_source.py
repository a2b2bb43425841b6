"""A C header and source with a command stream, ready for Arm's driver of the Ethos-U."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.quoting import for_comment
from mbv3c.targets.ethos_u.interpreter.program import scratch_bytes
from mbv3c.targets.ethos_u.lowering.region import Boundary

HEADER = "model.h"
SOURCE = "model.c"
_PREFIX = "mbv3c_model"
_ALIGNMENT = 16  # bytes; what the driver asks for
_WORDS_A_LINE = 8


@dataclass(frozen=True)
class StreamLayout:
    """Where things lie in the memory regions of a command stream.

    Attributes:
        commands: driver actions and command stream, for the driver.
        constants: weights, biases and tables.
        constants_region: number of the region of the constants.
        scratch: bytes of every other region, by the region's number.
        inputs, outputs: region and offset in bytes of each input and output.
    """

    commands: bytes
    constants: bytes
    constants_region: int
    scratch: dict[int, int]
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


def header(
    layout: StreamLayout,
    target: str,
    inputs: Sequence[Boundary],
    outputs: Sequence[Boundary],
    *,
    float_io: bool = False,
) -> str:
    """Write model.h; with `float_io` it also declares functions that convert to and from fp32."""
    return "\n".join(_header(layout, target, inputs, outputs, float_io)) + "\n"


def _header(
    layout: StreamLayout,
    target: str,
    inputs: Sequence[Boundary],
    outputs: Sequence[Boundary],
    float_io: bool,
) -> Iterator[str]:
    regions = max([layout.constants_region, *layout.scratch]) + 1
    yield f"/* A network for {target}; written by mbv3c. Nothing here is for another accelerator."
    yield " *"
    yield " * With Arm's driver (ethos-u-core-driver), one inference is:"
    yield " *"
    yield f" *     static uint8_t scratch[...] __attribute__((aligned({_ALIGNMENT})));"
    yield f" *     uint64_t base[{_macro('REGIONS')}];"
    yield f" *     size_t size[{_macro('REGIONS')}];"
    yield " *     fill base and size as below; write the inputs to their places"
    yield f" *     ethosu_invoke_v3(driver, {_PREFIX}_commands, {_macro('COMMANDS_SIZE')},"
    yield f" *                      base, size, {_macro('REGIONS')}, NULL);"
    yield " *     read the outputs from their places"
    yield " *"
    yield " * The array of base addresses, by region:"
    for region in range(regions):
        if region == layout.constants_region:
            yield f" *     base[{region}] = {_PREFIX}_constants"
        elif region in layout.scratch:
            size = layout.scratch[region]
            yield f" *     base[{region}] = {size} bytes to write to, aligned to {_ALIGNMENT}"
        else:
            yield f" *     base[{region}] = 0: not used"
    yield " *"
    yield " * Inputs and outputs are int8 in the order N, H, W, C, at base[region] + offset; an"
    yield " * integer q stands for (q - zero point) * scale. Words are little-endian."
    yield " */"
    yield f"#ifndef {_macro('H')}"
    yield f"#define {_macro('H')}"
    yield ""
    yield "#include <stddef.h>"
    yield "#include <stdint.h>"
    yield ""
    yield "#ifdef __cplusplus"
    yield 'extern "C" {'
    yield "#endif"
    yield ""
    yield f"#define {_macro('COMMANDS_SIZE')} {len(layout.commands)}u"
    yield f"#define {_macro('CONSTANTS_SIZE')} {len(layout.constants)}u"
    yield f"#define {_macro('CONSTANTS_REGION')} {layout.constants_region}"
    yield f"#define {_macro('REGIONS')} {regions}"
    for region, size in sorted(layout.scratch.items()):
        yield f"#define {_macro(f'REGION_{region}_SIZE')} {size}u"
    for kind, ends, places in (
        ("INPUT", inputs, layout.inputs),
        ("OUTPUT", outputs, layout.outputs),
    ):
        yield ""
        for index, (end, (region, offset)) in enumerate(zip(ends, places, strict=True)):
            name = f"{kind}_{index}"
            shape = ", ".join(map(str, end.device_shape))
            yield f"/* {for_comment(end.name)} */"
            yield f"#define {_macro(f'{name}_SHAPE')} {{{shape}}}"
            yield f"#define {_macro(f'{name}_SIZE')} {int(np.prod(end.device_shape))}u"
            yield f"#define {_macro(f'{name}_REGION')} {region}"
            yield f"#define {_macro(f'{name}_OFFSET')} {offset}u"
            yield f"#define {_macro(f'{name}_SCALE')} {_float(end.quantization.scale)}"
            yield f"#define {_macro(f'{name}_ZERO_POINT')} ({end.quantization.zero_point})"
    yield ""
    for name in ("commands", "constants"):
        yield f"extern const uint32_t {_array(name)};"
    yield ""
    if float_io:
        yield "/* From fp32, laid out as in the ONNX model, to the device's integers, and back. */"
        yield from (f"{line};" for line in _conversions(inputs, outputs))
        yield ""
    yield "#ifdef __cplusplus"
    yield "}"
    yield "#endif"
    yield ""
    yield f"#endif /* {_macro('H')} */"


def source(
    layout: StreamLayout,
    inputs: Sequence[Boundary],
    outputs: Sequence[Boundary],
    *,
    float_io: bool = False,
) -> str:
    """Write model.c; with `float_io` also functions to and from fp32, which need no C library."""
    parts = [f'#include "{HEADER}"\n']
    for name, data in (("commands", layout.commands), ("constants", layout.constants)):
        words = [f"0x{word:08x}" for word in np.frombuffer(data, "<u4")]
        lines = [
            ",".join(words[start : start + _WORDS_A_LINE])
            for start in range(0, len(words), _WORDS_A_LINE)
        ]
        aligned = f"__attribute__((aligned({_ALIGNMENT})))"
        parts.append(f"const uint32_t {_array(name)} {aligned} = {{")
        parts.append(",\n".join(lines))
        parts.append("};\n")
    if float_io:
        parts.append(_ROUNDING)
        bodies = [*(_QUANTIZE for _ in inputs), *(_DEQUANTIZE for _ in outputs)]
        ends = [*inputs, *outputs]
        for head, body, end in zip(_conversions(inputs, outputs), bodies, ends, strict=True):
            parts.append(f"{head}\n{body % _numbers(end)}")
    return "\n".join(parts)


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


def _conversions(inputs: Sequence[Boundary], outputs: Sequence[Boundary]) -> list[str]:
    """Return the heads of the functions that convert inputs and outputs."""
    return [
        *(
            f"void {_PREFIX}_quantize_input_{index}(const float *x, int8_t *q)"
            for index, _ in enumerate(inputs)
        ),
        *(
            f"void {_PREFIX}_dequantize_output_{index}(const int8_t *q, float *x)"
            for index, _ in enumerate(outputs)
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


def _array(name: str) -> str:
    return f"{_PREFIX}_{name}[{_macro(f'{name.upper()}_SIZE')} / 4]"


def _float(value: float) -> str:
    """Write a float of C, exactly."""
    return f"{value:.8e}f"


def _macro(name: str) -> str:
    return f"{_PREFIX.upper()}_{name}"
