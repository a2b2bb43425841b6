"""Give a model other ends; the network between them stays node for node as it is.

    frame (uint8, N, H, W, C) → Cast → Transpose → Div → Sub → Div → network
    network → scores → Softmax → TopK → scores of the best classes, their numbers

What the model computes is onnxruntime's on the converted frame, number for number: the steps are
those by which `mbv3c.quantization.images.read_image` prepares an image, in their order, in fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mbv3c.ends.ends import NO_ENDS, Ends, Frame, as_metadata, ends_of
from mbv3c.errors import UsageError
from mbv3c.graphs.load import fixed_shape, model_inputs, static_shape
from mbv3c.graphs.outputs import CLASS_AXES, CLASSES, metadata_of, with_class_names
from mbv3c.passes.names import FreeNames
from mbv3c.passes.upgrade_opset import opset_of
from mbv3c.quantization.image_metadata import COLOURS, LAYOUT, MEAN, SCALE, STD
from mbv3c.quantization.images import TO_ONE, Preprocessing, preprocessing

_TO_FIRST, _TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_LEAST_OPSET = 7  # the first that broadcasts as numpy does
_ROWS = 2  # rank of [N, classes]
_COUNTED = 10  # the first opset whose TopK reads its count
# Metadata of an image in fp32; of a frame its shape, its type and `mbv3c.frame` say as much.
_FOR_FLOATS = (MEAN, STD, SCALE, COLOURS, LAYOUT)


def with_ends(model: onnx.ModelProto, ends: Ends) -> onnx.ModelProto:
    """Return a copy that takes frames, and gives classes, as `ends` says.

    A model that has these ends already comes back as it is. The frame is an input of its own,
    `frame`; outputs are `probabilities`, or `scores` and `classes`, or as the model names them.

    Raises:
        UsageError: the model has other ends already, takes no image of three channels, or gives
            no class scores; or the labels are not one for each class.
        ModelError: its metadata are damaged.
    """
    known = ends_of(metadata_of(model))
    if ends in (NO_ENDS, known):
        return model
    if known != NO_ENDS:
        raise UsageError(
            "the model takes frames or gives classes already, as a bundle's model.onnx does; give "
            "the model that the bundle was made of"
        )
    if opset_of(model) < _LEAST_OPSET:
        raise UsageError(
            f"the model has opset {opset_of(model)}, and frames and outputs need "
            f"{_LEAST_OPSET}; convert it with --opset 17"
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(with_class_names(model, ends.labels))
    if ends.frame is not None:
        _take_frame(copy, ends.frame)
    if str(ends.outputs) or (ends.labels and _is_row(copy)):
        _give_classes(copy, ends)
    else:  # of a map or of boxes, labels are names and nothing else
        ends = replace(ends, labels=())
    entries = metadata_of(copy) | as_metadata(ends)
    del copy.metadata_props[:]
    for key, value in entries.items():
        copy.metadata_props.add(key=key, value=value)
    return copy


@dataclass
class _Chain:
    """Nodes one behind the other, which are named for what they make.

    Attributes:
        names: the names that are free.
        last: the tensor that the next node reads.
        nodes: the nodes so far, with their constants.
    """

    names: FreeNames
    last: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def add(
        self, operator: str, name: str, operand: NDArray[Any] | None = None, **attributes: Any
    ) -> None:
        made, inputs = self.names.take(name), [self.last]
        if operand is not None:
            inputs.append(self.constant(f"{name}.{operator.lower()}", operand))
        self.nodes.append(helper.make_node(operator, inputs, [made], made, **attributes))
        self.last = made

    def constant(self, name: str, array: NDArray[Any]) -> str:
        stored = self.names.take(name)
        value = numpy_helper.from_array(array, stored)
        self.nodes.append(helper.make_node("Constant", [], [stored], stored, value=value))
        return stored

    def end_in(self, name: str) -> None:
        """Give what the last node makes another name."""
        self.nodes[-1].output[0] = self.last = name


def _take_frame(model: onnx.ModelProto, frame: Frame) -> None:
    value = _image(model)
    shape, kind = fixed_shape(value), value.type.tensor_type.elem_type
    prepared = preprocessing(model, shape, frame.preparing)
    names = FreeNames(model.graph)
    chain = _Chain(names, names.take("frame"))
    taken = _layout(shape, prepared.channels_last, frame.layout == "NHWC")
    given = helper.make_tensor_value_info(chain.last, TensorProto.UINT8, taken)
    if kind in _FLOATS:
        chain.add("Cast", "frame.cast", to=TensorProto.FLOAT)
    if (frame.layout == "NHWC") != prepared.channels_last:
        perm = _TO_LAST if prepared.channels_last else _TO_FIRST
        chain.add("Transpose", "frame.layout", perm=perm)
    axis = 3 if prepared.channels_last else 1
    if frame.channels != prepared.channels:
        chain.add("Gather", "frame.colours", np.array([2, 1, 0], np.int64), axis=axis)
    if kind in _FLOATS:
        _normalize(chain, prepared)
    if kind in (TensorProto.FLOAT16, TensorProto.DOUBLE):
        chain.add("Cast", "frame.image", to=kind)
    if not chain.nodes:
        chain.add("Identity", "frame.image")
    chain.end_in(value.name)
    inputs = [given if one.name == value.name else one for one in model.graph.input]
    _replace(model.graph.input, inputs)
    _replace(model.graph.node, [*chain.nodes, *model.graph.node])
    left = [entry for entry in model.metadata_props if entry.key not in _FOR_FLOATS]
    _replace(model.metadata_props, left)


def _image(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the only input, which must hold numbers that a pixel can become."""
    value, *others = model_inputs(model)
    if others:
        names = ", ".join(one.name for one in others)
        raise UsageError(
            f"--input-type uint8 is for a model that takes one image, and this takes {names}, "
            "too; leave it out"
        )
    kind = value.type.tensor_type.elem_type
    if kind not in (*_FLOATS, TensorProto.UINT8):
        raise UsageError(
            f"--input-type uint8 is for a model that takes an image of floats or of uint8, and "
            f"{value.name!r} holds {TensorProto.DataType.Name(kind).lower()}; leave it out"
        )
    return value


