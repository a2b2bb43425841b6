"""The whole: what quantizing costs, whether the report names the culprit, what stays float."""

from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import helper

from mbv3c.errors import Mbv3cError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.parity.reference import run, session
from mbv3c.quantization.by_itself import quantize_once
from mbv3c.quantization.calibration import Calibration, random_inputs
from mbv3c.quantization.options import KeepFloat, QuantizeOptions
from mbv3c.quantization.qdq import quantized_tensors
from mbv3c.quantization.quantize import quantize
from mbv3c.quantization.ranges import Range
from mbv3c.quantization.report import QuantizationReport, report_lines
from tests.quantization import quantizing

INPUTS = 16


def block_report(
    ranges: dict[str, Range] | None = None, **options: object
) -> tuple[onnx.ModelProto, QuantizationReport]:
    model = quantizing.block()
    chosen = QuantizeOptions(**options)
    return quantize(model, random_inputs(model, INPUTS), chosen, ranges=ranges)


def little_report(
    model: onnx.ModelProto, **options: object
) -> tuple[onnx.ModelProto, QuantizationReport]:
    return quantize(
        model, random_inputs(model, INPUTS), QuantizeOptions(**options), rank_layers=False
    )


def test_a_small_block_keeps_its_output() -> None:
    quantized, report = block_report()
    assert report.cosine > 0.999
    assert report.snr_db > 30
    assert (report.calibrated_on, report.measured_on, report.held_out) == (12, 4, True)
    assert report.random_inputs
    assert {layer.kept_float for layer in report.layers} == {None}
    assert [tensor.own_snr_db for tensor in report.tensors] == sorted(
        tensor.own_snr_db for tensor in report.tensors
    )
    assert set(quantized_tensors(quantized)) == {tensor.name for tensor in report.tensors}


def test_the_report_is_what_onnxruntime_computes() -> None:
    quantized, report = block_report()
    model = quantizing.block()
    inputs = random_inputs(model, INPUTS).evaluating()
    wanted = np.array([run(session(model), x)[0] for x in inputs], np.float64)
    got = np.array([run(session(quantized), x)[0] for x in inputs], np.float64)
    snr = 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum())
    assert report.snr_db == pytest.approx(snr)
    same = (wanted.argmax(axis=-1) == got.argmax(axis=-1)).mean()
    assert report.outputs[0].top1_agreement == pytest.approx(same)


@pytest.mark.parametrize("bad", [Range(-0.5, 0.5), Range(-3.0, 2000.0)], ids=["narrow", "wide"])
def test_a_bad_range_inside_a_layer_puts_that_layer_first(bad: Range) -> None:
    """Only `stem` has the tensor before its hard-swish."""
    _, good = block_report()
    _, report = block_report(ranges={"s": bad})
    assert report.snr_db < good.snr_db - 5
    assert report.layers[0].name == "stem"
    assert report.layers[0].alone_snr_db < report.layers[1].alone_snr_db - 5
    assert (report.tensors[0].name, report.tensors[0].layer) == ("s", "stem")
    assert report.tensors[0].own_snr_db < report.tensors[1].own_snr_db - 5


def test_a_bad_range_between_layers_names_the_tensor_and_both_its_ends() -> None:
    _, good = block_report()
    _, report = block_report(ranges={"j": Range(-2000.0, 2000.0)})
    assert report.snr_db < good.snr_db - 10
    assert (report.tensors[0].name, report.tensors[0].layer) == ("j", "project")
    assert {layer.name for layer in report.layers[:2]} == {"project", "residual"}


def test_a_bad_range_of_the_input_is_named_as_the_inputs() -> None:
    _, report = block_report(ranges={"x": Range(-0.01, 0.01)})
    assert (report.tensors[0].name, report.tensors[0].layer) == ("x", "x")
    assert report.layers[0].name == "stem"


def test_the_most_sensitive_layers_stay_float() -> None:
    bad = {"s": Range(-0.5, 0.5)}
    quantized, report = block_report(ranges=bad, keep_float=KeepFloat(1))
    _, without = block_report(ranges=bad)
    assert [layer.name for layer in report.kept_float] == ["stem"]
    assert "most sensitive; alone it leaves" in report.layers[0].kept_float
    assert report.snr_db > without.snr_db + 10
    assert "s" not in quantized_tensors(quantized)
    assert "a" in quantized_tensors(quantized)  # others read it as integers


