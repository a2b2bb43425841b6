"""Quantize a model: rewrite → calibrate → rank layers → choose what stays fp32 → insert QDQ.

Then measure the quantized model: its outputs, its tensors, and its layers by themselves.

onnxruntime runs both without graph optimisations, so that the graph itself is measured, and not
the integer kernels that some runtime puts in its place.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.errors import Mbv3cError
from mbv3c.feeds import Feed
from mbv3c.graphs.frames import takes_pixels
from mbv3c.lowering.qdq import QuantizedGraph
from mbv3c.lowering.select.graph import Graph
from mbv3c.parity.compare import compare
from mbv3c.parity.reference import (
    ReferenceOutput,
    run,
    run_reference,
    session,
    with_outputs,
)
from mbv3c.parity.rewriting import check_rewritten
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.passes import BEFORE_QUANTIZING, COMPILING, run_pipeline
from mbv3c.progress import Progress
from mbv3c.quantization.calibration import Calibration
from mbv3c.quantization.errors import Distance
from mbv3c.quantization.layers import Layer, layers, left_float, normalized
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.quantization.qdq import in_quantizable_opset, insert_qdq, quantized_tensors
from mbv3c.quantization.ranges import (
    Observed,
    Range,
    known_ranges,
    observe,
    pixel_ranges,
    run_all,
    seen_bounds,
)
from mbv3c.quantization.report import LayerError, OutputError, QuantizationReport, TensorError

Array = NDArray[np.float32]
References = Sequence[Sequence[ReferenceOutput]]


class BudgetError(Mbv3cError):
    """No number of layers in fp32 keeps the output at the budget."""


@dataclass(frozen=True)
class WorstOutput:
    """The largest errors of any output of a model; the two may be those of different outputs."""

    snr_db: float
    cosine: float


def worst_output(
    model: onnx.ModelProto, inputs: Sequence[Feed], references: References
) -> WorstOutput:
    """Run a model and return how far its worst output is from the references."""
    opened = session(model)
    distances = [Distance() for _ in model.graph.output]
    for x, wanted in zip(inputs, references, strict=True):
        for distance, theirs, ours in zip(distances, wanted, run(opened, x), strict=True):
            distance.add(theirs.output, ours)
    pairs = [(distance.snr_db, distance.cosine) for distance in distances]
    return WorstOutput(*map(min, zip(*pairs, strict=True)))


def output_errors(
    model: onnx.ModelProto, inputs: Sequence[Feed], references: References
) -> tuple[OutputError, ...]:
    """Run a model and compare every output with the references."""
    opened = session(model)
    outputs = [run(opened, x) for x in inputs]
    errors = []
    for index, output in enumerate(model.graph.output):
        ours = [row[index] for row in outputs]
        theirs = [row[index] for row in references]
        distance = Distance()
        for y, wanted in zip(ours, theirs, strict=True):
            distance.add(wanted.output, y)
        # The tolerance only says which pixels are a tie; nothing passes or fails here. So nobody
        # asks float64, which takes minutes for some networks, whose fault an error is.
        comparison = compare(
            [[y] for y in ours],
            [[replace(wanted, doubt=None)] for wanted in theirs],
            TOLERANCES["fp32"],
            ran_on="onnxruntime",
            exact_program=True,
        ).to_json()
        errors.append(
            OutputError(
                output.name,
                distance.snr_db,
                distance.cosine,
                max(row["max_error_of_range"] for row in comparison["inputs"]),
                comparison["top1_agreement"],
                comparison["top5_agreement"],
            )
        )
    return tuple(errors)


def tensor_errors(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    inputs: Sequence[Feed],
    parts: Sequence[Layer],
) -> tuple[TensorError, ...]:
    """Compare every quantized tensor with that of the fp32 graph; the largest own error first.

    Values that no reader of a tensor tells apart, such as those below -3 before hard-swish, count
    as equal.
    """
    tensors = quantized_tensors(quantized)
    names = list(tensors)
    back = [tensor.dequantized for tensor in tensors.values()]
    wanted, got = session(with_outputs(model, names)), session(with_outputs(quantized, back))
    bounds = seen_bounds(model)
    overall = {name: Distance() for name in names}
    own = {name: Distance() for name in names}
    for x in inputs:
        pairs = zip(run_all(wanted, names, x), run_all(got, back, x), strict=True)
        for (name, theirs), (_, ours) in pairs:
            visible = np.clip(theirs, *bounds[name])
            overall[name].add(visible, np.clip(ours, *bounds[name]))
            own[name].add(visible, np.clip(tensors[name].apply(theirs), *bounds[name]))
    makers: Mapping[str, str] = {name: part.name for part in parts for name in part.outputs}
    errors = [
        TensorError(
            name,
            makers.get(name, name),
            *tensors[name].bounds,
            overall[name].snr_db,
            overall[name].cosine,
            own[name].snr_db,
        )
        for name in names
    ]
    return tuple(sorted(errors, key=lambda error: error.own_snr_db))


# One run of the network per layer and input takes most of the time.
_INPUTS_PER_LAYER = 4


def quantize(
    model: onnx.ModelProto,
    calibration: Calibration,
    options: QuantizeOptions | None = None,
    *,
    ranges: Mapping[str, Range] | None = None,
    observed: Observed | None = None,
    graph: onnx.ModelProto | None = None,
    rank_layers: bool = True,
    progress: Progress = lambda step: None,
) -> tuple[onnx.ModelProto, QuantizationReport]:
    """Quantize a model and measure what that costs.

    Args:
        model: the fp32 model as the user gave it; errors are measured against it.
        calibration: inputs to take ranges from and to measure on.
        options: how to quantize.
        ranges: ranges of tensors of the rewritten graph, which replace calibrated ones.
        observed: what these inputs have shown of the rewritten graph, if that is known.
        graph: the model as `rewritten` returns it, if that is known.
        rank_layers: whether to measure every layer by itself, which takes longest; done in any
            case if the most sensitive layers are to stay fp32.
        progress: function that is told what is being done.

    Returns:
        The rewritten model with QDQ pairs, its tensors' names kept, and the report.

    Raises:
        CalibrationError: an input is broken or makes the model overflow.
        ModelError: the model cannot be quantized, or the shape of an output depends on values.
        ParityError: rewriting changed what the model computes.
        Mbv3cError: the budget cannot be kept.
    """
    options = options or QuantizeOptions()
    if graph is None:
        progress("rewriting the graph")
        graph = rewritten(model, options)
    shapes = Graph(QuantizedGraph(graph))
    for output in graph.graph.output:
        shapes.shape(output.name)
    keep = options.keep_float
    every = layers(graph)
    parts = tuple(part for part in every if part.name not in keep.in_any_case)
    if observed is None:
        progress(f"calibrating on {calibration.source}")
        observed = observe(graph, calibration.calibrating, spread=options.method != "minmax")
    measured = observed.ranges(options)
    if options.known_ranges:
        measured = known_ranges(graph, measured)
    measured |= pixel_ranges(graph)
    inputs = calibration.evaluating()
    references = list(run_reference(model, inputs))
    check_rewritten(model, graph, inputs, references)
    trial = Trial(graph, {**measured, **(ranges or {})}, parts, options, inputs, references)
    errors: dict[str, WorstOutput] = {}
    if rank_layers or keep.most_sensitive or keep.budget_db is not None:
        errors = _errors_by_layer(trial, progress)
    ranked = sorted(parts, key=lambda part: errors[part.name].snr_db if errors else 0.0)
    kept = ranked[: _number_kept(trial, ranked, progress)]
    progress(f"quantizing {len(parts) - len(kept)} of {len(parts)} layers")
    quantized = trial.without(kept)
    others = [part for part in every if part.name in keep.in_any_case]
    held_out = len(calibration.held_out)
    report = QuantizationReport(
        calibration=calibration.source,
        random_inputs=calibration.random,
        calibrated_on=calibration.batches - held_out,
        measured_on=len(inputs),
        held_out=held_out > 0,
        method=options.method,
        activations=options.activations,
        outputs=output_errors(quantized, inputs, references),
        layers=tuple(_layer_error(part, errors, kept, options) for part in (*ranked, *others)),
        tensors=tensor_errors(graph, quantized, inputs, every),
        left_float=left_float(graph),
    )
    return quantized, report


@dataclass(frozen=True)
class Trial:
    """Everything needed to quantize some of the layers and to measure the result.

    Attributes:
        graph: the rewritten fp32 model.
        ranges: ranges of its tensors.
        parts: its layers.
        options: how to quantize.
        inputs: inputs to measure on.
        references: outputs of the model as given for them.
    """

    graph: onnx.ModelProto
    ranges: Mapping[str, Range]
    parts: Sequence[Layer]
    options: QuantizeOptions
    inputs: Sequence[Feed]
    references: Sequence[Sequence[ReferenceOutput]]

    def only(self, parts: Sequence[Layer]) -> onnx.ModelProto:
        """Quantize these layers and no others."""
        return insert_qdq(self.graph, self.ranges, parts, self.options)

    def without(self, kept: Sequence[Layer]) -> onnx.ModelProto:
        """Quantize all layers but these."""
        names = {part.name for part in kept}
        return self.only([part for part in self.parts if part.name not in names])

    def error(self, quantized: onnx.ModelProto, most: int | None = None) -> WorstOutput:
        """Measure a quantized model, on all inputs or the first few."""
        return worst_output(quantized, self.inputs[:most], self.references[:most])


def rewritten(model: onnx.ModelProto, options: QuantizeOptions) -> onnx.ModelProto:
    """Return the graph of which layers are quantized; its nodes have names of their own."""
    passes = (*COMPILING, *BEFORE_QUANTIZING) if takes_pixels(model) else COMPILING
    graph, _ = run_pipeline(normalized(model), passes)
    return normalized(in_quantizable_opset(graph, options))


def _errors_by_layer(trial: Trial, progress: Progress) -> dict[str, WorstOutput]:
    """Quantize each layer by itself and measure the result."""
    progress(f"quantizing each of {len(trial.parts)} layers by itself")
    return {part.name: trial.error(trial.only([part]), _INPUTS_PER_LAYER) for part in trial.parts}


def _number_kept(trial: Trial, ranked: Sequence[Layer], progress: Progress) -> int:
    """Return how many of the ranked layers stay fp32.

    The result need not get better with every layer in fp32, so the bisection may miss the least
    number; but the number that it returns was measured and keeps the budget.
    """
    keep = trial.options.keep_float
    if keep.budget_db is None:
        return min(keep.most_sensitive, len(ranked))
    budget = keep.budget_db
    best = -np.inf

    def keeps_budget(count: int) -> bool:
        nonlocal best
        snr = trial.error(trial.without(ranked[:count])).snr_db
        progress(f"{count} layers in fp32: {snr:.1f} dB")
        best = max(best, snr)
        return snr >= budget

    # At least one layer is quantized, or there would be nothing to do.
    count = bisect_left(range(len(ranked)), True, key=keeps_budget)
    if count == len(ranked):
        raise BudgetError(
            f"the output cannot be kept at {budget:g} dB: the best seen, with layers in fp32, is "
            f"{best:.1f} dB; lower the budget, take --activations int16, or more inputs"
        )
    if 2 * count > len(ranked):
        progress(
            f"warning: {budget:g} dB keep {count} of {len(ranked)} layers in fp32, so that little "
            "is left in integers; a lower budget keeps fewer: what each number gives stands above"
        )
    return count


def _layer_error(
    part: Layer, errors: Mapping[str, WorstOutput], kept: Sequence[Layer], options: QuantizeOptions
) -> LayerError:
    error = errors.get(part.name)
    reason = None
    if part.name in options.keep_float.elsewhere:
        reason = "behind the part that the device computes"
    elif part.name in options.keep_float.without_kernel:
        reason = "the device has no integer kernel for it, or it reads what has none"
    elif part in kept:
        budget = options.keep_float.budget_db
        reason = f"one of the {len(kept)} most sensitive"
        reason += f", needed for {budget:g} dB" if budget is not None else ""
        reason += f"; alone it leaves {error.snr_db:.1f} dB" if error else ""
    return LayerError(
        part.name,
        part.operators,
        error.snr_db if error else None,
        error.cosine if error else None,
        reason,
    )
