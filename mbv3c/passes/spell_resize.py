"""Spell Resize in the forms that TVM computes as ONNX defines them.

    Resize(x), nearest, floor(i / f)                ⇒   Resize(x, scales), asymmetric, floor
    Resize(x), nearest, anything else               ⇒   Gather(x, indices) per axis
    Resize(x), linear or cubic, by other factors    ⇒   Σ Gather(x, indices) · weights per axis
    Resize(x, constant roi), crop and resize        ⇒   the same sums, + what is outside
    Resize(x, empty roi, empty scales, sizes)       ⇒   Resize(x, sizes)

Linear enlarging by whole numbers stays, without antialias: backends have schedules for it. Of the
rest TVM 0.27 refuses some and computes some otherwise, such as sizes that are no multiple of the
input's. Indices and weights are not computed by a formula of ours: onnxruntime resizes an axis of
the identity matrix, so every rule of ONNX holds (coordinates, rounding, cubic, antialias). Source:
ONNX operator Resize-19.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from mbv3c.passes.names import FreeNames
from mbv3c.passes.report import PassReport, Refusal, Removal
from mbv3c.passes.upgrade_opset import OLDEST_WITH_HARDSWISH, opset_of

NAME = "spell_resize"
REMOVES = Removal(("Resize",), "whose sizes are constant")

_KEPT = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
_CROPS = "tf_crop_and_resize"
_WHOLE = (0.0, 1.0)
_MOST_TAPS = 16  # of one output along an axis; more are a reduction, and should be a pool
_FATAL_ONLY = 4
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

_Matrix = NDArray[np.float32]


def spell_resize(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Rewrite every Resize whose sizes are constant and that is not in such a form."""
    before = len(model.graph.node)
    if not any(node.op_type == "Resize" for node in model.graph.node):
        return model, PassReport(NAME, (), (), before, before, False)
    copy = shape_inference.infer_shapes(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*copy.graph.input, *copy.graph.value_info, *copy.graph.output)
    }
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*copy.graph.input, *copy.graph.value_info, *copy.graph.output)
    }
    free = FreeNames(copy.graph).take
    nodes, matched, refused = list[onnx.NodeProto](), list[str](), list[Refusal]()
    for node in copy.graph.node:
        if node.op_type != "Resize":
            nodes.append(node)
            continue
        kind = types.get(node.input[0], TensorProto.UNDEFINED)
        spelling = _Spelling(node, stored, shapes, kind, opset_of(model), free)
        made = spelling.nodes()
        if isinstance(made, str):
            refused.append(Refusal(node.name or node.output[0], made))
        if isinstance(made, str) or (len(made) == 1 and made[0] == node):
            nodes.append(node)
            continue
        nodes.extend(made)
        copy.graph.initializer.extend(spelling.constants)
        matched.append(node.name or node.op_type)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    report = PassReport(NAME, tuple(matched), tuple(refused), before, len(nodes), bool(matched))
    return (copy if matched else model), report


