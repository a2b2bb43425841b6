"""The whole line on one page: prepare → lower → build → bundle → verify; then run, tune, climb."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c import bundle as bundles
from mbv3c.atomic import need_space, new_folder
from mbv3c.bundle import Bundle
from mbv3c.errors import ParityError, UsageError
from mbv3c.execution.detection import DETECTIONS, Thresholds, detect
from mbv3c.execution.device.place import Place
from mbv3c.feeds import Feed, arrays_of, as_feed, native, save_array, shape_text
from mbv3c.graphs.load import input_shapes_of
from mbv3c.graphs.outputs import detector_outputs
from mbv3c.graphs.weights.files import write_npz
from mbv3c.job import Job
from mbv3c.lowering.packing import SharedPacking
from mbv3c.manifest import TensorRecord
from mbv3c.parity.gate.baseline import GateRequest
from mbv3c.parity.gate.gate import GateResult, Subject, verify_and_judge
from mbv3c.parity.ladder.climb import climb
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.parity.several_shapes import ShapesVerdict
from mbv3c.parity.verdict import Verdict
from mbv3c.prepare import Prepared, describe, prepare, programs_of
from mbv3c.progress import Progress
from mbv3c.quantization.images import AS_THE_MODEL_SAYS, IMAGES, Overrides
from mbv3c.quantization.own_inputs import InputsRequest, read_all_inputs, read_inputs
from mbv3c.scratch import scratch_folder
from mbv3c.speed.measure import speed_of
from mbv3c.targets import backend_for, backend_of, open_bundle
from mbv3c.targets.backend import Backend, Built, Compiled
from mbv3c.tuning.request import TuneRequest, Tuning

# The model, its rewritten and its quantized form, objects, library: each as large as the weights.
_TEMPORARY_COPIES = 8
_OTHER_BYTES = 16 << 20
_SHOWN_MISSES = 5


def compile_model(
    model: onnx.ModelProto,
    job: Job,
    output: Path,
    *,
    force: bool = False,
    verify: bool = True,
    progress: Progress = lambda step: None,
) -> Compiled:
    """Compile a model to a bundle, whole or not at all; it is verified before it gets its name.

    For several shapes of the inputs it becomes one bundle, in which they share their weights.

    Raises:
        ParityError: the bundle does not compute what the model computes; nothing is written.
        Mbv3cError: anything else that is wrong.
    """
    backend = backend_of(job.target)
    backend.check(job, verify=verify)
    backend.check_shapes(job.target, len(job.shapes))
    bundles.check_replaceable(output)
    programs = programs_of(model, job)
    need_space(output, len(programs) * _TEMPORARY_COPIES * model.ByteSize() + _OTHER_BYTES)
    for each, _ in programs:
        backend.check_model(each)
    if len(programs) > 1:
        job = replace(job, choices=SharedPacking(job.choices))
    with new_folder(output, force=force) as folder:
        prepared = [prepare(each, asked, progress) for each, asked in programs]
        lowered = [backend.lower(one, job, progress) for one in prepared]
        prepared = [
            replace(one, lowered=made) for one, made in zip(prepared, lowered, strict=True)
        ]
        built = backend.build_all(prepared, lowered, job, folder)
        _write_files(prepared, built, folder)
        described = [
            backend.complete(describe(one, job, backend.tools, index), made, job)
            for index, (one, made) in enumerate(zip(prepared, built, strict=True))
        ]
        manifest = backend.joined(described, built)
        bundle, verdict = bundles.write_manifest(folder, manifest), None
        if verify:
            verdict = _verified(backend, bundle, progress, known=prepared)
            if not verdict.passed:
                lines = [*verdict.lines(), *verdict.missed[:_SHOWN_MISSES]]
                raise ParityError(
                    f"{output.name} does not compute what onnxruntime computes; nothing was "
                    "written (--no-verify writes the bundle all the same; `mbv3c verify --ladder` "
                    "on it, or on the model, names the step at fault)"
                    + "".join(f"\n  {text}" for text in lines),
                    verdict.to_json(),
                )
            manifest = replace(manifest, parity=verdict.to_json())
            bundle = bundles.write_manifest(folder, manifest)
    return Compiled(replace(bundle, path=output), verdict, built[0].alternatives)


def _write_files(prepared: Sequence[Prepared], built: Sequence[Built], folder: Path) -> None:
    """Write the models and the golden files of every shape; the model as given only once."""
    models = {bundles.MODEL: prepared[0].given}
    for index, (one, made) in enumerate(zip(prepared, built, strict=True)):
        if one.quantized is not None:
            models[bundles.quantized_name(index)] = one.quantized
        bundles.write_golden(folder, made.golden, index)
    for name, model in models.items():
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    if len(prepared) > 1:
        bundles.write_shapes(folder, [input_shapes_of(one.given) for one in prepared])


def _verified(
    backend: Backend,
    bundle: Bundle,
    progress: Progress,
    *,
    place: Place | None = None,
    known: Sequence[Prepared] | None = None,
    inputs: Sequence[list[Feed]] | None = None,
) -> Verdict:
    """Verify every shape of a bundle; `inputs` are the user's own, for each shape."""
    verdicts: dict[str, Verdict] = {}
    with backend.programs(bundle) as programs:
        for index, program in enumerate(programs):
            own = None if inputs is None else inputs[index]
            if own == []:
                continue
            shape = shape_text(record.shape for record in program.manifest.taken)
            if len(programs) > 1:
                progress(f"verifying it for inputs of {shape}")
            verdicts[shape] = backend.verify(
                program, progress, place, known[index] if known else None, own
            )
    if len(programs) == 1:
        return verdicts[shape]
    return ShapesVerdict(verdicts)


