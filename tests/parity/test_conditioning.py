"""Models whose sums cancel: right programs pass, wrong ones are found, and the layer is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime import GraphOptimizationLevel as Level

import mbv3c
from mbv3c.job_spec import JobSpec
from mbv3c.parity.compare import Parity, compare
from mbv3c.parity.conditioning import Conditioned, Conditioning, OutputDoubt
from mbv3c.parity.doubles import InDoubles
from mbv3c.parity.gate.saved_outputs import Saved, load_outputs, save_outputs
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.reference import PLAIN, run, run_reference, session
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.parity.verdict import sentence
from mbv3c.passes import COMPILING, run_pipeline
from tests.parity import cancelling
from tests.parity.small_network import small_network
from tests.text_models import outputs_of

FAULTS = [
    (cancelling.norm_takes_the_bias_away, "weight"),
    (cancelling.weights_sum_to_nothing, "weight"),
    (cancelling.weights_sum_to_nothing, "project"),
    (cancelling.branches_cancel, "other"),
]


def judged(
    ours: onnx.ModelProto, model: onnx.ModelProto, level: Level = PLAIN, precision: str = "fp32"
) -> Parity:
    """Judge what onnxruntime makes of one model as if it were a library made of another."""
    inputs, opened = inputs_of(model), session(ours, level)
    return compare(
        [run(opened, x) for x in inputs],
        list(run_reference(model, inputs)),
        TOLERANCES[precision],
        ran_on="a test",
        exact_program=True,
    )


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    return run_pipeline(model, COMPILING)[0]


@pytest.mark.parametrize("make", cancelling.MODELS.values(), ids=cancelling.MODELS)
def test_what_is_right_passes(make: cancelling.Make) -> None:
    parity = judged(rewritten(make()), make())
    assert parity.passed, sentence(parity.to_json())
    assert parity.worst.allowed <= 1e-3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("make", "weight"), FAULTS)
def test_weights_that_are_off_are_found(
    make: cancelling.Make, weight: str, precision: str
) -> None:
    """By 1 % in fp32; in fp16, which is held to 2e-2 of the range, by 10 %."""
    by = {"fp32": 1.01, "fp16": 1.1}[precision]
    parity = judged(
        rewritten(cancelling.with_fault(make(), weight, by)), make(), precision=precision
    )
    assert not parity.passed
    assert parity.worst.max_error_of_range > parity.worst.allowed


def test_the_verdict_names_the_layer_and_is_held_to_float64() -> None:
    model = cancelling.norm_takes_the_bias_away()
    parity = judged(rewritten(model), model)
    found = parity.to_json()["ill_conditioned"]
    assert found["judged"]
    assert found["layer"].startswith("norm (BatchNormalization) loses 4.")
    assert "ill-conditioned in fp32 (norm (BatchNorm" in sentence(parity.to_json())
    # Far nearer to float64 than onnxruntime is, whose spread would have allowed four times more.
    assert parity.worst.max_error_of_range < 1e-6 < 1e-4 < parity.worst.reference_spread
    given = judged(model, model)
    assert not given.passed  # our rewriting keeps the digits, so a library must, too


def test_the_layer_is_only_looked_for_where_it_is_told() -> None:
    """That takes several runs with noise; what is right is seen to be so by one in float64."""
    model = cancelling.branches_cancel()
    ((reference,),) = run_reference(model, inputs_of(model)[:1])
    doubt = reference.doubt
    assert isinstance(doubt, OutputDoubt)
    assert doubt.exact is not None
    ours = [[doubt.exact.astype(np.float32)]]
    for known in (doubt.unnamed, doubt):
        assert "given" not in vars(doubt.conditioned)
        rows = compare(
            ours,
            [[replace(reference, doubt=known)]],
            TOLERANCES["fp32"],
            ran_on="a test",
            exact_program=True,
        )
        found = rows.worst.ill_conditioned
        assert found is not None
        assert bool(found.layer) == (known is doubt)


def test_an_offset_at_the_end_is_named() -> None:
    """The error of an output is a fraction of its range, however small that is beside its size."""
    model = cancelling.offset_at_the_end()
    (reference,) = next(run_reference(model, inputs_of(model)))
    assert reference.doubt is not None
    assert reference.doubt.layer.startswith("last (Gemm) loses 3.")


def test_agreement_by_luck_is_seen_through(tmp_path: Path) -> None:
    """All ways of onnxruntime give the same bits here, and all are as far off."""
    model = cancelling.branches_cancel()
    references = list(run_reference(model, inputs_of(model)))
    assert {reference.spread for (reference,) in references} == {0.0}
    other = [[reference.doubt.exact.astype(np.float32)] for (reference,) in references]
    parity = compare(other, references, TOLERANCES["fp32"], ran_on="", exact_program=True)
    assert parity.passed
    assert parity.to_json()["ill_conditioned"]["layer"].startswith("difference (Sub)")
    assert judged_again(parity, tmp_path) == sentence(parity.to_json())


def judged_again(parity: Parity, folder: Path) -> str:
    """Save outputs, read them back, and say the verdict on them."""
    origin = dict.fromkeys(
        ("bundle", "bundle_sha256", "target", "precision", "ran_on", "exact_program", "versions")
    )
    save_outputs(folder / "o.npz", Saved(origin, TOLERANCES["fp32"], parity.pairs))
    pairs = load_outputs(folder / "o.npz").pairs
    ours = [[pair.ours for pair in row] for row in pairs]
    references = [[pair.reference for pair in row] for row in pairs]
    again = compare(ours, references, TOLERANCES["fp32"], ran_on="", exact_program=True)
    return sentence(again.to_json())


def test_what_fp32_cannot_compute_is_not_judged(tmp_path: Path) -> None:
    model = cancelling.nothing_is_left()
    wrong = cancelling.with_fault(model, "weight")
    references = list(run_reference(model, inputs_of(model)))
    opened = session(wrong)
    outputs = [run(opened, x) for x in inputs_of(model)]
    parity = compare(outputs, references, TOLERANCES["fp32"], ran_on="", exact_program=True)
    assert not parity.passed
    assert sentence(parity.to_json()).startswith("NOT JUDGED on")
    assert any("NOT JUDGED" in check.finding for check in parity.checks())
    assert judged_again(parity, tmp_path) == sentence(parity.to_json())
    far = [[y + 100 * np.ptp(y)] for (y,) in outputs]
    parity = compare(far, references, TOLERANCES["fp32"], ran_on="", exact_program=True)
    assert sentence(parity.to_json()).startswith("MISSED on")


def test_a_sound_network_is_judged_as_ever() -> None:
    model = small_network()
    parity = judged(model, model, Level.ORT_ENABLE_ALL)
    assert parity.passed
    assert "ill_conditioned" not in parity.to_json()
    assert all("ill_conditioned" not in row for row in parity.to_json()["inputs"])
    wrong = judged(cancelling.with_fault(model, "last.weight", 1.0001), model)
    assert not wrong.passed  # by little, and no word of float64
    assert wrong.worst.max_error_of_range < 1e-4
    assert wrong.worst.ill_conditioned is None


def test_noise_is_what_onnxruntime_is_off_by() -> None:
    """In a network that is sound, and where most digits are lost."""
    for model in (small_network(), cancelling.weights_sum_to_nothing()):
        x = inputs_of(model)[0]
        conditioned = Conditioned(Conditioning(model), x)
        (y,) = run(session(model), x)
        name = model.graph.output[0].name
        doubt = OutputDoubt(conditioned, name, y, np.array(1.0), rewritten=False)
        error = np.abs(y - doubt.exact).max()
        assert 0.2 < doubt.noise / error < 10


def test_float64_runs_every_kind_of_node() -> None:
    """Of onnxruntime, of ONNX's reference, and in fp32 where there is nothing else."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 2, 4, 4] x) => (float[1, 2, 8, 8] y, int64[1, 1, 8, 8] label)
        <float[4] scales = {1, 1, 2, 2}> {
            h = HardSigmoid (x)
            m = MaxPool <kernel_shape = [1, 1]> (h)
            r = Resize <mode = "nearest"> (m, , scales)
            c = Cast <to = 1> (r)
            y = Tanh (c)
            label = ArgMax <axis = 1> (y)
        }"""
    model = onnx.parser.parse_model(text)
    x = inputs_of(model)[0]
    made: dict[str, np.ndarray] = {}
    for step in InDoubles(model).run(x):
        made |= {name: lanes[0] for name, lanes in step.outputs.items()}
    wanted = np.clip(x.astype(np.float64) * np.float32(0.2) + 0.5, 0, 1)
    wanted = np.tanh(wanted.repeat(2, 2).repeat(2, 3))
    np.testing.assert_allclose(made["y"], wanted, rtol=1e-12)
    np.testing.assert_array_equal(made["label"][0, 0], wanted[0].argmax(0))


@pytest.mark.parametrize("attributes", ["", 'clip = 0.3, activations = ["Relu", "Elu", "Relu"]'])
def test_float64_asks_no_reference_that_computes_something_else(attributes: str) -> None:
    """ONNX's own LSTM computes with tanh and without bounds."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[3, 1, 4] x) => (float[3, 1, 1, 5] y)
        {{ y = LSTM <hidden_size = 5{", " if attributes else ""}{attributes}> (x, w, r) }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, width in (("w", 4), ("r", 5)):
        weights = rng.normal(0, 1, (1, 20, width)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    x = inputs_of(model)[0]
    (step,) = InDoubles(model).run(x)
    (wanted,) = run(session(model), x)
    np.testing.assert_allclose(step.outputs["y"][0], wanted, atol=1e-5)


def test_a_library(tmp_path: Path) -> None:
    """The kernels themselves: a library passes for its own model, and misses for another."""
    model = cancelling.norm_takes_the_bias_away()
    other = cancelling.with_fault(model, "weight")
    compiled = mbv3c.compile(other, JobSpec("host_cpu", "fp32"), tmp_path / "bundle")
    assert compiled.verdict is not None
    assert compiled.verdict.to_json()["ill_conditioned"]["judged"]
    made = outputs_of(tmp_path / "bundle", inputs_of(model))
    references = list(run_reference(model, inputs_of(model)))
    parity = compare(
        [[y] for y in made], references, TOLERANCES["fp32"], ran_on="", exact_program=True
    )
    assert sentence(parity.to_json()).startswith("MISSED on")
    # A board compares with float64, too, and by no more than a library is allowed.
    golden = np.load(tmp_path / "bundle" / "golden" / "output.npy")
    assert np.abs(golden - made[0]).max() < 1e-6 * np.ptp(golden)
    limit = float((tmp_path / "bundle" / "golden" / "tolerance.txt").read_text().split()[0])
    assert limit < 1e-3
