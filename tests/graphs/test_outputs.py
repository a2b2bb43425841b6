"""Which axis of an output has the classes."""

import onnx
import pytest

from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.outputs import (
    Output,
    class_axes,
    class_axis,
    class_count,
    class_names,
    metadata_of,
    with_class_names,
)
from tests.onnx_text import graph

SHAPES = [(1, 10, 4), (1, 10, 7)]


def model(entry: str | None = None) -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 10, 4] x) => (float[1, 10, 4] boxes, float[1, 10, 7] scores)
        <float[4, 7] w = {}> { boxes = Neg(x) scores = MatMul(x, w) }"""
    )
    if entry is not None:
        parsed.metadata_props.add(key="mbv3c.class_axes", value=entry)
    return parsed


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((), None),
        ((10,), 0),
        ((1, 10), 1),
        ((1, 4), 1),
        ((1, 3234, 91), 2),
        ((1, 3234, 4), None),
        ((1, 21, 96, 96), 1),
        ((1, 2, 3, 4, 5), None),
    ],
)
def test_by_shape(shape: tuple[int, ...], axis: int | None) -> None:
    assert class_axis(shape) == axis


@pytest.mark.parametrize(
    ("entry", "axes"),
    [
        (None, [None, 2]),
        ('{"boxes": null, "scores": 2}', [None, 2]),
        ('{"scores": 1}', [None, 1]),
        ('{"boxes": 2, "scores": null}', [2, None]),
    ],
)
def test_metadata_come_first(entry: str | None, axes: list[int | None]) -> None:
    assert class_axes(model(entry), SHAPES) == axes


@pytest.mark.parametrize(
    "entry", ["", "[1]", '{"scores": 3}', '{"scores": "2"}', '{"other": 1}', '{"scores": true}']
)
def test_metadata_that_do_not_fit_are_refused(entry: str) -> None:
    with pytest.raises(ModelError, match=r"mbv3c\.class_axes is .*does not fit its outputs"):
        class_axes(model(entry), SHAPES)


@pytest.mark.parametrize("key", ["mbv3c.class_names", "class_names"])
def test_class_names_are_read(key: str) -> None:
    assert class_names({key: '["ant", "bee"]'}, 2) == ("ant", "bee")
    assert class_names({}, 2) is None


@pytest.mark.parametrize("entry", ["ant,bee", '["ant"]', '["ant", 1]', "{}"])
def test_damaged_class_names_are_refused(entry: str) -> None:
    with pytest.raises(ModelError, match="JSON list of 2 names"):
        class_names({"class_names": entry}, 2)


@pytest.mark.parametrize(
    ("outputs", "metadata", "count"),
    [
        ([Output("y", (2, 7))], {}, 7),
        ([Output("y", (2, 7), floats=False)], {}, 7),
        ([Output("y", (1, 21, 8, 8))], {}, 21),
        ([Output("b", (1, 9, 4)), Output("s", (1, 9, 3))], {}, 3),
        (
            [Output("b", (1, 9, 4)), Output("s", (1, 9, 4))],
            {"mbv3c.detector": '{"boxes": "b", "scores": "s"}'},
            4,
        ),
        ([Output("best", (1, 5))], {"mbv3c.classes": "1000"}, 1000),
        ([Output("a", (1, 2)), Output("b", (1, 3))], {}, None),
        ([Output("b", (1, 9, 4))], {}, None),
    ],
)
def test_classes_are_counted(
    outputs: list[Output], metadata: dict[str, str], count: int | None
) -> None:
    assert class_count(metadata, outputs) == count


def test_classes_are_named_anew() -> None:
    given = graph("g (float[1, 3] x) => (float[1, 3] y) { y = Relu(x) }")
    given.metadata_props.add(key="class_names", value='["a", "b", "c"]')
    named = with_class_names(given, ("ant", "bee", "ant"))
    assert class_names(metadata_of(named), 3) == ("ant", "bee", "ant")
    with pytest.raises(UsageError, match="--labels has 2 lines, and the model has 3 classes"):
        with_class_names(given, ("ant", "bee"))
    boxes = graph("g (float[1, 9, 4] x) => (float[1, 9, 4] y) { y = Relu(x) }")
    with pytest.raises(UsageError, match=r"gives class scores; this gives y \(1, 9, 4\)"):
        with_class_names(boxes, ("ant", "bee"))