def verify_bundle(
    path: Path,
    request: GateRequest | None = None,
    progress: Progress = lambda step: None,
    place: Place | None = None,
    inputs: InputsRequest | None = None,
) -> GateResult:
    """Check a bundle against onnxruntime on the model as given, and hold it to what was asked.

    `place` says on which device to run; else this machine finds what can. `inputs` are the user's
    own, which take the place of the seeded ones.

    Raises:
        CalibrationError: an input is broken, or does not fit the model.
        Mbv3cError: the bundle is damaged or cannot be run, or the request does not fit it.
    """
    here = place is None

    def open_subject() -> Subject:
        bundle = open_bundle(path)
        backend = backend_for(bundle)
        own, feeds = None, None
        if inputs is not None:
            with backend.programs(bundle) as programs:
                models = [onnx.load(program.model) for program in programs]
            own, feeds = read_all_inputs(models, inputs)
        first = feeds[0] if feeds else None
        return Subject(
            bundle,
            backend.footprint(bundle),
            lambda: _verified(backend, bundle, progress, place=place, inputs=feeds),
            (lambda: speed_of(bundle, progress)) if here else None,
            lambda: backend.blocks(bundle, progress, first or None) if here else _ELSEWHERE,
            own,
        )

    return verify_and_judge(path.name, open_subject, request or GateRequest(), progress)


_ELSEWHERE = "Blocks were not run by themselves: the bundle ran on another device."


def climb_bundle(
    path: Path, progress: Progress = lambda step: None, place: Place | None = None
) -> Ladder:
    """Check every stage that made a bundle, and find what the first that breaks gets wrong.

    Raises:
        Mbv3cError: the bundle is damaged or cannot be run.
    """
    bundle = open_bundle(path)
    backend = backend_for(bundle)
    return climb(
        bundle,
        lambda ladder: backend.stages(bundle, ladder, progress, place),
        progress,
        backend.ladder_inputs,
    )


def climb_model(
    model: onnx.ModelProto, job: Job, progress: Progress = lambda step: None
) -> Ladder:
    """Compile a model and climb what comes of it; nothing is kept.

    Raises:
        Mbv3cError: it cannot be compiled or run.
    """
    with scratch_folder("ladder") as folder:
        path = folder / "bundle"
        compile_model(model, job, path, verify=False, progress=progress)
        return climb_bundle(path, progress)


def tune_model(
    model: onnx.ModelProto, job: Job, request: TuneRequest, report: Callable[[Any], None]
) -> Tuning:
    """Look for better choices for a model's kernels; `report` is told what happens.

    Raises:
        Mbv3cError: the request makes no sense, or nothing could be measured.
    """
    backend = backend_of(job.target)
    backend.check_tuning(job, request)
    return backend.tune(model, job, request, report)


@dataclass(frozen=True)
class Ran:
    """What an inference gave.

    Attributes:
        arrays: the outputs, or what was made of them, by name.
        ran_on: what executed the program.
    """

    arrays: dict[str, NDArray[Any]]
    ran_on: str


