"""From the model as given to the graph that a backend lowers: quantize, rewrite."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import metadata
from typing import Any

import onnx

from mbv3c.bundle import Bundle, quantized_name, read_bundled
from mbv3c.ends.rewrite import with_ends
from mbv3c.errors import BundleError, ModelError, UsageError
from mbv3c.feeds import Feed, arrays_of, shape_text
from mbv3c.graphs.frames import takes_pixels
from mbv3c.graphs.input_shapes import InputShape
from mbv3c.graphs.load import input_shapes_of, model_inputs, with_shapes
from mbv3c.graphs.narrow import narrowed
from mbv3c.graphs.size import check_size, stored_bytes
from mbv3c.job import Job
from mbv3c.manifest import (
    MANIFEST,
    Manifest,
    ModelRecord,
    PassRecord,
    QuantizationRecord,
    TargetRecord,
    TensorRecord,
)
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.reference import ReferenceOutput, run_reference
from mbv3c.passes import CLEANING, COMPILING, OF_FRAMES, SPLITTING, PassReport, run_pipeline
from mbv3c.passes.canonical_qdq import canonical_qdq
from mbv3c.passes.inside_pairs import has_mends
from mbv3c.passes.split_qoperators import has_qoperators
from mbv3c.passes.undo_fusions import FOR_ONE_PROCESSOR, LAID_OUT
from mbv3c.precision import Precision
from mbv3c.progress import Progress
from mbv3c.quantization.by_itself import OnDevice, quantize_once
from mbv3c.quantization.images import with_preparing
from mbv3c.quantization.report import QuantizationReport
from mbv3c.version import __version__


class Reference:
    """What onnxruntime computes with a model on the inputs of a parity check.

    Attributes:
        model: the model.
        inputs: what the model takes, once per run of the check.
    """

    def __init__(self, model: onnx.ModelProto, inputs: list[Feed]) -> None:
        """Take the inputs that the model as given gets, of which `model` may have been made."""
        self.model = model
        self.inputs = inputs

    @cached_property
    def outputs(self) -> list[list[ReferenceOutput]]:
        """The outputs for each input; computed when they are first asked for.

        Operators on integers are taken apart first: onnxruntime's own let sums of two products
        saturate on processors that lack dot products. What is mended between pairs is, too: it
        rounds other values to the next step.
        """
        model = self.model
        if is_spelled_anew(model):
            mending = (canonical_qdq,) if has_mends(model) else ()
            model, _ = run_pipeline(model, (*SPLITTING, *mending))
        return list(run_reference(model, self.inputs))


def is_spelled_anew(model: onnx.ModelProto) -> bool:
    """Say whether a program is held to another spelling of a model, which rounds other values."""
    return has_qoperators(model) or has_mends(model)


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be lowered.

    Attributes:
        given: the model as the user gave it.
        quantized: the model with QDQ pairs, if we made it; None otherwise.
        graph: the rewritten graph, which is what the backend lowers.
        reports: what each pass did.
        quantization: what quantizing showed; None if we did not quantize.
        reference: what onnxruntime computes with the model that the program must equal.
        lowered: what the backend made of the graph, in its own form; None before it did.
    """

    given: onnx.ModelProto
    quantized: onnx.ModelProto | None
    graph: onnx.ModelProto
    reports: tuple[PassReport, ...]
    quantization: QuantizationReport | None
    reference: Reference
    lowered: Any = None


def prepare(
    model: onnx.ModelProto, job: Job, progress: Progress, on_device: OnDevice | None = None
) -> Prepared:
    """Quantize a model, if the precision asks for it, and rewrite it.

    A model that has QDQ pairs already is taken as it is. `on_device` names the nodes that the
    device computes in integers, of the graph that is quantized; where it has no fp32 itself, of a
    rewritten model with pairs.

    Raises:
        UsageError: the model is quantized already, and the job says how to quantize it.
        ModelError: the model is quantized dynamically.
        Mbv3cError: the model cannot be quantized.
    """
    _refuse_dynamic(model)
    progress("rewriting the graph")
    graph, reports = rewritten_for(model, job.precision, job.dense_weights)
    base, quantized, report = model, None, None
    if job.precision.quantized:
        _refuse_laid_out(graph)

        def computed(one: onnx.ModelProto) -> Collection[str] | None:
            if on_device is None or job.target.computes_fp32:
                return on_device(one) if on_device else None
            return on_device(rewritten_for(one, job.precision)[0])

        with_pairs, report = quantize_once(
            graph,
            job.calibration,
            job.quantizing,
            progress,
            computed if on_device else None,
            may_keep_float=job.target.computes_fp32,
        )
        if report is not None:
            base = quantized = with_pairs
            graph, reports = rewritten_for(quantized, job.precision)
    return Prepared(
        model, quantized, graph, tuple(reports), report, Reference(base, inputs_of(model))
    )


def at_shapes(model: onnx.ModelProto, shapes: Sequence[InputShape]) -> list[onnx.ModelProto]:
    """Return a model once for every shape of its inputs.

    Raises:
        UsageError: a shape does not suit the inputs, or is there twice.
        ModelError: an input is left dynamic, or the model has other sizes built in.
    """
    models = [with_shapes(model, shape) for shape in shapes]
    texts = [shape_text(input_shapes_of(each)) for each in models]
    for text in texts:
        if texts.count(text) > 1:
            raise UsageError(f"--input-shapes has {text} twice; name every shape once")
    return models