def test_a_budget_keeps_no_more_layers_than_it_needs() -> None:
    bad = {"s": Range(-0.5, 0.5)}
    _, plain = block_report(ranges=bad)
    _, fixed = block_report(ranges=bad, keep_float=KeepFloat(1))
    budget = (plain.snr_db + fixed.snr_db) / 2
    _, report = block_report(ranges=bad, keep_float=KeepFloat(budget_db=budget))
    assert [layer.name for layer in report.kept_float] == ["stem"]
    assert report.snr_db >= budget
    assert f"needed for {budget:g} dB" in report.layers[0].kept_float
    _, met = block_report(keep_float=KeepFloat(budget_db=plain.snr_db - 1))
    assert not met.kept_float


def test_a_budget_that_leaves_little_in_integers_is_told() -> None:
    most = block_report(keep_float=KeepFloat(8))[1].snr_db
    said: list[str] = []
    model = quantizing.block()
    options = QuantizeOptions(keep_float=KeepFloat(budget_db=most - 0.1))
    _, report = quantize(model, random_inputs(model, INPUTS), options, progress=said.append)
    kept = len(report.kept_float)
    assert 2 * kept > len(report.layers)
    warning = f"warning: {most - 0.1:g} dB keep {kept} of {len(report.layers)} layers in fp32"
    assert any(text.startswith(warning) for text in said)


def quantized_by_itself(
    model: onnx.ModelProto, inputs: Calibration, options: QuantizeOptions | None, *, may: bool
) -> QuantizationReport:
    _, report = quantize_once(model, inputs, options, lambda step: None, may_keep_float=may)
    assert report is not None
    return report


def test_the_worst_layers_stay_float_where_a_bundle_would_miss() -> None:
    """Channels of a thousandth of the largest are lost where one step is for all of them."""
    sizes = np.array([1000, *[1] * 7], np.float32).reshape(8, 1, 1, 1)
    model = quantizing.graph(
        """g (float[1, 4, 8, 8] x) => (float[1, 8, 8, 8] y)
        { [up] u = Conv(x, w) [down] d = Conv <group = 8> (u, v) [last] y = Conv(d, z) }""",
        w=quantizing.random(8, 4, 1, 1) * sizes,
        v=1 / sizes,
        z=quantizing.random(8, 8, 1, 1, seed=1),
    )
    inputs = replace(random_inputs(model, 8), random=False)
    kept = quantized_by_itself(model, inputs, None, may=True)
    assert {layer.name for layer in kept.kept_float} == {"up", "down"}
    assert kept.cosine > 0.99
    for options, may in ((QuantizeOptions(), True), (None, False)):
        report = quantized_by_itself(model, inputs, options, may=may)
        assert not report.kept_float
        assert report.cosine < 0.9


def test_the_end_stays_float_where_the_cpu_is_behind_the_device() -> None:
    """What the device leaves to the CPU is not quantized, nor more of the end if it must not."""
    sizes = np.array([1000, *[1] * 7], np.float32).reshape(8, 1, 1, 1)
    model = quantizing.graph(
        """g (float[1, 4, 8, 8] x) => (float[1, 8, 8, 8] y)
        { [first] f = Conv(x, a) [second] s = Conv(f, b)
          [up] u = Conv(s, w) [down] d = Conv <group = 8> (u, v) y = Softmax <axis = 1> (d) }""",
        a=quantizing.random(16, 4, 1, 1),
        b=quantizing.random(4, 16, 1, 1, seed=2),
        w=quantizing.random(8, 4, 1, 1) * sizes,
        v=1 / sizes,
    )
    inputs = replace(random_inputs(model, 8), random=False)
    said: list[str] = []
    for computed in (None, ["first", "second", "up"], ["first", "second"]):
        on_device = partial(lambda names, _: names, computed)
        _, report = quantize_once(model, inputs, None, said.append, on_device)
        assert report is not None
        kept = {layer.name for layer in report.kept_float}
        assert kept >= {"down"}
        assert not kept & {"first", "second"}
        assert report.cosine > 0.95
    assert "layers in fp32 on the CPU" in "".join(said)
    _, report = quantize_once(model, inputs, None, said.append)
    assert report is not None
    assert not report.kept_float


def test_ranges_are_by_percentile_where_a_bundle_would_miss() -> None:
    model = quantizing.graph(
        "g (float[1, 4, 64, 64] x) => (float[1, 4, 64, 64] y) { [conv] y = Conv(x, w) }",
        w=quantizing.random(4, 4, 1, 1),
    )
    images = quantizing.random(12, 1, 4, 64, 64)
    images[0, 0, 0, 0, 0] = 1000.0  # is not among those that are measured on
    inputs = Calibration("an outlier", False, len(images), lambda: iter(images))
    for may in (True, False):
        report = quantized_by_itself(model, inputs, None, may=may)
        assert (report.method, report.kept_float) == ("percentile", ())
        assert report.cosine > 0.99
    assert quantized_by_itself(model, inputs, QuantizeOptions(), may=True).cosine < 0.9


