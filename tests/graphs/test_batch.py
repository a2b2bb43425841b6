"""Another batch for a user's model: what holds the batch is rewritten where that is sound."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.load import load_model, static_shape
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import error_of_range, run, session

WEIGHTS = {
    "w": np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32),
    "r": np.ones((2, 2), np.float32),
    "k": np.random.default_rng(1).standard_normal((4, 4, 1, 1)).astype(np.float32),
}


def save(folder: Path, body: str, first: str = "1", **shapes: object) -> Path:
    """Save a model from images of 4x6x6 to anything."""
    text = f"g (float[{first}, 4, 6, 6] x) => (float[{first}, m] y) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    arrays = WEIGHTS | {name: np.array(array, np.int64) for name, array in shapes.items()}
    used = {name for node in model.graph.node for name in node.input}
    for name in used & set(arrays):
        model.graph.initializer.append(numpy_helper.from_array(arrays[name], name))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = np.zeros((5 if first == "5" else 1, 4, 6, 6), np.float32)
    rank = run(session(model), x)[0].ndim
    for i in range(rank):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = f"d{i}"
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def images_stay_apart(path: Path, batch: int) -> onnx.ModelProto:
    """Load with another batch; every image must give what it gives alone."""
    alone, together = load_model(path), load_model(path, batch=batch)
    shape = (batch, 4, 6, 6)
    assert static_shape(together.graph.input[0]) == shape
    known = static_shape(together.graph.output[0])
    assert known is None or known[0] == batch
    x = parity_inputs(shape)[0]
    opened = session(alone)
    one_by_one = np.concatenate([run(opened, x[i : i + 1])[0] for i in range(batch)])
    assert error_of_range(run(session(together), x)[0], one_by_one) <= 1e-6
    return together


POOLED = "[pool] p = GlobalAveragePool(x) "


@pytest.mark.parametrize("batch", [2, 3, 4, 7])
@pytest.mark.parametrize(
    ("body", "shapes"),
    [
        ("c = Conv(x, k) [flat] y = Flatten(c)", {}),
        (POOLED + "[flat] f = Reshape(p, s) y = MatMul(f, w)", {"s": [1, -1]}),
        (POOLED + "[flat] f = Reshape(p, s) y = MatMul(f, w)", {"s": [1, 4]}),
        (POOLED + "[flat] f = Reshape(p, s) y = MatMul(f, w)", {"s": [-1, 4]}),
        (POOLED + "[flat] f = Reshape(p, s) y = MatMul(f, w)", {"s": [0, -1]}),
        (
            POOLED + "f = Reshape(p, s) m = MatMul(f, w) i = Reshape(m, t) y = Mul(x, i)",
            {"s": [1, -1], "t": [1, 4, 1, 1]},
        ),
        (
            POOLED + "f = Reshape(p, s) m = MatMul(f, w) i = Reshape(m, t) y = Mul(x, i)",
            {"s": [1, 0, -1, 1], "t": [1, -1, 1, 1]},
        ),
        (
            POOLED + "t = Constant <value_ints = [1, 4]> () f = Reshape(p, t) y = MatMul(f, w)",
            {},
        ),
        (  # as torch's second exporter writes it
            POOLED + "[flat] f = Reshape <allowzero = 1> (p, s) y = MatMul(f, w)",
            {"s": [1, 4]},
        ),
        ("c = Conv(x, k) [up] y = Resize(c, , , s)", {"s": [1, 4, 12, 12]}),
        (
            POOLED + "n = Shape(p) o = Gather(n, i) u = Unsqueeze(o, z) v = Concat <axis = 0> "
            "(u, l) f = Reshape(p, v) y = MatMul(f, w)",
            {"i": 0, "z": [0], "l": [-1]},
        ),
    ],
)
def test_every_image_by_itself(
    batch: int, body: str, shapes: dict[str, object], tmp_path: Path
) -> None:
    if shapes.get("s") == [1, 0, -1, 1]:
        body = body.replace("m = MatMul(f, w)", "m = Squeeze(f, z)")
        shapes = shapes | {"z": [2, 3]}
    images_stay_apart(save(tmp_path, body, **shapes), batch)


@pytest.mark.parametrize("first", ["n", "5"])
def test_from_a_dynamic_batch_or_another_one(first: str, tmp_path: Path) -> None:
    path = save(tmp_path, POOLED + "f = Reshape(p, s) y = MatMul(f, w)", first, s=[0, -1])
    for batch in (1, 2):
        assert static_shape(load_model(path, batch=batch).graph.output[0]) == (batch, 4)


def test_the_batch_that_it_has_changes_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, POOLED + "f = Reshape(p, s) y = MatMul(f, w)", s=[1, 4])
    assert load_model(path, batch=1) == load_model(path)


def test_a_shape_that_two_nodes_share(tmp_path: Path) -> None:
    """One reshapes images, the other one weights; only the first is given another batch."""
    body = POOLED + "a = Reshape(p, s) v = Abs(r) b = Reshape(v, s) c = MatMul(a, w) y = Add(c, b)"
    model = images_stay_apart(save(tmp_path, body, s=[1, 4]), 3)
    shapes = [node.input[1] for node in model.graph.node if node.op_type == "Reshape"]
    assert shapes == ["s.any_batch", "s"]


@pytest.mark.parametrize(
    ("body", "shapes", "first", "message"),
    [
        ("[flat] y = Reshape(x, s)", {"s": [1, 4, 36]}, "n", r"node 'flat' \(Reshape\) has the"),
        ("[flat] y = Reshape(x, s)", {"s": [2, 72]}, "1", r"shape \[2, 72\] built in, in a model"),
        ("y = Reshape(x, s)", {"s": [2, 72]}, "1", r"node '→ y' \(Reshape\)"),
        (
            "t = Transpose <perm = [1, 0, 2, 3]> (x) [flat] y = Reshape(t, s)",
            {"s": [4, 36]},
            "1",
            r"node 'flat' \(Reshape\) has the shape \[4, 36\] built in",
        ),
        ("[up] y = Resize(x, , , s)", {"s": [1, 4, 12, 12]}, "n", r"node 'up' \(Resize\)"),
        ("[mean] y = ReduceMean <axes = [0]> (x)", {}, "1", r"node 'mean' \(ReduceMean\) does"),
        (
            "[first] g = Gather(x, i) y = Neg(g)",
            {"i": [0]},
            "1",
            r"node 'first' \(Gather\) does not keep the images apart",
        ),
        ("[turn] y = Transpose(x)", {}, "1", r"node 'turn' \(Transpose\) does not keep"),
    ],
)
def test_what_is_not_possible_is_named(
    body: str, shapes: dict[str, object], first: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"--batch 3 is not possible: .*{message}"):
        load_model(save(tmp_path, body, first, **shapes), batch=3)


@pytest.mark.parametrize(
    ("batch", "input_shape", "message"),
    [
        (0, None, "--batch 0: a batch holds at least one image"),
        (-1, None, "--batch -1"),
        (2, (1, 4, 6, 6), "--batch 2 contradicts --input-shape 1,4,6,6; give one of them"),
        (2, (2, 4, 6), "--input-shape has 3 dimensions, input 'x' has 4"),
    ],
)
def test_wrong_usage(
    batch: int, input_shape: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        load_model(save(tmp_path, "y = Neg(x)"), input_shape, batch)


def test_with_an_input_shape(tmp_path: Path) -> None:
    path = save(tmp_path, POOLED + "f = Reshape(p, s) y = MatMul(f, w)", s=[1, -1])
    model = load_model(path, (2, 4, 8, 8), 2)
    assert static_shape(model.graph.input[0]) == (2, 4, 8, 8)
    assert static_shape(model.graph.output[0]) == (2, 4)


def test_other_dynamic_dimensions_still_need_an_input_shape(tmp_path: Path) -> None:
    path = save(tmp_path, "y = Neg(x)", "n")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"dynamic shape \(2, 4, h, 6\); fix it with"):
        load_model(path, batch=2)


def test_networks_of_ours(small: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(small, tmp_path / "small.onnx")
    model = load_model(tmp_path / "small.onnx", batch=2)
    x = parity_inputs((2, 3, 224, 224))[0]
    opened = session(small)
    alone = np.concatenate([run(opened, x[i : i + 1])[0] for i in range(2)])
    assert error_of_range(run(session(model), x)[0], alone) <= 1e-5