def _normalize(chain: _Chain, prepared: Preprocessing) -> None:
    """Append the steps from pixels to numbers, but for those that change nothing."""
    mean, std = (np.array(row, np.float32) for row in (prepared.mean, prepared.std))
    if prepared.bgr:
        mean, std = mean[::-1], std[::-1]
    if prepared.scale == TO_ONE and not mean.any() and np.all(std == np.float32(TO_ONE)):
        return  # the model takes pixels as they are
    if prepared.scale == TO_ONE:
        chain.add("Div", "frame.scaled", np.array(255, np.float32))
    elif prepared.scale != 1:
        chain.add("Mul", "frame.scaled", np.array(prepared.scale, np.float32))
    for operator, name, row, nothing in (
        ("Sub", "frame.centred", mean, 0),
        ("Div", "frame.normalized", std, 1),
    ):
        if np.any(row != nothing):
            chain.add(operator, name, _by_channel(row, last=prepared.channels_last))


def _by_channel(row: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
    """Return numbers of the channels as they are broadcast; one number where all are equal."""
    if np.all(row == row[0]):
        return np.array(row[0], np.float32)
    return np.ascontiguousarray(row if last else row.reshape(1, -1, 1, 1))


def _layout(shape: Sequence[int], was_last: bool, becomes_last: bool) -> list[int]:
    if was_last == becomes_last:
        return list(shape)
    return [shape[axis] for axis in (_TO_LAST if becomes_last else _TO_FIRST)]


def _give_classes(model: onnx.ModelProto, ends: Ends) -> None:
    output = _scores(model)
    batch, count = static_shape(output) or (0, 0)
    if ends.outputs.top > count:
        raise UsageError(
            f"--outputs top{ends.outputs.top} is more than the {count} classes of {output.name!r}"
        )
    names = FreeNames(model.graph)
    chain, kind = _Chain(names, output.name), output.type.tensor_type.elem_type
    made = [output]
    if ends.outputs.softmax and not _is_softmax(model, output.name):
        _needs_floats(output)
        chain.add("Softmax", "probabilities", axis=1)
        made = [helper.make_tensor_value_info(chain.last, kind, (batch, count))]
    if ends.outputs.top:
        made = _best(chain, opset_of(model), kind, (batch, ends.outputs.top))
        model.metadata_props.add(key=CLASSES, value=str(count))
    _replace(model.graph.node, [*model.graph.node, *chain.nodes])
    _replace(model.graph.output, made)
    if made != [output]:  # what was said of the former outputs
        left = [one for one in model.metadata_props if one.key != f"mbv3c.{CLASS_AXES}"]
        _replace(model.metadata_props, left)


def _best(
    chain: _Chain, opset: int, kind: int, shape: tuple[int, int]
) -> list[onnx.ValueInfoProto]:
    """Append the choice of the best classes; of equal scores the first class comes first."""
    outputs = [chain.names.take(name) for name in ("scores", "classes")]
    node = helper.make_node("TopK", [chain.last], outputs, outputs[1], axis=1)
    if opset < _COUNTED:
        node.attribute.append(helper.make_attribute("k", shape[1]))
    else:
        node.input.append(chain.constant("classes.count", np.array(shape[1:], np.int64)))
    chain.nodes.append(node)
    return [
        helper.make_tensor_value_info(name, each, shape)
        for name, each in zip(outputs, (kind, TensorProto.INT64), strict=True)
    ]


def _is_row(model: onnx.ModelProto) -> bool:
    """Say whether a model has one output, with a row of numbers per image."""
    outputs = list(model.graph.output)
    return len(outputs) == 1 and len(static_shape(outputs[0]) or ()) == _ROWS


def _scores(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    outputs = list(model.graph.output)
    if not _is_row(model):
        listed = ", ".join(f"{one.name} {static_shape(one)}" for one in outputs)
        raise UsageError(
            "--outputs is for a model with one output, a row of class scores per image; this "
            f"gives {listed}"
        )
    only: onnx.ValueInfoProto = outputs[0]
    return only


def _needs_floats(output: onnx.ValueInfoProto) -> None:
    if output.type.tensor_type.elem_type not in _FLOATS:
        raise UsageError(f"--outputs softmax is for floats, and {output.name!r} holds integers")


def _is_softmax(model: onnx.ModelProto, name: str) -> bool:
    return any(node.op_type == "Softmax" and name in node.output for node in model.graph.node)


def _replace(held: Any, wanted: Sequence[Any]) -> None:
    copies = list(wanted)
    del held[:]
    held.extend(copies)
