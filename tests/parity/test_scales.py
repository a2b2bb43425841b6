"""What errors are fractions of, where the channels of an output differ by orders of magnitude."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.bundle import GOLDEN, GOLDEN_TOLERANCE, write_golden
from mbv3c.errors import BundleError
from mbv3c.parity.compare import Parity, compare
from mbv3c.parity.gate.saved_outputs import Saved, load_outputs, save_outputs
from mbv3c.parity.golden import check_golden
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.reference import run_reference
from mbv3c.parity.scales import scale_of
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.precision import FP32
from mbv3c.prepare import Reference
from mbv3c.targets.library.judging import golden_from


def drawn() -> np.random.Generator:
    """Return a generator of one test's own: what other tests draw is no matter to it."""
    return np.random.default_rng(0)


def made_by(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


def named(shape: str) -> onnx.ModelProto:
    return made_by(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Neg (x) }}")


def logits(count: int, **huge: float) -> list[np.ndarray]:
    """Return logits for five inputs; the first is about `size`, and moves by `by` times that."""
    rng = drawn()
    made = [rng.standard_normal((1, count)).astype(np.float32) for _ in range(5)]
    for y in made:
        y[0, 0] = huge["size"] * (1 + huge["by"] * y[0, 0])
    return made


@pytest.mark.parametrize("by", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("count", [10, 1000])
@pytest.mark.parametrize("size", [1e4, -1e4, 1e5])
def test_one_huge_logit_hides_no_other(count: int, by: float, size: float) -> None:
    scale = scale_of(named(f"1, {count}"), "y", logits(count, size=size, by=by))
    assert scale.shape == (1, count)
    assert 1e-2 * abs(size) <= scale[0, 0] <= 3 * abs(size)
    assert 1 < scale[0, 1:].min() <= scale[0, 1:].max() < 10


def test_ordinary_logits_have_one_range() -> None:
    scale = scale_of(named("1, 1000"), "y", logits(1000, size=1.0, by=1.0))
    assert scale.shape == ()


def test_rows_of_a_map_are_no_channels() -> None:
    """A heat map is dark but for the rows of a text."""
    heat = np.full((1, 1, 32, 32), 1e-4, np.float32) * drawn().random((32, 32), np.float32)
    heat[:, :, 8:12] = 0.9
    assert scale_of(named("1, 1, 32, 32"), "y", [heat]).shape == ()


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1, 5, 20), 1), ((1, 20, 5), 2), ((1, 5, 6, 7), 1), ((1, 6, 6, 5), 3), ((1, 1, 20, 5), 3)],
)
def test_boxes_beside_a_score_on_every_axis(shape: tuple[int, ...], axis: int) -> None:
    sizes = np.ones(5)
    sizes[:4] = 320
    each = tuple(5 if other == axis else 1 for other in range(len(shape)))
    y = drawn().random(shape) * sizes.reshape(each)
    scale = scale_of(named(", ".join(map(str, shape))), "y", [y.astype(np.float32)] * 2)
    assert scale.shape == each
    assert scale.min() < 1 < 200 < scale.max()


def test_scores_that_are_nearly_0_are_measured_as_scores() -> None:
    """Behind a Concat, as detectors have it; 1e-9 in one is not another decision."""
    model = made_by(
        """g (float[1, 4, 9] b, float[1, 80, 9] s) => (float[1, 84, 9] y) {
            p = Sigmoid (s)
            y = Concat <axis = 1> (b, p)
        }"""
    )
    rng = drawn()
    y = np.concatenate([320 * rng.random((1, 4, 9)), 1e-8 * rng.random((1, 80, 9))], axis=1)
    scale = scale_of(model, "y", [y])
    assert scale.min() >= 1e-3


def test_a_quantized_output_is_as_exact_everywhere() -> None:
    model = made_by(
        """g (uint8[1, 5, 9] x) => (float[1, 5, 9] y) <float s = {1.25}, uint8 z = {0}> {
            y = DequantizeLinear (x, s, z)
        }"""
    )
    y = drawn().random((1, 5, 9)) * np.array([320, 320, 320, 320, 1]).reshape(1, 5, 1)
    assert scale_of(model, "y", [y]).shape == ()


HEAD = made_by(
    """g (float[1, 8] x) => (float[1, 10] y) <float[8, 10] w, float[10] b> {
        y = Gemm (x, w, b)
    }"""
)


@pytest.mark.parametrize(("precision", "off"), [("fp32", 1.01), ("fp16", 1.2)])
def test_a_fault_beside_a_huge_logit_is_found(precision: str, off: float, tmp_path: Path) -> None:
    """One logit of 1e4 beside others of the other sign, of which one is off; also when saved."""
    model = onnx.ModelProto()
    model.CopyFrom(HEAD)
    bias = np.array([1e4, *[-3.0] * 9], np.float32)
    rng = drawn()
    weights = rng.standard_normal((8, 10)).astype(np.float32)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(bias, "b")]
    )
    inputs = [rng.standard_normal((1, 8)).astype(np.float32) for _ in range(5)]
    references = list(run_reference(model, inputs))

    def judged(factor: float) -> Parity:
        outputs = [[reference.output.copy()] for (reference,) in references]
        for (y,) in outputs:
            y[0, 7] *= np.float32(factor)
        tolerance = TOLERANCES[precision]
        return compare(outputs, references, tolerance, ran_on="", exact_program=True)

    assert judged(1.0).passed
    wrong = judged(off)
    assert not wrong.passed
    origin = dict.fromkeys(
        ("bundle", "bundle_sha256", "target", "precision", "ran_on", "exact_program", "versions")
    )
    save_outputs(tmp_path / "o.npz", Saved(origin, TOLERANCES[precision], wrong.pairs))
    saved = load_outputs(tmp_path / "o.npz")
    again = compare(
        [[pair.ours for pair in row] for row in saved.pairs],
        [[pair.reference for pair in row] for row in saved.pairs],
        TOLERANCES[precision],
        ran_on="",
        exact_program=True,
    )
    assert again.worst.max_error_of_range == wrong.worst.max_error_of_range
    assert not again.passed


def test_a_board_judges_by_these_ranges_too(tmp_path: Path) -> None:
    """Scores are 320 times smaller than the boxes beside them."""
    model = made_by(
        """g (float[1, 5, 9] x) => (float[1, 5, 9] y) <float[1, 5, 1] s> {
            y = Mul (x, s)
        }"""
    )
    sizes = np.array([320, 320, 320, 320, 1], np.float32).reshape(1, 5, 1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(sizes, "s"))
    golden = golden_from(Reference(model, inputs_of(model)), FP32)
    write_golden(tmp_path, golden)
    assert (tmp_path / GOLDEN_TOLERANCE).read_text().endswith(" scaled\n")
    bundle: Any = SimpleNamespace(path=tmp_path)
    check_golden(bundle, golden)
    file = tmp_path / GOLDEN / "scale.npy"
    scale = np.load(file)
    assert scale.shape == (1, 5, 9)
    assert scale[0, 4].max() < 1e-2 * scale[0, 0].min()
    others = {"its ranges are not": np.full_like(scale, scale.max()), "it holds": scale[0]}
    for said, wrong in others.items():
        np.save(file, wrong)
        with pytest.raises(BundleError, match=said):
            check_golden(bundle, golden)
    np.save(file, scale)
    limit = (tmp_path / GOLDEN_TOLERANCE).read_text().split()[0]
    (tmp_path / GOLDEN_TOLERANCE).write_text(f"{limit}\n")
    with pytest.raises(BundleError, match="is not by the output's ranges"):
        check_golden(bundle, golden)
