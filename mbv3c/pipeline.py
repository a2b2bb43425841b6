"""The whole line on one page: build → rewrite → lower → schedule → link → bundle → verify."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c import bundle as bundles
from mbv3c.atomic import need_space, new_folder
from mbv3c.errors import ParityError, UsageError
from mbv3c.execution.detection import DETECTIONS, Thresholds, detect
from mbv3c.execution.device.place import Place
from mbv3c.execution.runners import Runner, Tensor
from mbv3c.graphs.load import input_shape_of
from mbv3c.graphs.outputs import detector_outputs
from mbv3c.graphs.weights.files import write_npz
from mbv3c.job import Target
from mbv3c.lowering.describe import describe
from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.manifest import _describe, _describe_quantization, _write_golden
from mbv3c.parity.compare import Parity
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import run_reference
from mbv3c.prepare import rewritten_for
from mbv3c.progress import Progress
from mbv3c.quantization.calibration import Calibration
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.quantization.quantize import quantize_once
from mbv3c.targets.cpu.cores import check_precision
from mbv3c.targets.library import (
    _REFERENCE,
    Runnable,
    _stand_in,
    _verify,
    _wrong,
    build_library,
    runner_for,
)
from mbv3c.targets.opencl import library as opencl
from mbv3c.targets.opencl.backend import _check_verifiable
from mbv3c.targets.opencl.gpus import GPUS
from mbv3c.targets.remote import open_device
from mbv3c.targets.table import target_of
from mbv3c.tuning.choices import recorded, tuned_kernels

_TEMPORARY_COPIES = 5
_OTHER_BYTES = 8 << 20


@dataclass(frozen=True)
class Compiled:
    """What `compile` made.

    Attributes:
        path: the bundle.
        target: what it is for.
        parity: the verdict; None if it was not asked to verify.
        kernels: the kernel calls, as the manifest has them.
    """

    path: Path
    target: Target
    parity: Parity | None
    kernels: list[dict[str, Any]]


def compile_model(
    model: onnx.ModelProto,
    target: Target,
    output: Path,
    *,
    precision: str = "fp32",
    calibration: Calibration | None = None,
    quantizing: QuantizeOptions | None = None,
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
    force: bool = False,
    verify: bool = True,
    emit_source: bool = False,
    progress: Progress,
) -> Compiled:
    """Compile a model to a bundle, whole or not at all.

    The bundle is verified before it gets its name. For int8, a model that has no QDQ pairs is
    quantized first: on `calibration`, or on random inputs, as `quantizing` says. For fp16, nodes
    whose names match a pattern of `keep_float` stay in fp32. Kernels that `choices` knows
    are as it says. `emit_source`
    adds the kernels of a GPU to the bundle, as they are in the library.

    Raises:
        ParityError: the library does not compute what the model computes; nothing is written.
        UsageError: the target's processor does not compute in that precision, or `emit_source` is
            asked for one that is no GPU.
        Mbv3cError: anything else that is wrong.
    """
    check_precision(target, precision)
    if verify:
        _check_verifiable(target)
    if emit_source and not target.gpu:
        raise UsageError(f"--emit-source is for GPUs; the kernels of {target.name} have no source")
    bundles.check_replaceable(output)
    # Objects, library and model are each about as large as the weights.
    need_space(output, _TEMPORARY_COPIES * model.ByteSize() + _OTHER_BYTES)
    with new_folder(output, force=force) as folder:
        given, quantization = model, None
        if precision == "int8":
            model, quantization = quantize_once(model, calibration, quantizing, progress)
        progress("rewriting the graph")
        optimized, reports = rewritten_for(model, precision)
        progress(f"compiling for {target.name} ({len(optimized.graph.node)} operators)")
        library = folder / bundles.LIBRARY
        built = build_library(
            optimized,
            target,
            library,
            reports,
            precision=precision,
            keep_float=keep_float,
            choices=choices,
        )
        if emit_source:
            language = GPUS[target.gpu].gpu.language
            (folder / bundles.SOURCES[language]).write_text(opencl.format_sources(built.sources))
        described = describe(built.lowered)
        progress(_REFERENCE[quantization is not None])
        inputs = parity_inputs(input_shape_of(model))
        references = list(run_reference(model, inputs))
        _write_golden(folder, inputs[0], references, precision)
        (folder / bundles.MODEL).write_bytes(given.SerializeToString(deterministic=True))
        if quantization is not None:
            written = model.SerializeToString(deterministic=True)
            (folder / bundles.QUANTIZED).write_bytes(written)
        parity = None
        tuned = tuned_kernels(built.lowered.plan)
        if verify:
            as_given = given if quantization is not None else None
            parity = _verify(
                folder,
                described["kernels"],
                model,
                target,
                precision,
                inputs,
                references,
                progress,
                as_given,
                keep_float,
                choices=recorded(tuned),
            )
            if not parity.passed:
                raise ParityError(
                    f"{output.name} does not compute what onnxruntime computes; nothing was "
                    f"written (--no-verify writes the bundle all the same){_wrong(parity)}",
                    parity.to_json(),
                )
        contents = _describe(given, target, precision, reports, references[0], parity)
        contents["keep_float"] = list(keep_float)
        contents["tuned_kernels"] = tuned
        contents["quantization"] = _describe_quantization(quantization)
        contents |= described
        bundles.write_manifest(folder, contents)
    return Compiled(output, target, parity, described["kernels"])


def verify_bundle(
    path: Path, progress: Progress, place: tuple[Place, float] | None = None
) -> Parity:
    """Check a bundle's library against onnxruntime on the model as it was given.

    Of an int8 bundle the reference is the quantized model; the model as given is beside it.
    `place` says on which device to run, and the seconds that it has for a step; else this machine
    finds what can.

    Raises:
        Mbv3cError: the bundle is damaged or cannot be run.
    """
    bundle = bundles.read_bundle(path)
    runner = open_device(bundle, *place) if place is not None else None
    model = onnx.load(bundle.compiled_model)
    given = onnx.load(bundle.model) if bundle.compiled_model != bundle.model else None
    target = target_of(bundle)
    if runner is None:
        _check_verifiable(target)
    precision = bundle.manifest["precision"]
    progress(_REFERENCE[given is not None])
    inputs = parity_inputs(bundle.input_shape)
    references = list(run_reference(model, inputs))
    kept = bundle.manifest.get("keep_float", [])
    kernels = bundle.manifest["kernels"]
    return _verify(
        path,
        kernels,
        model,
        target,
        precision,
        inputs,
        references,
        progress,
        given,
        kept,
        runner,
        recorded(bundle.manifest.get("tuned_kernels", ())),
    )


@dataclass(frozen=True)
class Ran:
    """What `run_bundle` wrote: arrays by name, and what executed the library."""

    arrays: dict[str, NDArray[Any]]
    ran_on: str


def run_bundle(
    path: Path,
    source: Path,
    output: Path,
    *,
    raw: bool = False,
    thresholds: Thresholds | None = None,
    place: tuple[Place, float] | None = None,
) -> Ran:
    """Run one inference from an fp32 .npy file into an .npy or .npz file.

    An .npz file takes every output by its name; an .npy file takes the only one. Of a detector
    the arrays are what `mbv3c.execution.detection.detect` makes of its outputs, unless `raw` asks
    for the outputs themselves. `place` says on which device, as in `verify_bundle`.

    Raises:
        UsageError: the input file is not there, is no fp32 .npy, or has another shape; or there
            are several arrays and `output` is no .npz; or there are thresholds for a model that
            is no detector.
        Mbv3cError: the bundle is damaged or nothing here can run it.
    """
    bundle = bundles.read_bundle(path)
    names = bundle.output_names
    detector = None if raw else detector_outputs(bundle.metadata, names)
    if thresholds is not None and detector is None:
        raise UsageError(
            "thresholds are for detections: this bundle's model is no detector, or --raw asks for "
            "its outputs as they are"
        )
    named = names if detector is None else DETECTIONS
    if len(named) > 1 and output.suffix != ".npz":
        raise UsageError(
            f"the bundle gives several arrays ({', '.join(named)}) and {output.name} is no .npz "
            "file; name one that ends in .npz"
        )
    x = _read_input(source, bundle.input_shape)
    from mbv3c.targets.ethos_u.opening import _runner

    runner = _runner(bundle) if place is None else open_device(bundle, *place)
    (outputs,) = runner.run(path, [x])
    arrays: dict[str, NDArray[Any]] = dict(zip(names, outputs, strict=True))
    if detector is not None:
        boxes, scores = (arrays[name] for name in detector)
        height, width = bundle.input_shape[2:]
        arrays = detect(boxes, scores, height, width, thresholds or Thresholds())
    if output.suffix == ".npz":
        write_npz(output, arrays)
    else:
        with output.open("wb") as file:
            np.save(file, outputs[0])
    return Ran(arrays, runner.description)


def _read_input(source: Path, wanted: tuple[int, ...]) -> Tensor:
    try:
        x = np.load(source, allow_pickle=False)
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {source}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{source} is no .npy array: {error}") from error
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.shape != wanted:
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else "an .npz archive"
        raise UsageError(f"{source} holds {found}; the bundle wants float32 {wanted}")
    return x


@contextmanager
def runnable(
    bundle: bundles.Bundle, progress: Progress, place: tuple[Place, float] | None = None
) -> Iterator[Runnable]:
    """Find the closest thing to a bundle's target that runs it, as `verify_bundle` does.

    Raises:
        UsageError: there is no way to run its kernels.
        ToolError: what runs them is missing.
    """
    manifest = bundle.manifest
    runner: Runner | None
    if place is not None:
        runner = open_device(bundle, *place)
    elif "npu" in manifest:
        from mbv3c.targets.ethos_u.opening import _check_interpreted, _runner

        _check_interpreted(manifest["target"]["name"])
        runner = _runner(bundle)
    else:
        target = target_of(bundle)
        _check_verifiable(target)
        runner = runner_for(target, manifest["precision"])
    if runner is not None:
        kernels = manifest.get("kernels", [])  # the stream of an NPU has none
        yield Runnable(bundle.path, runner, runner.description, True, kernels)
        return
    with _stand_in(
        bundle.path,
        onnx.load(bundle.compiled_model),
        target,
        manifest["precision"],
        manifest.get("keep_float", []),
        recorded(manifest.get("tuned_kernels", ())),
        progress,
    ) as made:
        yield made
