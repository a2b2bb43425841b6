"""What `import mbv3c` gives: the commands as functions from values to values.

A model is an `onnx.ModelProto`, or the path of an ONNX file. A job is a `JobSpec`, or only the
name of a target.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from mbv3c import inference, pipeline, targets
from mbv3c.bundle import Bundle
from mbv3c.ends.ends import Ends, Frame, Outputs
from mbv3c.execution.device.place import Place
from mbv3c.feeds import Feed
from mbv3c.finding import (
    AdaptSpec,
    Finishing,
    Halving,
    Images,
    SearchPlan,
    SearchSpec,
    Space,
    Trained,
    adapt,
    cost_of,
    search_networks,
    sweep,
    train,
)
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.input_shapes import InputShape
from mbv3c.graphs.load import load_model
from mbv3c.graphs.outputs import with_class_names
from mbv3c.graphs.spec import completed
from mbv3c.inference import Ran
from mbv3c.job import Job
from mbv3c.job_spec import NO_TUNE_LOGS, JobSpec
from mbv3c.parity import rewriting
from mbv3c.parity.gate.baseline import GateRequest
from mbv3c.parity.gate.gate import GateResult
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.parity.rewriting import OptimizedStep
from mbv3c.precision import Precision, find_precision
from mbv3c.progress import Progress
from mbv3c.quantization.calibration import inputs_from
from mbv3c.quantization.calibration_files import WITHOUT_LIMIT, Sampling
from mbv3c.quantization.images import AS_THE_MODEL_SAYS, Overrides, with_preparing
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.quantization.own_inputs import InputsRequest
from mbv3c.quantization.quantize import quantize as quantized_model
from mbv3c.quantization.report import QuantizationReport
from mbv3c.report.report import Report, ReportRequest, write_report
from mbv3c.report.subject import Files as ReportFiles
from mbv3c.speed import measure
from mbv3c.speed.measure import BenchRequest, Measured
from mbv3c.target import Target
from mbv3c.targets import backend_for, find_target
from mbv3c.targets.backend import Compiled
from mbv3c.training.plan import TrainPlan
from mbv3c.trust import Trust, TrustError, read_signer
from mbv3c.tuning.request import TuneRequest, Tuning

__all__ = [
    "AdaptSpec",
    "BenchRequest",
    "Bundle",
    "Compiled",
    "Ends",
    "Finishing",
    "Frame",
    "GateRequest",
    "GateResult",
    "Halving",
    "Images",
    "InputsRequest",
    "Job",
    "JobSpec",
    "Outputs",
    "Overrides",
    "Place",
    "Precision",
    "QuantizeOptions",
    "Report",
    "ReportFiles",
    "ReportRequest",
    "Sampling",
    "SearchPlan",
    "SearchSpec",
    "Space",
    "Target",
    "TrainPlan",
    "Trained",
    "TrustError",
    "TuneRequest",
    "adapt",
    "bench",
    "bench_shapes",
    "build",
    "compile",
    "cost_of",
    "find_precision",
    "find_target",
    "job_of",
    "ladder",
    "open_bundle",
    "optimize",
    "quantize",
    "run",
    "search_networks",
    "sweep",
    "train",
    "tune",
    "verify",
    "write_report",
]

Model = onnx.ModelProto | str | Path


def _silent(step: str) -> None:
    """Tell nobody what is being done."""


def build(
    *,
    weights: str | Path | None = None,
    preparing: Overrides = AS_THE_MODEL_SAYS,
    labels: Sequence[str] = (),
    **spec: Any,
) -> onnx.ModelProto:
    """Build a MobileNetV3 or a relative.

    Args:
        weights: a file with trained weights; None for seeded ones.
        preparing: what the model says of how its images are prepared.
        labels: the names of its classes, in their order.
        spec: fields of `mbv3c.graphs.spec.ModelSpec`, such as `variant`, `width`, `resolution`,
            `classes`, `head`, `network` and `seed`; classes and resolution follow the head.
            `architecture` is a file with the layers of a network of one's own.

    Raises:
        UsageError: the fields do not go together, or a file is no architecture.
    """
    built = build_model(completed(spec), Path(weights) if weights else None)
    return with_class_names(with_preparing(built, preparing), labels)


def optimize(
    model: Model, *, prove: bool = False, opset: int | None = None
) -> tuple[onnx.ModelProto, list[OptimizedStep]]:
    """Run every rewrite, and measure the graph after each of them against onnxruntime.

    `prove` also checks every single rewrite and leaves out those that fail; `opset` converts the
    result.

    Raises:
        ModelError: the model cannot be used.
        ParityError: the result does not compute what the model computes.
    """
    return rewriting.optimize(_loaded(model), proving=prove, opset=opset)


def quantize(
    model: Model,
    *,
    calibration: str | Path | None = None,
    random_inputs: int | None = None,
    options: QuantizeOptions | None = None,
    rank_layers: bool = True,
    preparing: Overrides = AS_THE_MODEL_SAYS,
    labels: Sequence[str] = (),
    sampling: Sampling = WITHOUT_LIMIT,
) -> tuple[onnx.ModelProto, QuantizationReport]:
    """Return a model in int8 with QDQ pairs, and what that costs and where.

    Args:
        model: the fp32 model.
        calibration: the folder with images or arrays that ranges are taken from.
        random_inputs: the number of random inputs to take instead.
        options: how to quantize.
        rank_layers: whether to measure every layer by itself, which takes longest.
        preparing: how images are prepared, which becomes part of the model.
        labels: the names of the classes, which become part of the model.
        sampling: how many of the files of `calibration` are taken.

    Raises:
        UsageError: there is no source of inputs, or there are two.
        CalibrationError: an input is broken.
        ModelError: the model cannot be quantized.
    """
    loaded = with_class_names(with_preparing(_loaded(model), preparing), labels)
    folder = Path(calibration) if calibration is not None else None
    source = inputs_from(loaded, folder, random_inputs, None, sampling=sampling)
    return quantized_model(loaded, source, options, rank_layers=rank_layers)


def compile(  # noqa: A001 - as the command is called
    model: Model,
    job: JobSpec | str,
    output: str | Path,
    *,
    force: bool = False,
    verify: bool = True,
    sign: str | Path | None = None,
    progress: Progress = _silent,
) -> Compiled:
    """Compile a model to a bundle, whole or not at all.

    Several `shapes` of a `JobSpec` make one bundle for all of them. `sign` is the file of a
    private key of Ed25519, PEM, that signs the bundle.

    Raises:
        ParityError: the bundle does not compute what the model computes; nothing is written.
        Mbv3cError: anything else that is wrong.
    """
    signer = read_signer(Path(sign)) if sign is not None else None
    shapes = job.shapes if isinstance(job, JobSpec) else ()
    loaded = _loaded(model, shapes[0] if shapes else None)
    asked = _job(job, loaded, progress)
    return pipeline.compile_model(
        loaded, asked, Path(output), force=force, verify=verify, progress=progress, signer=signer
    )


def verify(
    bundle: str | Path,
    request: GateRequest | None = None,
    *,
    inputs: InputsRequest | str | Path | None = None,
    place: Place | None = None,
    trust: bool = False,
    key: str | Path | None = None,
    progress: Progress = _silent,
) -> GateResult:
    """Check a bundle against onnxruntime, and hold it to what `request` asks.

    `inputs` are your own: a folder of images and arrays, or one such file. A bundle that was not
    compiled on this machine needs `trust`, or the public `key` that signed it: its code runs as
    you.

    Raises:
        CalibrationError: an input is broken, or does not fit the model.
        TrustError: the bundle is from elsewhere, and nothing says that it may run.
        Mbv3cError: the bundle is damaged, is not signed by `key`, or cannot be run.
    """
    own = InputsRequest(Path(inputs)) if isinstance(inputs, str | Path) else inputs
    said = _trust(trust, key)
    return pipeline.verify_bundle(Path(bundle), request, progress, place, own, said)


def ladder(
    subject: Model,
    job: JobSpec | str | None = None,
    *,
    place: Place | None = None,
    trust: bool = False,
    key: str | Path | None = None,
    progress: Progress = _silent,
) -> Ladder:
    """Check every stage of compiling a bundle, or a model for a job.

    Raises:
        TrustError: as `verify` says.
        Mbv3cError: it cannot be compiled or run.
    """
    if job is None and not isinstance(subject, onnx.ModelProto):
        return pipeline.climb_bundle(Path(subject), progress, place, _trust(trust, key))
    spec = job if isinstance(job, JobSpec) else JobSpec(job or "")
    loaded = _loaded(subject)
    return pipeline.climb_model(loaded, _job(spec, loaded, progress), progress)


def run(
    bundle: str | Path,
    x: Feed | Mapping[str, NDArray[Any]] | str | Path,
    *,
    raw: bool = False,
    place: Place | None = None,
    preparing: Overrides = AS_THE_MODEL_SAYS,
    trust: bool = False,
    key: str | Path | None = None,
) -> Ran:
    """Run one inference; `arrays` of the result has every output by its name.

    A model with several inputs takes a tuple of arrays, in the order of its inputs, or a dict of
    them by the names of the inputs. `x` may also be a file: .npy, .npz, or an image, which is
    prepared as `preparing` says.

    Raises:
        UsageError: the input has another type or shape than the bundle's.
        TrustError: as `verify` says.
        Mbv3cError: the bundle is damaged, or nothing here can run it.
    """
    given, said = Path(x) if isinstance(x, str) else x, _trust(trust, key)
    return inference.run_bundle(
        Path(bundle), given, raw=raw, place=place, preparing=preparing, trust=said
    )


def bench(
    bundle: str | Path,
    request: BenchRequest | None = None,
    *,
    trust: bool = False,
    key: str | Path | None = None,
    progress: Progress = _silent,
) -> Measured:
    """Time a bundle beside another runtime, or count its instructions where it runs emulated.

    Raises:
        UsageError: the request does not fit the bundle.
        TrustError: as `verify` says.
        ToolError: nothing here runs it.
    """
    opened = targets.open_bundle(Path(bundle), _trust(trust, key))
    return measure.measure(opened, request or BenchRequest(), progress)


def bench_shapes(
    bundle: str | Path,
    request: BenchRequest | None = None,
    *,
    trust: bool = False,
    key: str | Path | None = None,
    progress: Progress = _silent,
) -> dict[str, Measured]:
    """Measure a bundle for every shape that it was compiled for, by the shape, as `1x3x224x224`.

    `bench` measures the first shape alone.

    Raises:
        UsageError: the request does not fit the bundle.
        TrustError: as `verify` says.
        ToolError: nothing here runs it.
    """
    opened = targets.open_bundle(Path(bundle), _trust(trust, key))
    return measure.measure_shapes(opened, request or BenchRequest(), progress)


def tune(
    model: Model,
    job: JobSpec | str,
    request: TuneRequest | None = None,
    *,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> Tuning:
    """Look for better choices for a model's kernels, and keep them in the database.

    Raises:
        Mbv3cError: the request makes no sense, or nothing could be measured.
    """
    loaded = _loaded(model)
    spec = job if isinstance(job, JobSpec) else JobSpec(job, tune_logs=NO_TUNE_LOGS)
    asked = _job(spec, loaded, _silent)
    return pipeline.tune_model(loaded, asked, request or TuneRequest(Path("tune_logs")), report)


def open_bundle(path: str | Path, *, key: str | Path | None = None) -> Bundle:
    """Read a bundle: check every file, and every field of its manifest. Nothing in it is run.

    `key` is the file of the public key that must have signed it.

    Raises:
        BundleError: `path` is no bundle, is damaged, is for a target that is not known, or is not
            signed by `key`.
        UsageError: the key cannot be used.
    """
    return targets.open_bundle(Path(path), None if key is None else _trust(False, key))


def job_of(bundle: Bundle) -> Job:
    """Return the job that a bundle was compiled for, as far as its manifest has it."""
    return backend_for(bundle).job_of(bundle)


def _trust(anyway: bool, key: str | Path | None) -> Trust:
    return Trust(anyway, None if key is None else Path(key))


def _loaded(model: Model, shape: InputShape | None = None) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else load_model(Path(model), shape, None)


def _job(job: JobSpec | str, model: onnx.ModelProto, progress: Progress) -> Job:
    spec = job if isinstance(job, JobSpec) else JobSpec(job)
    return spec.calibrated(spec.job(progress), model)