def run_bundle(
    path: Path,
    x: Feed | Path,
    output: Path | None = None,
    *,
    raw: bool = False,
    thresholds: Thresholds | None = None,
    place: Place | None = None,
    preparing: Overrides = AS_THE_MODEL_SAYS,
) -> Ran:
    """Run one inference on an array, on several of a model with several inputs, or on a file.

    The file is .npy, .npz with the arrays by the names of the inputs, or an image, which is
    prepared as calibration does, and as `preparing` says; it fills the batch. Of a bundle for
    several shapes the program for the input's shape runs; an image becomes one of the first.

    The outputs also go to `output`: an .npz file takes every array by its name, an .npy file the
    only one. A detector's outputs become what `mbv3c.execution.detection.detect` makes of them,
    unless `raw` asks for the outputs themselves.

    Raises:
        UsageError: the input does not fit, there are several arrays and `output` is no .npz file,
            or there are thresholds for a model that is no detector.
        Mbv3cError: the bundle is damaged or nothing here can run it.
    """
    bundle = open_bundle(path)
    names = bundle.output_names
    detector = None if raw else detector_outputs(bundle.manifest.model.metadata, names)
    if thresholds is not None and detector is None:
        raise UsageError(
            "thresholds are for detections: this bundle's model is no detector, or --raw asks for "
            "its outputs as they are"
        )
    named = names if detector is None else DETECTIONS
    if output is not None and len(named) > 1 and output.suffix != ".npz":
        raise UsageError(
            f"the bundle gives several arrays ({', '.join(named)}) and {output.name} is no .npz "
            "file; name one that ends in .npz"
        )
    if isinstance(x, Path) and x.suffix.lower() in IMAGES:
        x = read_inputs(onnx.load(bundle.model), InputsRequest(x, preparing)).feeds[0]
    given = _checked_input(x, bundle.manifest.accepted)
    backend = backend_for(bundle)
    with backend.open(bundle, lambda step: None, place=place, stand_in=False) as opened:
        (outputs,) = opened.runner.run(opened.folder, [given])
    arrays: dict[str, NDArray[Any]] = dict(zip(names, outputs, strict=True))
    if detector is not None:
        boxes, scores = (arrays[name] for name in detector)
        height, width = arrays_of(given)[0].shape[2:]
        arrays = detect(boxes, scores, height, width, thresholds or Thresholds())
    if output is not None and output.suffix == ".npz":
        write_npz(output, arrays)
    elif output is not None:
        save_array(output, outputs[0])
    return Ran(arrays, opened.ran_on)


def _checked_input(x: Feed | Path, accepted: Sequence[Sequence[TensorRecord]]) -> Feed:
    """Return an input after making sure that it is what a bundle takes for one of its shapes.

    Raises:
        UsageError: it is not; the message names the file and what the bundle takes.
    """
    wanted = accepted[0]
    name = str(x) if isinstance(x, Path) else "the input"
    arrays = _read_input(x, wanted) if isinstance(x, Path) else arrays_of(x)
    arrays = tuple(native(one) if isinstance(one, np.ndarray) else one for one in arrays)
    if len(arrays) != len(wanted):
        names = ", ".join(record.name for record in wanted)
        raise UsageError(
            f"{name} holds {len(arrays)} arrays; the bundle takes {len(wanted)}: {names}; give an "
            ".npz file with these arrays"
        )
    if any(all(map(_is_of, arrays, records)) for records in accepted):
        if not all(map(_is_finite, arrays)):
            raise UsageError(
                f"{name} holds NaN or infinity: kernels take the larger of two numbers in other "
                "ways than onnxruntime there, so a class would come out that means nothing; "
                "replace them"
            )
        return as_feed(arrays)
    if len(accepted) > 1:
        shapes = (shape_text(record.shape for record in records) for records in accepted)
        raise UsageError(
            f"{name} holds {', '.join(map(_shown, arrays))}; the bundle takes "
            f"{', '.join(record.dtype for record in wanted)} of the shapes {', '.join(shapes)}: "
            "convert it, or compile the bundle for this one, too"
        )
    array, record = next(pair for pair in zip(arrays, wanted, strict=True) if not _is_of(*pair))
    shown = name if len(wanted) == 1 else f"{name}: {record.name}"
    raise UsageError(
        f"{shown} holds {_shown(array)}; the bundle wants {record.dtype} {record.shape}"
    )


def _is_finite(array: NDArray[Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _is_of(array: Any, record: TensorRecord) -> bool:
    if not isinstance(array, np.ndarray):
        return False
    return (array.dtype, array.shape) == (np.dtype(record.dtype), record.shape)


def _shown(array: Any) -> str:
    return f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else str(array)


def _read_input(path: Path, wanted: Sequence[TensorRecord]) -> tuple[NDArray[Any], ...]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return (loaded,)
        with loaded:
            missing = [record.name for record in wanted if record.name not in loaded.files]
            if missing:
                raise UsageError(
                    f"{path} has no array {', '.join(missing)}; it has {', '.join(loaded.files)}"
                )
            return tuple(loaded[record.name] for record in wanted)
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UsageError(f"{path} is no .npy array: {error}") from error
