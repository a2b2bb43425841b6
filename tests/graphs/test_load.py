"""A user's file is read and completed, or refused with a reason."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import Mbv3cError, ModelError, UsageError
from mbv3c.graphs.load import load_model, model_input, model_inputs, static_shape, with_shapes
from tests.onnx_text import graph

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
FIXED = "g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { a = Relu(x) y = Neg(a) }"
DYNAMIC = "g (float[batch, 3, size, size] x) => (float[batch, 3, size, size] y) { y = Neg(x) }"


def save(folder: Path, text: str) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(f"{HEADER} {text}"), path)
    return path


def save_with_external_data(folder: Path) -> Path:
    """Save a model whose weights of 4096 bytes lie in weights.bin."""
    model = onnx.parser.parse_model(
        f"{HEADER} g (float[1024] x) => (float[1024] y) {{ y = Add(x, w) }}"
    )
    weight = np.arange(1024, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (folder / "weights.bin").stat().st_size == 4096
    return path


def test_reads_what_was_built(tmp_path: Path, small: onnx.ModelProto) -> None:
    onnx.save(small, tmp_path / "small.onnx")
    assert load_model(tmp_path / "small.onnx") == small


def test_reads_external_data(tmp_path: Path) -> None:
    model = load_model(save_with_external_data(tmp_path))
    (weight,) = model.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weight), np.arange(1024))
    assert weight.data_location == onnx.TensorProto.DEFAULT


def test_reads_external_data_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    save_with_external_data(folder)
    monkeypatch.chdir(tmp_path)
    assert len(load_model(Path("models/model.onnx")).graph.initializer[0].raw_data) == 4096


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*absent\.onnx"):
        load_model(tmp_path / "absent.onnx")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder; name an ONNX file"):
        load_model(tmp_path)


@pytest.mark.parametrize("ending", ["onnx", "txt", "json", "textproto", "onnxtxt"])
def test_a_file_that_is_no_model(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    path.write_text("This is a text about models.")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        load_model(path)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(
        ModelError, match="is not an ONNX model, or it is empty: it holds no graph"
    ):
        load_model(path)


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_a_model_that_is_cut_short(tmp_path: Path, small: onnx.ModelProto, kept: float) -> None:
    path = tmp_path / "model.onnx"
    whole = small.SerializeToString()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ModelError, match="is not an ONNX model, or not a whole one: it is cut"):
        load_model(path)


def test_a_model_cut_short_at_any_byte(tmp_path: Path) -> None:
    path = save(tmp_path, FIXED)
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        with pytest.raises(ModelError, match="is not an ONNX model"):
            load_model(path)


def test_missing_external_data(tmp_path: Path) -> None:
    path = save_with_external_data(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"lie in files beside it: .*weights\.bin \(missing\)"):
        load_model(path)


def test_external_data_that_is_cut_short(tmp_path: Path) -> None:
    path = save_with_external_data(tmp_path)
    os.truncate(tmp_path / "weights.bin", 4095)
    with pytest.raises(ModelError, match=r"weights\.bin \(cut short\)"):
        load_model(path)


def test_external_data_without_a_length_that_is_cut_short(tmp_path: Path) -> None:
    path = save_with_external_data(tmp_path)
    model = onnx.load(path, load_external_data=False)
    data = model.graph.initializer[0].external_data
    del data[[entry.key for entry in data].index("length")]
    path.write_bytes(model.SerializeToString())
    os.truncate(tmp_path / "weights.bin", 100)
    with pytest.raises(ModelError, match=r"weights\.bin \(cut short\)"):
        load_model(path)


def test_external_data_outside_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = save_with_external_data(folder)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(path, load_external_data=False)
    data = model.graph.initializer[0].external_data
    data[[entry.key for entry in data].index("location")].value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="which is not below"):
        load_model(path)


def test_a_dynamic_shape_needs_to_be_fixed(tmp_path: Path) -> None:
    message = (
        r"input 'x' has the dynamic shape \(batch, 3, size, size\); fix it with --input-shape"
    )
    with pytest.raises(ModelError, match=message):
        load_model(save(tmp_path, DYNAMIC))


def test_input_shape_fixes_a_dynamic_shape(tmp_path: Path) -> None:
    model = load_model(save(tmp_path, DYNAMIC), (2, 3, 8, 8))
    assert static_shape(model.graph.input[0]) == (2, 3, 8, 8)
    assert static_shape(model.graph.output[0]) == (2, 3, 8, 8)


def test_input_shape_replaces_a_fixed_shape(tmp_path: Path) -> None:
    model = load_model(save(tmp_path, FIXED), (2, 3, 8, 8))
    assert static_shape(model.graph.input[0]) == (2, 3, 8, 8)
    assert static_shape(model.graph.output[0]) == (2, 3, 8, 8)


def test_input_shape_that_the_graph_does_not_allow(tmp_path: Path) -> None:
    text = "g (float[a, 3] x) => (float[a, 3] y) <float[3] k = {1, 2, 3}> { y = Add(x, k) }"
    with pytest.raises(ModelError, match="is not a valid ONNX model"):
        load_model(save(tmp_path, text), (2, 4))


def test_input_shape_of_another_rank(tmp_path: Path) -> None:
    message = "--input-shape has 3 dimensions, input 'x' has 4"
    with pytest.raises(UsageError, match=message):
        load_model(save(tmp_path, DYNAMIC), (3, 8, 8))


def test_input_shape_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its numbers are from 1 on"):
        load_model(save(tmp_path, DYNAMIC), (0, 3, 8, 8))


@pytest.mark.parametrize("given", [None, (2, 3, 8, 8)])
def test_an_input_of_unknown_rank(tmp_path: Path, given: tuple[int, ...] | None) -> None:
    model = onnx.parser.parse_model(f"{HEADER} {FIXED}")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(Mbv3cError):
        load_model(path, given)


def test_several_inputs(tmp_path: Path) -> None:
    text = "g (float[3] x, float[N] z) => (float[3] y) { y = Add(x, z) }"
    path = save(tmp_path, text)
    model = load_model(path, {"z": [3]})
    assert [value.name for value in model_inputs(model)] == ["x", "z"]
    with pytest.raises(ModelError, match=r"this takes a model with one"):
        model_input(model)
    with pytest.raises(ModelError, match=r"'z' has the dynamic shape \(N\).*--input-shape 'z:1'"):
        load_model(path)
    with pytest.raises(UsageError, match=r"2 inputs \(x, z\): say which one"):
        load_model(path, [3])
    with pytest.raises(UsageError, match=r"no input 'w'; it has x, z"):
        load_model(path, {"w": [3]})
    with pytest.raises(UsageError, match="--batch 2 is for a model with one input"):
        load_model(path, batch=2)


def test_no_input(tmp_path: Path) -> None:
    text = "g () => (float[2] y) <float[2] k = {1, 2}> { y = Neg(k) }"
    with pytest.raises(ModelError, match=r"the model has no input: everything in it is constant"):
        load_model(save(tmp_path, text))


def test_several_outputs(tmp_path: Path) -> None:
    text = "g (float[3] x) => (float[3] y, float[3] z) { y = Neg(x) z = Abs(x) }"
    assert [value.name for value in load_model(save(tmp_path, text)).graph.output] == ["y", "z"]


def test_no_output(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no outputs"):
        load_model(save(tmp_path, "g (float[3] x) => () { y = Neg(x) }"))


def test_outputs_of_other_types(tmp_path: Path) -> None:
    text = (
        "g (float[3] x) => (float[3] y, int64[1] best, bool[3] z)"
        "{ y = Neg(x) best = ArgMax(x) z = IsNaN(x) }"
    )
    assert len(load_model(save(tmp_path, text)).graph.output) == 3
    text = "g (float[3] x) => (string[3] y) { y = Cast <to = 8> (x) }"
    with pytest.raises(ModelError, match=r"output 'y' is STRING; mbv3c compiles .* numbers"):
        load_model(save(tmp_path, text))


def test_an_initialiser_that_is_listed_as_input_is_none() -> None:
    text = "g (float[3] x, float k) => (float[3] y) <float k = {1}> { y = Add(x, k) }"
    assert model_input(onnx.parser.parse_model(f"{HEADER} {text}")).name == "x"


@pytest.mark.parametrize("dtype", ["float16", "uint8", "double", "int8", "int64", "bool"])
def test_inputs_of_other_types(tmp_path: Path, dtype: str) -> None:
    text = f"g ({dtype}[3] x) => ({dtype}[3] y) {{ y = Identity(x) }}"
    assert load_model(save(tmp_path, text)).graph.input[0].name == "x"


def test_text_is_no_input(tmp_path: Path) -> None:
    text = "g (string[3] x) => (string[3] y) { y = Identity(x) }"
    with pytest.raises(ModelError, match=r"input 'x' is STRING; mbv3c compiles .* numbers"):
        load_model(save(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "g (float[3] x) => (float[3] y) { y = Relux(x) }",
        "g (float[3] x) => (float[4, 1] y) { y = Relu(x) }",
        "g (float[3] x) => (float[3] y) { y = Add(x, nowhere) }",
    ],
)
def test_a_graph_that_is_not_valid(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match="is not a valid ONNX model"):
        load_model(save(tmp_path, text))


def test_stored_shapes_that_do_not_follow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """onnxruntime takes what nodes make; so do files whose batch was edited."""
    text = "g (float[3] x) => (float[4] y) <float[5] h> { h = Neg(x) y = Relu(h) }"
    model = load_model(save(tmp_path, text))
    assert static_shape(model.graph.output[0]) == (3,)
    assert "stores shapes that its nodes do not make" in caplog.text


def test_initialisers_that_an_old_file_does_not_list(tmp_path: Path) -> None:
    text = "g (float[3] x) => (float[3] y) { y = Add(x, k) }"
    model = onnx.parser.parse_model(f'<ir_version: 3, opset_import: ["" : 8]> {text}')
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "k"))
    model.graph.name = ""  # which onnx asks for, and onnxruntime does not
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert model_input(load_model(path)).name == "x"


def test_static_shape() -> None:
    (fixed,) = onnx.parser.parse_model(f"{HEADER} {FIXED}").graph.input
    (dynamic,) = onnx.parser.parse_model(f"{HEADER} {DYNAMIC}").graph.input
    assert static_shape(fixed) == (1, 3, 4, 4)
    assert static_shape(dynamic) is None


def test_height_and_width_are_enough_of_an_image(tmp_path: Path) -> None:
    model = load_model(save(tmp_path, DYNAMIC), (6, 6))
    assert static_shape(model_input(model)) == (1, 3, 6, 6)
    assert static_shape(model.graph.output[0]) == (1, 3, 6, 6)
    channels_last = "g (float[n, h, w, 3] x) => (float[n, h, w, 3] y) { y = Neg(x) }"
    model = load_model(save(tmp_path, channels_last), (6, 8))
    assert static_shape(model_input(model)) == (1, 6, 8, 3)
    with pytest.raises(UsageError, match=r"dynamic channels.*1,3,6,8"):
        load_model(save(tmp_path, channels_last.replace("3", "c")), (6, 8))


def test_a_model_at_another_shape(tmp_path: Path) -> None:
    model = load_model(save(tmp_path, DYNAMIC), (6, 6))
    other = with_shapes(model, (2, 3, 8, 4))
    assert static_shape(other.graph.output[0]) == (2, 3, 8, 4)
    assert static_shape(model_input(model)) == (1, 3, 6, 6)
    text = "g (float[1, 3, h, w] x) => (float[1, 3, 4, 4] y) { y = Add(x, c) }"
    fixed = onnx.parser.parse_model(f"{HEADER} {text}")
    fixed.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "c"))
    with pytest.raises(ModelError, match="1x3x5x5: it has other sizes built in"):
        with_shapes(fixed, (5, 5))


def test_two_gibibytes_are_too_much(tmp_path: Path) -> None:
    """Of files with holes, which take no room."""
    path = tmp_path / "large.onnx"
    path.touch()
    os.truncate(path, 3 << 30)
    with pytest.raises(ModelError, match=r"large.onnx holds 3.0 GiB, .* take 2 GiB at most"):
        load_model(path)
    outside = save_with_external_data(tmp_path)
    model = onnx.load(outside, load_external_data=False)
    (weight,) = model.graph.initializer
    weight.dims[:] = [3 << 28]
    outside.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"with the files of its weights, it holds 3.0 GiB"):
        load_model(outside)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 9, 7), r"stem takes 3 channels, and the shape gives it 4: write the shape as the"),
        ((1, 3, 2, 2), r"stem makes an empty map of 1x3x2x2: give the input a larger shape"),
    ],
)
def test_a_shape_that_the_weights_do_not_take(
    shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    """ONNX's shape inference lets both through."""
    text = "g (float[n, 3, h, v] x) => (float[n, 8, i, j] y) { [stem] y = Conv(x, w) }"
    onnx.save(graph(text, w=np.ones((8, 3, 3, 3), np.float32)), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "m.onnx", input_shape=shape)


@pytest.mark.parametrize("shape", [(1, 3, 10**20, 7), (1, 3, 10**9, 10**9), (1, 3, 0, 7)])
def test_a_shape_that_no_inference_takes(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = graph("g (float[n, 3, h, w] x) => (float[n, 3, h, w] y) { y = Relu(x) }")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="is no shape that an inference can take"):
        load_model(tmp_path / "m.onnx", input_shape=shape)


def test_a_batch_that_is_too_large(tmp_path: Path) -> None:
    onnx.save(graph("g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }"), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="--batch 1000000000000000000000 is not possible"):
        load_model(tmp_path / "m.onnx", batch=10**21)


def test_a_node_that_makes_an_empty_map_is_named(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 2, 1, 8] x) => (float[1, 2, h, w] y) {
            y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x)
        }"""
    )
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="y makes an empty map of 1x2x1x8: give the input a"):
        load_model(tmp_path / "model.onnx")
