"""Small TOSA graphs: built with Arm's serializer, run by its reference model, compiled by vela.

They need `pip install ethos-u-vela==5.2.0 tosa-tools==2026.8.0`.
"""

import contextlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tosa_reference_model
import tosa_serializer
from ethosu.vela import vela
from numpy.typing import NDArray
from tosa.TosaGraph import TosaGraph

from mbv3c.targets.ethos_u.interpreter.program import Program, read_program

Type, Op, Rounding = tosa_serializer.DType, tosa_serializer.Op, tosa_serializer.RoundingMode
NanMode, Resize = tosa_serializer.NanPropagationMode, tosa_serializer.ResizeMode
INT8, INT16, INT32, INT48 = Type.INT8, Type.INT16, Type.INT32, Type.INT48
_NUMPY = {INT8: np.int8, INT16: np.int16, INT32: np.int32, INT48: np.int64, Type.SHAPE: np.int64}
# Where the attribute's name does not follow from the operator's.
_SPELLINGS = {"ARGMAX": "ARG_MAX", "MATMUL": "MAT_MUL"}
_SYSTEMS = {
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_High_End", "Dedicated_Sram_384KB"),
    "ethos-u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}


class Graph:
    """A graph under construction; tensors are the serializer's, with name, shape and dtype."""

    def __init__(self) -> None:
        self.serializer = tosa_serializer.TosaSerializer(
            "", tosa_serializer.ConstMode.EMBED, 1, 0, 0, False
        )
        self.inputs: list[Any] = []
        self.count = 0

    def _name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def input(self, shape: Sequence[int], dtype: Any = INT8) -> Any:
        tensor = tosa_serializer.TosaSerializerTensor(self._name(), list(shape), dtype)
        self.serializer.addInputTensor(tensor)
        self.inputs.append(tensor)
        return tensor

    def const(self, values: Any, dtype: Any) -> Any:
        array = np.ascontiguousarray(values, _NUMPY[dtype])
        return self.serializer.addConst(list(array.shape), dtype, array, self._name())

    def shape(self, *sizes: int) -> Any:
        return self.const(sizes, Type.SHAPE)

    def op(
        self, name: str, inputs: Sequence[Any], shape: Sequence[int], dtype: Any, *attributes: Any
    ) -> Any:
        kind = tosa_serializer.TosaSerializerAttribute()
        words = "".join(
            word.capitalize()
            for word in {"ARGMAX": "ARG_MAX", "MATMUL": "MAT_MUL"}.get(name, name)
            .lower()
            .split("_")
        )
        getattr(kind, f"{words}Attribute")(*attributes)
        block = self.serializer.currRegion.currBasicBlock
        out = block.addTensor(self._name(), [int(one) for one in shape], dtype)
        self.serializer.addOperator(
            getattr(Op, name), [one.name for one in inputs], [out.name], kind
        )
        return out

    def rescale(
        self,
        x: Any,
        scale: Any,
        dtype: Any = INT8,
        in_zero: int = 0,
        out_zero: int = 0,
        rounding: Any = None,
    ) -> Any:
        """Rescale by one real factor or one a channel."""
        pairs = [_multiplier(float(one)) for one in np.atleast_1d(scale)]
        operands = [
            self.const([one[0] for one in pairs], INT32),
            self.const([one[1] for one in pairs], INT8),
            self.const([in_zero], x.dtype),
            self.const([out_zero], dtype),
        ]
        mode = Rounding.SINGLE_ROUND if rounding is None else rounding
        return self.op(
            "RESCALE", [x, *operands], x.shape, dtype, True, mode, len(pairs) > 1, False, False
        )

    def conv(
        self,
        x: Any,
        weights: NDArray[Any],
        bias: NDArray[Any],
        pad: Sequence[int] = (0, 0, 0, 0),
        stride: Sequence[int] = (1, 1),
        dilation: Sequence[int] = (1, 1),
        zero: int = 0,
        depthwise: bool = False,
    ) -> Any:
        """Convolve, into 32 bits (48 of 16-bit inputs); weights are OHWI, or HWC1 if depthwise."""
        top, bottom, left, right = pad
        height, width = weights.shape[0:2] if depthwise else weights.shape[1:3]
        n, rows, columns, _ = x.shape
        shape = (
            n,
            (rows - 1 + top + bottom - (height - 1) * dilation[0]) // stride[0] + 1,
            (columns - 1 + left + right - (width - 1) * dilation[1]) // stride[1] + 1,
            len(bias),
        )
        operands = [x, self.const(weights, INT8), self.const(bias, INT32)]
        operands += [self.const([zero], x.dtype), self.const([0], INT8)]
        name = "DEPTHWISE_CONV2D" if depthwise else "CONV2D"
        return self.op(
            name, operands, shape, INT32, list(pad), list(stride), list(dilation), False, INT32
        )

    def pool(
        self,
        x: Any,
        kernel: Sequence[int],
        stride: Sequence[int],
        pad: Sequence[int] = (0,) * 4,
        zero: int = 0,
        kind: str = "AVG",
    ) -> Any:
        top, bottom, left, right = pad
        n, rows, columns, channels = x.shape
        shape = (
            n,
            (rows + top + bottom - kernel[0]) // stride[0] + 1,
            (columns + left + right - kernel[1]) // stride[1] + 1,
            channels,
        )
        geometry = (list(kernel), list(stride), list(pad))
        if kind == "MAX":
            return self.op("MAX_POOL2D", [x], shape, x.dtype, *geometry, NanMode.PROPAGATE)
        zeros = [self.const([zero], x.dtype), self.const([zero], x.dtype)]
        return self.op("AVG_POOL2D", [x, *zeros], shape, x.dtype, *geometry, INT32)

    def unsigned(self, x: Any, in_zero: int, out_zero: int, *, out: bool) -> Any:
        """Take 8-bit elements for unsigned ones, behind this if `out`, else before it."""
        zeros = [np.uint8([zero]).view(np.int8) for zero in (in_zero, out_zero)]
        operands = [self.const([1 << 30], INT32), self.const([30], INT8)]
        operands += [self.const(zero, INT8) for zero in zeros]
        mode = (True, Rounding.SINGLE_ROUND, False, not out, out)
        return self.op("RESCALE", [x, *operands], x.shape, INT8, *mode)

    def finish(self, *outputs: Any) -> bytes:
        for tensor in outputs:
            self.serializer.addOutputTensor(tensor)
        return bytes(self.serializer.serialize())


def version_of(tosa: bytes) -> tuple[int, int, int]:
    found = TosaGraph.GetRootAs(tosa, 0).Version()
    return found._Major(), found._Minor(), found._Patch()


def random_inputs(graph: Graph, seed: int = 0) -> list[NDArray[Any]]:
    rng = np.random.default_rng(seed)
    arrays = []
    for tensor in graph.inputs:
        limits = np.iinfo(_NUMPY[tensor.dtype])
        # 32-bit sums must not overflow.
        low, high = (-(1 << 20), 1 << 20) if limits.bits == 32 else (limits.min, limits.max + 1)
        arrays.append(rng.integers(low, high, tensor.shape).astype(_NUMPY[tensor.dtype]))
    return arrays


def reference(tosa: bytes, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    outputs, status = tosa_reference_model.run(tosa, list(inputs))
    assert status == tosa_reference_model.GraphStatus.TOSA_VALID, status
    return list(outputs)


def compile_for(tosa: bytes, accelerator: str, folder: Path, *options: str) -> Program:
    return read_program(compile_to(tosa, accelerator, folder, *options))


def compile_to(tosa: bytes, accelerator: str, folder: Path, *options: str) -> Path:
    source = folder / "graph.tosa"
    source.write_bytes(tosa)
    system, memory = _SYSTEMS[accelerator[:9]]
    arguments = [str(source), "--output-format", "raw", "--output-dir", str(folder)]
    arguments += ["--accelerator-config", accelerator, "--config", "Arm/vela.ini"]
    arguments += ["--system-config", system, "--memory-mode", memory]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        vela.main([*arguments, *options])
    assert "CPU operators = 0" in said.getvalue(), said.getvalue()
    return folder / "graph_vela.npz"


def _multiplier(scale: float) -> tuple[int, int]:
    mantissa, exponent = math.frexp(scale)
    multiplier, shift = round(mantissa * (1 << 31)), 31 - exponent
    if multiplier == 1 << 31:
        multiplier, shift = multiplier >> 1, shift - 1
    while shift > 62:
        multiplier, shift = multiplier >> 1, shift - 1
    assert 2 <= shift <= 62, (scale, shift)
    return multiplier, shift