class _Spelling:
    """One Resize, and what stands in its place.

    Attributes:
        constants: what the new nodes read.
    """

    def __init__(
        self,
        node: onnx.NodeProto,
        stored: dict[str, NDArray[np.generic]],
        shapes: dict[str, tuple[int, ...]],
        kind: int,
        opset: int,
        free: Callable[[str], str],
    ) -> None:
        self.constants: list[onnx.TensorProto] = []
        self._node, self._kind, self._opset, self._free = node, kind, opset, free
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._operands = [
            stored.get(name, name) if name else None for name in [*node.input[1:], "", ""][:3]
        ]
        self._from = shapes.get(node.input[0], ())
        self._to = shapes.get(node.output[0], ())

    def nodes(self) -> list[onnx.NodeProto] | str:
        """Return the nodes, or why they cannot be written."""
        if self._opset < OLDEST_WITH_HARDSWISH:
            return f"the model has opset {self._opset}"
        if not self._from or not all(self._from) or not all(self._to):
            return "its sizes are computed when the model runs"
        if any(isinstance(operand, str) for operand in self._operands[1:]):
            return "its sizes are computed when the model runs"
        if self._crops and not self._rois:
            return f"the part that {_CROPS} cuts out is computed when the model runs"
        axes = [
            axis
            for axis, size in enumerate(self._to)
            if self._scale(axis) != 1.0 or self._rois.get(axis, _WHOLE) != _WHOLE
        ]
        mode = self._text("mode", "nearest")
        if not axes:
            return [self._made("Identity", [self._node.input[0]], self._node.output[0])]
        if (mode != "nearest" or self._crops) and self._kind not in _FLOATS:
            return "it adds up pixels that are no floats"
        matrices = {axis: self._matrix(axis) for axis in axes}
        if self._crops:
            return list(self._cropped(matrices))
        if mode == "nearest":
            return self._nearest(matrices)
        whole = all(
            self._to[axis] % self._from[axis] == 0
            and self._scale(axis) == self._to[axis] / self._from[axis]
            for axis in axes
        )
        kept = self._text("coordinate_transformation_mode", "half_pixel") in _KEPT
        if mode == "linear" and whole and kept and not self._attributes.get("antialias"):
            return [self._without_empty_inputs()]
        taps = max((int((matrix != 0).sum(1).max()) for matrix in matrices.values()), default=1)
        if taps > _MOST_TAPS:
            return f"every output is made of {taps} pixels along an axis"
        return list(self._sums(matrices))

    def _text(self, name: str, default: str) -> str:
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def _scale(self, axis: int) -> float:
        """Return the factor of an axis as the node says it."""
        scales = self._operands[1]
        if isinstance(scales, np.ndarray) and scales.size:
            chosen = list(self._attributes.get("axes", range(len(self._from))))
            chosen = [each % len(self._from) for each in chosen]
            return float(scales[chosen.index(axis)]) if axis in chosen else 1.0
        wanted = self._asked()
        if axis not in wanted or self._policy == "stretch":
            return self._to[axis] / self._from[axis]
        ratios = [size / self._from[each] for each, size in wanted.items()]
        return min(ratios) if self._policy == "not_larger" else max(ratios)

    @property
    def _policy(self) -> str:
        return self._text("keep_aspect_ratio_policy", "stretch")

    def _asked(self) -> dict[int, int]:
        """Return the sizes that the node says, by their axes; none where it says scales."""
        sizes = self._operands[2]
        if not isinstance(sizes, np.ndarray):
            return {}
        rank = len(self._from)
        axes = [axis % rank for axis in self._attributes.get("axes", range(rank))]
        return dict(zip(axes, map(int, sizes), strict=True))

    @property
    def _crops(self) -> bool:
        return self._text("coordinate_transformation_mode", "half_pixel") == _CROPS

    @property
    def _rois(self) -> dict[int, tuple[float, float]]:
        """Return where the part of an axis that is cut out starts and ends, as fractions."""
        roi = self._operands[0]
        if not self._crops or not isinstance(roi, np.ndarray) or not roi.size:
            return {}
        rank, half = len(self._from), roi.size // 2
        axes = [axis % rank for axis in self._attributes.get("axes", range(rank))]
        starts, ends = map(float, roi[:half]), map(float, roi[half:])
        return dict(zip(axes, zip(starts, ends, strict=True), strict=True))

    def _cropped(self, matrices: dict[int, _Matrix]) -> Iterator[onnx.NodeProto]:
        """Add up pixels, and put a value where there are none."""
        value = float(self._attributes.get("extrapolation_value", 0.0))
        inside = np.ones([1] * len(self._from), bool)
        for axis in matrices:
            shape = [-1 if dim == axis else 1 for dim in range(len(self._from))]
            inside = inside & (self._matrix(axis, outside=1.0) == matrices[axis]).all(1).reshape(
                shape
            )
        if value == 0 or inside.all():
            yield from self._sums(matrices)
            return
        parts = list(self._sums(matrices))
        sums = self._free(f"{self._node.output[0]}.inside")
        parts[-1].output[0], parts[-1].name = sums, sums
        yield from parts
        dtype = helper.tensor_dtype_to_np_dtype(self._kind)
        rest = self._stored(np.where(inside, 0, value).astype(dtype), f"{sums}.rest")
        yield self._made("Add", [sums, rest], self._node.output[0])

    def _matrix(self, axis: int, outside: float = 0.0) -> _Matrix:
        """Return what becomes of an axis, as a matrix: an output per row, a pixel per column.

        `outside` is the number where the part that is cut out has no pixels.
        """
        size = self._from[axis]
        attributes = {
            key: value
            for key, value in self._attributes.items()
            if key not in ("axes", "keep_aspect_ratio_policy")
        }
        scales, other = self._operands[1], 1
        # One pixel of the other axis becomes two, so that onnxruntime computes something always;
        # where proportions are kept, it is the axis that decides about the factor.
        if self._policy != "stretch":
            asked, kept = self._asked(), self._scale(axis)
            decides = next(at for at in asked if asked[at] / self._from[at] == kept)
            other = self._from[decides]
            sizes = np.array([asked[axis], asked[decides]], np.int64)
            attributes |= {"keep_aspect_ratio_policy": self._policy, "axes": [2, 3]}
            operand, inputs = numpy_helper.from_array(sizes, "operand"), ["x", "", "", "operand"]
        elif isinstance(scales, np.ndarray) and scales.size:
            factors = np.array([1, 1, self._scale(axis), 2], np.float32)
            operand, inputs = numpy_helper.from_array(factors, "operand"), ["x", "", "operand"]
        else:
            sizes = np.array([size, 1, self._to[axis], 2], np.int64)
            operand, inputs = numpy_helper.from_array(sizes, "operand"), ["x", "", "", "operand"]
        operands = [operand]
        if self._crops:
            start, end = self._rois.get(axis, _WHOLE)
            roi = np.array([0, 0, start, 0, 1, 1, end, 1], np.float32)
            operands.append(numpy_helper.from_array(roi, "roi"))
            inputs[1] = "roi"
            attributes |= {"extrapolation_value": outside}
        graph = helper.make_graph(
            [helper.make_node("Resize", inputs, ["y"], **attributes)],
            "axis",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, 1, size, other])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            operands,
        )
        opset = helper.make_opsetid("", self._opset)
        single = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(
            single.SerializeToString(), options, ["CPUExecutionProvider"]
        )
        identity = np.repeat(np.eye(size, dtype=np.float32)[:, None, :, None], other, axis=3)
        matrix: _Matrix = session.run(None, {"x": identity})[0][:, 0, :, 0].T
        return matrix

    def _nearest(self, matrices: dict[int, _Matrix]) -> list[onnx.NodeProto]:
        indices = {axis: matrix.argmax(1) for axis, matrix in matrices.items()}
        scales = [self._to[axis] / self._from[axis] for axis in range(len(self._from))]
        if all(
            scales[axis].is_integer()
            and np.array_equal(where, np.arange(len(where)) // int(scales[axis]))
            for axis, where in indices.items()
        ):
            return [self._plain_nearest(scales)]
        x, nodes = self._node.input[0], list[onnx.NodeProto]()
        for axis, where in indices.items():
            y = self._output(len(nodes), len(nodes) == len(indices) - 1)
            name = self._stored(where.astype(np.int64), f"{y}.indices")
            nodes.append(self._made("Gather", [x, name], y, axis=axis))
            x = y
        return nodes

    def _plain_nearest(self, scales: list[float]) -> onnx.NodeProto:
        wanted = {
            "mode": b"nearest",
            "coordinate_transformation_mode": b"asymmetric",
            "nearest_mode": b"floor",
        }
        operand = self._operands[1]
        if self._attributes == wanted and isinstance(operand, np.ndarray) and operand.size:
            return self._without_empty_inputs()
        y = self._node.output[0]
        name = self._stored(np.array(scales, np.float32), f"{y}.scales")
        return self._made("Resize", [self._node.input[0], "", name], y, **wanted)

    def _sums(self, matrices: dict[int, _Matrix]) -> Iterator[onnx.NodeProto]:
        """Add up, axis by axis, the pixels that an output is made of."""
        x, dtype = self._node.input[0], helper.tensor_dtype_to_np_dtype(self._kind)
        for position, (axis, matrix) in enumerate(matrices.items()):
            places = np.argsort(-np.abs(matrix), axis=1, kind="stable")
            taps = int((matrix != 0).sum(1).max())
            total = ""
            shape = [-1 if dim == axis else 1 for dim in range(len(self._from))]
            for tap in range(taps):
                where = places[:, tap]
                y = self._free(f"{self._node.output[0]}.{axis}.{tap}")
                indices = self._stored(where.astype(np.int64), f"{y}.indices")
                weights = matrix[np.arange(len(matrix)), where].reshape(shape)
                factor = self._stored(weights.astype(dtype), f"{y}.weights")
                yield self._made("Gather", [x, indices], f"{y}.pixels", axis=axis)
                last = position == len(matrices) - 1 and tap == taps - 1
                product = self._node.output[0] if last and taps == 1 else f"{y}.part"
                yield self._made("Mul", [f"{y}.pixels", factor], product)
                if total:
                    added = self._node.output[0] if last else f"{y}.sum"
                    yield self._made("Add", [total, product], added)
                    product = added
                total = product
            x = total

    def _output(self, position: int, last: bool) -> str:
        return self._node.output[0] if last else self._free(f"{self._node.output[0]}.{position}")

    def _made(
        self, op_type: str, inputs: list[str], output: str, **attributes: Any
    ) -> onnx.NodeProto:
        own = self._node.output[0]
        name = self._node.name or own
        if output != own:
            name = f"{name}{output[len(own) :]}"
        return helper.make_node(op_type, inputs, [output], name, **attributes)

    def _stored(self, array: NDArray[np.generic], name: str) -> str:
        free = self._free(name)
        self.constants.append(numpy_helper.from_array(array, free))
        return free

    def _without_empty_inputs(self) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(self._node)
        names = [
            "" if isinstance(operand, np.ndarray) and not operand.size else name
            for name, operand in zip(self._node.input[1:], self._operands, strict=False)
        ]
        while names and not names[-1]:
            names.pop()
        # roi is for cropping only.
        copy.input[:] = [self._node.input[0], *(["", *names[1:]] if names else [])]
        return copy
