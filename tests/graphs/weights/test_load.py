"""Weights come in from every source, tensor by tensor, and go out bit by bit."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import save_file

from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.graphs.weights.files import load_weights, save_weights, weights_of
from tests.graphs.weights.state_dicts import (
    Tensors,
    numbered,
    save_torch,
    ssdlite,
    timm,
    torchvision,
)

Arrays = dict[str, np.ndarray]


def save_safetensors(path: Path, tensors: Arrays) -> Path:
    save_file(tensors, path)
    return path


def save_npz(path: Path, tensors: Arrays) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **tensors)
    return path


def save_onnx(path: Path, tensors: Arrays) -> Path:
    """Save a graph that uses every tensor as a weight, and one constant besides."""
    nodes = [
        onnx.helper.make_node("Gemm", ["x", name], [f"y{index}"])
        for index, name in enumerate(tensors)
    ]
    nodes.append(onnx.helper.make_node("Add", ["x", "three"], ["z"]))
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    initializers.append(numpy_helper.from_array(np.float32(3), "three"))
    graph = onnx.helper.make_graph(nodes, "weights", [], [], initializers)
    onnx.save(onnx.helper.make_model(graph), path)
    return path


SAVERS: dict[str, Callable[[Path, Arrays], Path]] = {
    "safetensors": save_safetensors,
    "npz": save_npz,
    "onnx": save_onnx,
    "torch": save_torch,
}


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def filled(model: onnx.ModelProto, value: float) -> onnx.ModelProto:
    """Return a copy with every weight at one value."""
    copied, weights = copy(model), weights_of(model)
    for tensor in copied.graph.initializer:
        if tensor.name in weights:
            array = np.full_like(weights[tensor.name], value)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copied


def state_dict(library: Callable[[str], Tensors], model: onnx.ModelProto) -> Arrays:
    return numbered(library(model.graph.name.rpartition("_")[2]))


def refusal(model: onnx.ModelProto, path: Path) -> list[str]:
    """Return the lines of the error, having made sure that the model is as it was."""
    target = copy(model)
    with pytest.raises(ModelError) as caught:
        load_weights(target, path)
    assert target == model
    return str(caught.value).splitlines()


@pytest.mark.parametrize("library", [torchvision, timm])
def test_every_tensor_arrives_in_its_place(
    tmp_path: Path, network: onnx.ModelProto, library: Callable[[str], Tensors]
) -> None:
    """Every tensor of the file has its own number; both libraries order them as the graph."""
    path = save_safetensors(tmp_path / "w", state_dict(library, network))
    loaded, before = copy(network), weights_of(network)
    load_weights(loaded, path)
    for k, (name, array) in enumerate(weights_of(loaded).items()):
        assert array.dtype == np.float32
        assert array.shape == before[name].shape
        assert (array == k + 0.5).all(), name
    for tensor in loaded.graph.initializer:
        tensor.ClearField("raw_data")
    rest = copy(network)
    for tensor in rest.graph.initializer:
        tensor.ClearField("raw_data")
    assert loaded == rest  # nothing but the values of weights has changed


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("library", [torchvision, timm])
def test_every_format_with_any_suffix(
    tmp_path: Path, small: onnx.ModelProto, saver: str, library: Callable[[str], Tensors]
) -> None:
    path = SAVERS[saver](tmp_path / "weights", state_dict(library, small))
    loaded = copy(small)
    load_weights(loaded, path)
    for k, (name, array) in enumerate(weights_of(loaded).items()):
        assert (array == k + 0.5).all(), name


def test_ssdlite_takes_torchvisions_weights_and_its_own_again(tmp_path: Path) -> None:
    spec = ModelSpec("small", head="ssdlite", resolution=320, classes=3)
    model = build_model(spec)
    loaded = build_model(spec, save_torch(tmp_path / "w.pth", numbered(ssdlite("small", 3))))
    for k, (name, array) in enumerate(weights_of(loaded).items()):
        assert (array == k + 0.5).all(), name
    constants = {t.name for t in model.graph.initializer} - set(weights_of(model))
    for one, other in zip(loaded.graph.initializer, model.graph.initializer, strict=True):
        assert (one == other) == (one.name in constants), one.name
    save_weights(model, tmp_path / "own.npz")
    assert build_model(spec, tmp_path / "own.npz").graph == model.graph


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_saved_and_loaded_again(tmp_path: Path, network: onnx.ModelProto, suffix: str) -> None:
    path, again = tmp_path / f"w{suffix}", tmp_path / f"again{suffix}"
    save_weights(network, path)
    loaded = filled(network, 0.25)
    assert loaded != network
    load_weights(loaded, path)
    assert loaded == network
    save_weights(loaded, again)
    assert again.read_bytes() == path.read_bytes()


def test_from_an_onnx_file_of_our_own(tmp_path: Path, small: onnx.ModelProto) -> None:
    onnx.save(small, tmp_path / "small.onnx")
    loaded = filled(small, 0.25)
    load_weights(loaded, tmp_path / "small.onnx")
    assert loaded == small


def test_from_an_onnx_file_with_external_data(tmp_path: Path, small: onnx.ModelProto) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(copy(small), path, save_as_external_data=True, location="w.bin", size_threshold=99)
    loaded = filled(small, 0.25)
    load_weights(loaded, path)
    assert loaded == small
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_weights(loaded, path)


def test_another_suffix_to_save_to(tmp_path: Path, small: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match=r"name a \.safetensors or \.npz file"):
        save_weights(small, tmp_path / "w.pt")
    assert not list(tmp_path.iterdir())


def test_no_such_file(tmp_path: Path, small: onnx.ModelProto) -> None:
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(UsageError, match="no such file"):
            load_weights(copy(small), path)


def test_the_constants_of_activations_are_no_weights(small: onnx.ModelProto) -> None:
    stored = {tensor.name for tensor in small.graph.initializer}
    assert stored - weights_of(small).keys() == {
        "hardswish.three",
        "hardswish.zero",
        "hardswish.six",
    }


@pytest.mark.parametrize(
    ("saver", "dtype"),
    [
        ("safetensors", np.float16),
        ("safetensors", np.float64),
        ("safetensors", ml_dtypes.bfloat16),
        ("npz", np.float16),
        ("npz", ">f4"),
        ("npz", ">f8"),
        ("onnx", np.float16),
        ("onnx", np.float64),
        ("onnx", ml_dtypes.bfloat16),
    ],
)
def test_other_precisions_become_fp32(
    tmp_path: Path, small: onnx.ModelProto, saver: str, dtype: np.typing.DTypeLike
) -> None:
    thirds = {name: np.asarray(a / np.float32(3)) for name, a in state_dict(timm, small).items()}
    given = {name: third.astype(dtype) for name, third in thirds.items()}
    loaded = copy(small)
    load_weights(loaded, SAVERS[saver](tmp_path / "w", given))
    for k, (name, array) in enumerate(weights_of(loaded).items()):
        third = np.full(1, k + 0.5, np.float32) / np.float32(3)
        assert array.dtype == np.float32
        assert (array == third.astype(dtype).astype(np.float32)).all(), name


def test_a_1x1_convolution_stands_for_a_linear_layer(
    tmp_path: Path, small: onnx.ModelProto
) -> None:
    given = weights_of(small)
    for name, array in given.items():
        if array.ndim == 4 and array.shape[2:] == (1, 1) and array.shape[1] > 1:
            given[name] = array[:, :, 0, 0]
        elif name.startswith("classifier") and array.ndim == 2:
            given[name] = array[:, :, None, None]
    loaded = filled(small, 0.25)
    load_weights(loaded, save_npz(tmp_path / "w.npz", given))
    assert loaded == small


def test_a_transposed_linear_layer_is_refused(tmp_path: Path, small: onnx.ModelProto) -> None:
    """It has the same number of elements in another order."""
    given = weights_of(small)
    given["classifier.3.weight"] = given["classifier.3.weight"].T
    assert refusal(small, save_npz(tmp_path / "w.npz", given))[1:] == [
        "  classifier.3.weight has the shape (1024, 1000), the model needs (1000, 1024)"
    ]


def test_everything_that_is_wrong_at_once(tmp_path: Path, small: onnx.ModelProto) -> None:
    given = state_dict(torchvision, small)
    del given["features.1.block.1.fc1.bias"]
    del given["features.4.block.1.1.running_var"]
    given["fc.weight"] = np.zeros((2, 3), np.float32)
    given["features.4.block.0.0.weight"] = np.zeros((96, 24, 3, 3), np.float32)
    given["classifier.3.bias"] = np.zeros(10, np.float32)
    given["classifier.0.bias"] = np.zeros(1024, np.int32)
    given["features.0.1.bias"] = np.array([np.nan] + [0.0] * 14 + [np.inf], np.float32)
    path = save_safetensors(tmp_path / "w.safetensors", given)
    first, *lines = refusal(small, path)
    assert first == (
        f"the weights in {path} (read as torchvision names) are not those of mobilenet_v3_small; "
        "name the variant, width and classes that the file was trained for:"
    )
    assert lines == [
        "  missing: features.1.block.1.fc1.bias (here features.1.se.reduce.bias) (8,)",
        "  missing: features.4.block.1.1.running_var (here features.4.depthwise.bn.running_var) "
        "(96,)",
        "  extra: fc.weight (2, 3)",
        "  features.0.1.bias (here features.0.bn.bias) has 2 of 16 values that are not finite in "
        "fp32",
        "  features.4.block.0.0.weight (here features.4.expand.conv.weight) has the shape "
        "(96, 24, 3, 3), the model needs (96, 24, 1, 1)",
        "  classifier.0.bias is int32; weights are fp32, fp16, bf16 or fp64",
        "  classifier.3.bias has the shape (10,), the model needs (1000,)",
    ]


def test_a_number_beyond_fp32(tmp_path: Path, small: onnx.ModelProto) -> None:
    given = weights_of(small)
    bias = given["classifier.3.bias"].astype(np.float64)
    bias[7] = 1e39
    given["classifier.3.bias"] = bias
    assert refusal(small, save_npz(tmp_path / "w.npz", given))[1:] == [
        "  classifier.3.bias has 1 of 1000 values that are not finite in fp32"
    ]


@pytest.mark.parametrize("library", [torchvision, timm])
def test_the_other_variant(
    tmp_path: Path, small: onnx.ModelProto, library: Callable[[str], Tensors]
) -> None:
    lines = refusal(small, save_npz(tmp_path / "w.npz", numbered(library("large"))))
    assert any(line.startswith("  extra: ") for line in lines)
    assert any(line.endswith("has the shape (1280,), the model needs (1024,)") for line in lines)


def test_tensors_of_something_else(tmp_path: Path, small: onnx.ModelProto) -> None:
    path = save_npz(tmp_path / "w.npz", {"a\nb": np.zeros(2, np.float32)})
    lines = refusal(small, path)
    assert len(lines) == 1 + len(weights_of(small)) + 1
    assert lines[-1] == r"  extra: 'a\nb' (2,)"
