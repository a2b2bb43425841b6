"""Blocks by themselves: an error shows in the block that makes it, and in no other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.bundle import LIBRARY
from mbv3c.execution.host import HostRunner
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.lowering.describe import ArgumentRecord, KernelRecord
from mbv3c.parity.gate.blocks import BlockErrors, check_blocks, find_blocks
from mbv3c.parity.inputs import parity_inputs
from mbv3c.pipeline import compile_model
from mbv3c.precision import FP32, INT8, Precision
from mbv3c.prepare import rewritten_for
from mbv3c.targets import find_target, open_bundle
from mbv3c.targets.library.manifest import manifest_of

# Those between the stem and the head.
BLOCKS = ["bneck1", "bneck2", "bneck3"]
WHOLE = ModelSpec("small", width=0.35, resolution=96, classes=10)
HOST = find_target("host_cpu")


@pytest.fixture(scope="module")
def model(blocks: onnx.ModelProto) -> onnx.ModelProto:
    return blocks


def compiled(model: onnx.ModelProto, folder: Path, precision: Precision) -> Path:
    compile_model(model, Job(HOST, precision), folder, verify=False)
    return folder


def checked(folder: Path, library: Path) -> BlockErrors:
    bundle = open_bundle(folder)
    model, _ = rewritten_for(onnx.load(bundle.compiled_model), bundle.precision)
    inputs = parity_inputs(bundle.input_shape)[:2]
    return check_blocks(model, manifest_of(bundle).kernels, inputs, HostRunner(), library)


@pytest.fixture(scope="module")
def bundle(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(model, tmp_path_factory.mktemp("blocks") / "fp32", FP32)


@pytest.mark.parametrize("precision", [FP32, INT8], ids=str)
def test_a_sound_library(precision: Precision, bundle: Path, tmp_path: Path) -> None:
    folder, blocks, ends = bundle, BLOCKS, ("stem", "head")
    if precision == INT8:  # so many values that some are a step beside onnxruntime's
        folder = compiled(build_model(WHOLE), tmp_path / precision.name, precision)
        blocks = [f"features.{i}" for i in range(1, 12)]
        ends = ("features.0", "classifier.3")
    found = checked(folder, folder)
    assert found.ran_on == "this machine"
    names = [block.name for block in found.blocks]
    assert names[1:-1] == blocks
    assert ends[0] in names[0]
    assert ends[1] in names[-1]
    kernels = manifest_of(open_bundle(folder)).kernels
    assert [block.end for block in found.blocks[:-1]] == [one.first for one in found.blocks[1:]]
    assert (found.blocks[0].first, found.blocks[-1].end) == (0, len(kernels))
    errors = np.array(found.errors, float)
    assert errors.shape == (len(blocks) + 2, 2)
    # In fp32 every block rounds; in int8 a value is onnxruntime's, or a step beside it.
    assert (errors < (1e-5 if precision == FP32 else 0.02)).all()
    assert (errors > 0).any()


def test_the_block_that_is_wrong_is_the_only_one(
    model: onnx.ModelProto, bundle: Path, tmp_path: Path
) -> None:
    off = onnx.ModelProto()
    off.CopyFrom(model)
    weight = next(one for one in off.graph.initializer if one.name == "bneck2.project.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
    library = compiled(off, tmp_path / "off", FP32)
    assert (library / LIBRARY).read_bytes() != (bundle / LIBRARY).read_bytes()
    found = checked(bundle, library)
    worst = [max(row) for row in found.errors if None not in row]
    assert len(worst) == 5
    assert worst[2] > 1e-3
    assert all(error < 1e-5 for index, error in enumerate(worst) if index != 2)


def test_a_sum_and_a_copy_belong_to_the_convolution_before_them() -> None:
    """Of a kernel that only adds or changes the layout no block is made."""
    image = (1, 4, 8, 8)

    def kernel(name: str, read: list[str], written: str) -> KernelRecord:
        arguments = [ArgumentRecord("float32", image, False, one, None) for one in read]
        made = ArgumentRecord("float32", image, False, None, written)
        nodes = (f"net/{written}",)
        return KernelRecord(name, name, nodes, 0, 0, {}, None, (*arguments, made, None))

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
        replace(kernel("pointwise", ["b"], "d"), nodes=("net/c", "net/d")),
        kernel("pointwise", ["d"], "e"),
        replace(kernel("transpose", ["e"], "e"), nodes=()),
    ]
    blocks = find_blocks(model, kernels)
    assert [(one.first, one.end) for one in blocks] == [(0, 2), (2, 5)]
    assert blocks[0].name == "net"
