"""Models that say one thing and hold another, and weights that lie elsewhere."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbv3c.door.files import Refused
from mbv3c.door.models import check_model, load_outside, parse_model, read_written
from tests.door.models import calls, model

Change = Callable[[onnx.ModelProto], object]


def network() -> onnx.ModelProto:
    """Return a sum with a constant of 4 numbers, which lie in raw bytes."""
    stored = numpy_helper.from_array(np.ones(4, np.float32), "w")
    return model([helper.make_node("Add", ["x", "w"], ["y"], "sum")], [stored])


def test_what_was_written_is_read(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "x.onnx")
    assert read_written(tmp_path / "x.onnx") == network()


def _recursive(given: onnx.ModelProto) -> None:
    given.CopyFrom(calls(3))
    given.functions[0].node[0].op_type, given.functions[0].node[0].domain = "f2", "own"


def _sparse(given: onnx.ModelProto, place: int = 5) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    places = numpy_helper.from_array(np.array([place]), "p")
    given.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, places, [4 if place < 9 else 1 << 40])
    )


def _called_for_more(model: onnx.ModelProto) -> None:
    """Call a function of one output for two."""
    function = model.functions.add(domain="d", name="f", input=["a"], output=["b"])
    function.opset_import.add(version=17)
    function.node.add(op_type="Relu", input=["a"], output=["b"])
    read = model.graph.input[0].name
    model.graph.node.add(domain="d", op_type="f", input=[read], output=["one", "more"])


CHANGES: dict[str, tuple[Change, str]] = {
    "fewer bytes": (
        lambda m: m.graph.initializer[0].dims.__setitem__(0, 5),
        "takes 20 bytes, and 16",
    ),
    "a huge shape": (
        lambda m: m.graph.initializer[0].dims.extend([1 << 62, 1 << 62]),
        "bytes, and 16 are there",
    ),
    "a negative shape": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -4), "is none"),
    "many dimensions": (lambda m: m.graph.initializer[0].dims.extend([1] * 40), "is none"),
    "an unknown type": (
        lambda m: setattr(m.graph.initializer[0], "data_type", 99),
        "unknown type",
    ),
    "no numbers": (
        lambda m: m.graph.initializer[0].ClearField("raw_data"),
        "takes 4 numbers, and 0",
    ),
    "no output": (lambda m: m.graph.node[0].ClearField("output"), "gives nothing"),
    "no opset": (lambda m: m.ClearField("opset_import"), "which opset"),
    "an empty constant": (
        lambda m: m.graph.node.add(op_type="Constant", output=["k"]),
        "has not one value",
    ),
    "no body": (
        lambda m: m.graph.node[0].attribute.add(name="body", type=onnx.AttributeProto.GRAPH),
        "holds a graph, and holds none",
    ),
    "a function that calls itself": (_recursive, "calls itself"),
    "a call for more than a function gives": (_called_for_more, "is called with 1 and 2"),
    "a value outside": (_sparse, "without a place"),
    "a sparse terabyte": (lambda m: _sparse(m, 9), "fills 1,099,511,627,776 elements"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_they_are_refused(name: str) -> None:
    given, (change, reason) = network(), CHANGES[name]
    check_model(given)
    change(given)
    with pytest.raises(Refused, match=reason):
        check_model(given)


def test_other_types_are_stored_in_other_ways() -> None:
    given = model([helper.make_node("Relu", ["x"], ["y"])])
    for kind, numbers in (
        (TensorProto.FLOAT16, [1.0, 2.0, 3.0]),
        (TensorProto.BFLOAT16, [1.0, 2.0, 3.0]),
        (TensorProto.INT4, [1, 2, 3]),
        (TensorProto.COMPLEX64, [1j, 2j, 3j]),
        (TensorProto.BOOL, [True, False, True]),
        (TensorProto.STRING, ["a", "b", "c"]),
        (TensorProto.UINT64, [1, 2, 3]),
    ):
        given.graph.initializer.append(helper.make_tensor(f"t{kind}", kind, [3], numbers))
    check_model(given)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/etc/passwd", "not below"),
        ("../w.bin", "not below"),
        ("", "not below"),
        ("a\0b", "not below"),
        ("absent.bin", "missing"),
        ("pipe.bin", "no plain file"),
        ("link.bin", "a link out of"),
        ("w.bin", "cut short"),
        ("long.bin", ""),
        ("inner.bin", ""),
    ],
)
def test_weights_lie_in_the_folder(place: str, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (folder / "w.bin").write_bytes(bytes(15))
    (folder / "long.bin").write_bytes(bytes(17))
    os.mkfifo(folder / "pipe.bin")
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    given = network()
    (stored,) = given.graph.initializer
    stored.ClearField("raw_data")
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.add(key="location", value=place.replace("inner", "long"))
    path = folder / "x.onnx"
    onnx.save(given, path)
    read = parse_model(path)
    check_model(read)
    if reason:
        with pytest.raises(Refused, match=reason):
            load_outside(read, path)
    else:
        load_outside(read, path)
        assert len(read.graph.initializer[0].raw_data) >= 16


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize("value", ["-1", "x", "99999999999999999999", "17"])
def test_weights_end_within_their_file(key: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    given = network()
    (stored,) = given.graph.initializer
    stored.ClearField("raw_data")
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.add(key="location", value="w.bin")
    stored.external_data.add(key=key, value=value)
    with pytest.raises(Refused, match=r"cut short|not said where"):
        load_outside(given, _saved(given, tmp_path))


def _saved(given: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(given, folder / "x.onnx")
    return folder / "x.onnx"