def programs_of(model: onnx.ModelProto, job: Job) -> list[tuple[onnx.ModelProto, Job]]:
    """Return what is to be compiled: the model, and its job, for every shape of the inputs.

    Each has the ends that the job asks for, and says how its images are prepared.

    Raises:
        Mbv3cError: as `at_shapes` says, or there is nothing to calibrate a shape on.
    """
    check_size(stored_bytes(model.graph.initializer), "the model")
    model = with_preparing(model, job.preparing)
    if not job.shapes:
        return [(with_ends(model, job.ends), job)]
    models = [with_ends(each, job.ends) for each in at_shapes(model, job.shapes)]
    shapes = [input_shapes_of(each) for each in models]
    given = job.calibration
    if given is None or given.again is None:
        return [(each, job) for each in models]
    return [(each, replace(job, calibration=given.again(each, shapes))) for each in models]


_DYNAMIC = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul")


def _refuse_dynamic(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in _DYNAMIC:
            raise ModelError(
                f"the model is quantized dynamically ({node.op_type}, node "
                f"{node.name or node.output[0]}): its steps change with every input, and the "
                "kernels here need fixed ones; give the fp32 model with --precision int8 and "
                "--calibration FOLDER, or quantize it with `mbv3c quantize`"
            )


def _refuse_laid_out(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain in FOR_ONE_PROCESSOR:
            raise ModelError(
                f"{node.op_type} ({node.name or node.output[0]}) of {node.domain} is no operator "
                f"of ONNX; {LAID_OUT}"
            )


def describe(prepared: Prepared, job: Job, tools: Sequence[str], index: int = 0) -> Manifest:
    """Say of a bundle what every backend's bundles say.

    `tools` are the packages that made it; `index` counts the shapes that it is for.
    """
    given, made, reference = prepared.given, prepared.quantization, prepared.reference
    inputs = [
        TensorRecord(value.name, array.shape, str(array.dtype))
        for value, array in zip(model_inputs(given), arrays_of(reference.inputs[0]), strict=True)
    ]
    return Manifest(
        mbv3c=__version__,
        model=_recorded(given),
        target=TargetRecord(job.target.name),
        precision=job.precision.name,
        input=inputs[0],
        further_inputs=tuple(inputs[1:]),
        outputs=tuple(
            TensorRecord(output.name, output.output.shape, str(output.output.dtype))
            for output in reference.outputs[0]
        ),
        passes=tuple(
            PassRecord(report.name, len(report.matched), len(report.refused))
            for report in prepared.reports
        ),
        keep_float=job.keep_float,
        tuned_kernels=(),
        quantization=None
        if made is None
        else QuantizationRecord(
            model=quantized_name(index),
            calibration=made.calibration,
            random_inputs=made.random_inputs,
            calibrated_on=made.calibrated_on,
            method=made.method,
            layers_in_fp32=tuple(
                layer.name for layer in made.layers if layer.kept_float is not None
            ),
        ),
        parity=None,
        tools={name: metadata.version(name) for name in tools},
    )


def _recorded(given: onnx.ModelProto) -> ModelRecord:
    return ModelRecord(
        given.graph.name, {entry.key: entry.value for entry in given.metadata_props}
    )


def check_model_record(bundle: Bundle) -> None:
    """Make sure that a manifest says of the model as given what the model says.

    Raises:
        BundleError: it does not: names of classes would be others, or what frames hold.
    """
    given, manifest = read_bundled(bundle.model), bundle.manifest
    ends = [value.name for value in model_inputs(given)], [one.name for one in given.graph.output]
    told = [one.name for one in manifest.inputs], [one.name for one in manifest.outputs]
    if (_recorded(given), ends) != (manifest.model, told):
        raise BundleError(
            f"{bundle.path / MANIFEST} does not describe {bundle.model.name}: its name, metadata, "
            "inputs or outputs are others; compile it again"
        )


def rewritten_for(
    model: onnx.ModelProto, precision: Precision, dense_weights: str = ""
) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Return the graph that a backend lowers: a quantized one is only cleaned.

    What we quantize was rewritten before, and rewriting it again would fold its integers to fp32.
    `dense_weights` is as in `Job`.

    Raises:
        ModelError: the weights of dense layers cannot be stored so.
    """
    if precision.quantized:
        return run_pipeline(model, CLEANING)
    # What computes with integers is taken apart only in models that have it, to become floats.
    first = SPLITTING if has_qoperators(model) else ()
    last = OF_FRAMES if takes_pixels(model) else ()
    graph, reports = run_pipeline(model, (*first, *COMPILING, *last))
    return (narrowed(graph, dense_weights) if dense_weights else graph), reports


def check_keep_float(model: onnx.ModelProto, keep_float: Sequence[str]) -> None:
    """Make sure that every pattern matches the name of a node of a rewritten graph.

    Raises:
        UsageError: a pattern matches no node.
    """
    for pattern in keep_float:
        if not any(fnmatchcase(node.name, pattern) for node in model.graph.node):
            raise UsageError(
                f"--keep-float {pattern!r} matches no layer of the rewritten graph; "
                "`mbv3c compile --explain` lists them"
            )
