"""Blocks by themselves: an error shows in the block that makes it, and in no other."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c import pipeline
from mbv3c.bundle import LIBRARY, read_bundle
from mbv3c.execution.host import HostRunner
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.parity.gate.blocks import BlockErrors, check_blocks, find_blocks
from mbv3c.parity.inputs import parity_inputs
from mbv3c.targets.table import find_target

# Stem, one line per block, and what follows them.
BLOCKS = [f"features.{i}" for i in range(1, 12)]
HOST = find_target("host_cpu")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_model(ModelSpec("small", width=0.35, resolution=96, classes=10))


def compiled(model: onnx.ModelProto, folder: Path, precision: str) -> Path:
    pipeline.compile_model(
        model, HOST, folder, precision=precision, verify=False, progress=lambda _: None
    )
    return folder


def checked(folder: Path, library: Path) -> BlockErrors:
    bundle = read_bundle(folder)
    model, _ = pipeline.rewritten_for(
        onnx.load(bundle.compiled_model), bundle.manifest["precision"]
    )
    inputs = parity_inputs(bundle.input_shape)[:2]
    return check_blocks(model, bundle.manifest["kernels"], inputs, HostRunner(), library)


@pytest.fixture(scope="module")
def bundle(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(model, tmp_path_factory.mktemp("blocks") / "fp32", "fp32")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_sound_library(
    precision: str, model: onnx.ModelProto, bundle: Path, tmp_path: Path
) -> None:
    folder = bundle if precision == "fp32" else compiled(model, tmp_path / precision, precision)
    found = checked(folder, folder)
    assert found.ran_on == "this machine"
    names = [block.name for block in found.blocks]
    assert names[1:-1] == BLOCKS
    assert "features.0" in names[0]
    assert "classifier.3" in names[-1]
    kernels = read_bundle(folder).manifest["kernels"]
    assert [block.end for block in found.blocks[:-1]] == [one.first for one in found.blocks[1:]]
    assert (found.blocks[0].first, found.blocks[-1].end) == (0, len(kernels))
    errors = np.array(found.errors, float)
    assert errors.shape == (13, 2)
    # In fp32 every block rounds; in int8 a value is onnxruntime's, or a step beside it.
    assert (errors < (1e-5 if precision == "fp32" else 0.02)).all()
    assert (errors > 0).any()


def test_the_block_that_is_wrong_is_the_only_one(
    model: onnx.ModelProto, bundle: Path, tmp_path: Path
) -> None:
    off = onnx.ModelProto()
    off.CopyFrom(model)
    weight = next(
        one for one in off.graph.initializer if one.name == "features.5.project.conv.weight"
    )
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
    library = compiled(off, tmp_path / "off", "fp32")
    assert (library / LIBRARY).read_bytes() != (bundle / LIBRARY).read_bytes()
    found = checked(bundle, library)
    worst = [max(row) for row in found.errors if None not in row]
    assert len(worst) == 13
    assert worst[5] > 1e-3
    assert all(error < 1e-5 for index, error in enumerate(worst) if index != 5)


def test_a_sum_and_a_copy_belong_to_the_convolution_before_them() -> None:
    """Of a kernel that only adds or changes the layout no block is made."""
    image = [1, 4, 8, 8]

    def kernel(name: str, read: list[str], written: str) -> dict:
        arguments = [
            {"reads": one, "writes": None, "shape": image, "channels_last": False} for one in read
        ]
        made = {"reads": None, "writes": written, "shape": image, "channels_last": False}
        return {"kind": name, "nodes": [f"net/{written}"], "arguments": [*arguments, made, None]}

    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4,8,8] x, float[4,4,1,1] w) => (float[1,4,8,8] e) {
            a = Conv(x, w)
            b = Add(a, x)
            c = Conv(b, w)
            d = Relu(c)
            e = Conv(d, w)
        }
    """)
    kernels = [
        kernel("pointwise", ["x"], "a"),
        kernel("elementwise", ["a", "x"], "b"),
        kernel("pointwise", ["b"], "d"),
        kernel("pointwise", ["d"], "e"),
        kernel("transpose", ["e"], "e") | {"nodes": []},
    ]
    blocks = find_blocks(model, kernels)
    assert [(one.first, one.end) for one in blocks] == [(0, 2), (2, 5)]
    assert blocks[0].name == "net"