def test_a_budget_that_nothing_keeps_is_an_error() -> None:
    model = quantizing.graph(
        "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { [conv] y = Conv(x, w) }",
        w=quantizing.random(4, 4, 1, 1),
    )
    options = QuantizeOptions(keep_float=KeepFloat(budget_db=100.0))
    with pytest.raises(Mbv3cError, match="cannot be kept at 100 dB: the best seen"):
        quantize(model, random_inputs(model, 4), options)


def test_all_layers_in_float_are_the_float_model() -> None:
    quantized, report = block_report(keep_float=KeepFloat(100))
    assert len(report.kept_float) == len(report.layers)
    assert not quantized_tensors(quantized)
    assert report.tensors == ()
    assert report.snr_db > 100  # fp32 rounds, the rewrites round otherwise


@pytest.fixture(scope="module")
def eight_bits(blocks: onnx.ModelProto) -> QuantizationReport:
    return little_report(blocks)[1]


def test_measuring_the_layers_can_be_left_out(eight_bits: QuantizationReport) -> None:
    report = eight_bits
    assert {layer.alone_snr_db for layer in report.layers} == {None}
    assert "quantized alone" not in "\n".join(report_lines(report, every=True))


def test_16_bits_are_better_than_8(
    blocks: onnx.ModelProto, eight_bits: QuantizationReport
) -> None:
    _, sixteen = little_report(blocks, activations="int16")
    assert sixteen.snr_db > eight_bits.snr_db + 4


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_histogram_methods_quantize_too(blocks: onnx.ModelProto, method: str) -> None:
    _, report = little_report(blocks, method=method)
    assert report.method == method
    assert report.cosine > 0.9


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("small", resolution=96, classes=10),
        ModelSpec("small", width=0.75, resolution=96, classes=10, minimalistic=True),
        ModelSpec("large", width=0.5, resolution=96, classes=10),
        ModelSpec("small", width=0.35, resolution=96, classes=21, head="lraspp"),
        ModelSpec("small", width=0.35, resolution=320, classes=5, head="ssdlite"),
        ModelSpec("small", width=0.35, resolution=96, classes=10, batch=2),
    ],
    ids=["small", "minimalistic", "large", "lraspp", "ssdlite", "batch"],
)
@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_networks_of_the_family(spec: ModelSpec, activations: str) -> None:
    model = build_model(spec)
    quantized, report = little_report(model, activations=activations)
    onnx.checker.check_model(quantized, full_check=True)
    assert [output.name for output in quantized.graph.output] == [
        output.name for output in model.graph.output
    ]
    # The weights are random, and so is what accumulates over fifty layers of 8 bits.
    assert report.cosine > (0.95 if activations == "int8" else 0.98)
    assert not any("Fused" in node.op_type for node in quantized.graph.node)


def test_weights_in_constant_nodes_without_names_are_quantized_too(
    blocks: onnx.ModelProto, eight_bits: QuantizationReport
) -> None:
    exported = onnx.ModelProto()
    exported.CopyFrom(blocks)
    stored = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in exported.graph.initializer
    ]
    computed = list(exported.graph.node)
    for node in computed:
        node.name = ""
    del exported.graph.node[:], exported.graph.initializer[:]
    exported.graph.node.extend([*stored, *computed])
    _, report = little_report(exported)
    assert report.snr_db == pytest.approx(eight_bits.snr_db)


def test_real_images_need_not_be_held_out_when_there_are_few() -> None:
    model = quantizing.block()
    one = replace(random_inputs(model, 1), random=False, source="one image")
    _, report = quantize(model, one)
    assert (report.calibrated_on, report.measured_on, report.held_out) == (1, 1, False)
    assert "RANDOM" not in "\n".join(report_lines(report, every=False))


def test_lines_say_that_inputs_were_random_and_json_has_no_infinity() -> None:
    _, report = block_report(keep_float=KeepFloat(2))
    lines = "\n".join(report_lines(report, every=False))
    assert "RANDOM inputs" in lines
    assert "7 of 9 layers quantized, 2 stay fp32: " in lines
    endless = replace(report.outputs[0], snr_db=float("inf"))
    document = replace(report, outputs=(endless,)).to_json()
    assert document["snr_db"] is None
    assert document["outputs"][0]["snr_db"] is None
    assert document["layers"][0]["kept_float"]


def test_inputs_are_read_one_at_a_time() -> None:
    model = quantizing.block()
    drawn = random_inputs(model, 20)
    alive = 0

    def read():
        nonlocal alive
        for x in drawn.read():
            alive += 1
            yield x

    quantize(model, Calibration("counted", True, 20, read), rank_layers=False)
    assert alive == 40  # once for the ranges, once to pick what is held out
