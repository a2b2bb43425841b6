"""The whole line on one page: build → rewrite → lower → schedule → link → bundle → verify."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c import __version__
from mbv3c import bundle as bundles
from mbv3c.atomic import need_space, new_folder
from mbv3c.errors import BundleError, ModelError, ParityError, UnknownOperatorsError, UsageError
from mbv3c.execution.detection import DETECTIONS, Thresholds, detect
from mbv3c.execution.device.place import Place
from mbv3c.execution.device.runner import open_device
from mbv3c.execution.runners import (
    HostRunner,
    KernelRunner,
    Runner,
    Tensor,
    require_runner,
    runner_for,
)
from mbv3c.graphs.load import model_input, static_shape
from mbv3c.graphs.outputs import detector_outputs
from mbv3c.graphs.weight_files import write_npz
from mbv3c.lowering.describe import describe
from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.lower import Lowered
from mbv3c.parity.alone import KernelsAlone
from mbv3c.parity.compare import Parity, agreement, compare, with_pooled_spread
from mbv3c.parity.conversion import in_opset
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.kernels import check_kernels
from mbv3c.parity.proof import prove as onnxruntime_judge
from mbv3c.parity.reference import ReferenceOutput, error_of_range, run, run_reference, session
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.passes import PIPELINE, PassReport, Proof, run_pipeline
from mbv3c.passes.convert_opset import check_opset
from mbv3c.passes.prove import prove
from mbv3c.passes.removal import why_left
from mbv3c.quantization.calibration import Calibration
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.quantization.quantize import quantize_once
from mbv3c.quantization.report import QuantizationReport
from mbv3c.targets import cpu, opencl
from mbv3c.targets.backend import build, lower_for
from mbv3c.targets.cores import check_precision
from mbv3c.targets.gpus import GPUS
from mbv3c.targets.isa import require_isa
from mbv3c.targets.npu_table import find_npu
from mbv3c.targets.npu_tools import require_npu_tools
from mbv3c.targets.table import Target, find_target, on_this_machine
from mbv3c.tuning.choices import recorded, tuned_kernels

Progress = Callable[[str], None]

_TEMPORARY_COPIES = 5
_OTHER_BYTES = 8 << 20
_SHOWN_KERNELS = 5

_RECORDED_TOOLS = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "onnxsim", "ziglang")


@dataclass(frozen=True)
class OptimizedStep:
    """One pass of `optimize`.

    Attributes:
        report: what the pass did.
        max_error_of_range: largest error of the graph after it against the model as given, on
            one random input, as a fraction of the output's range; the worst of several outputs.
    """

    report: PassReport
    max_error_of_range: float

    @property
    def failed(self) -> list[Proof]:
        """The rewrites that failed their proof, and were not made."""
        return [proof for proof in self.report.proofs if not proof.verdict.passed]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; an error that is not finite becomes null."""
        report = self.report
        return {
            "name": report.name,
            "matched": list(report.matched),
            "refused": [asdict(refusal) for refusal in report.refused],
            "nodes_before": report.nodes_before,
            "nodes_after": report.nodes_after,
            "max_error_of_range": _finite(self.max_error_of_range),
            "proofs": [
                {
                    "node": proof.node,
                    "passed": proof.verdict.passed,
                    "max_error_of_range": _finite(proof.verdict.max_error_of_range),
                    "allowed": proof.verdict.allowed,
                    "reason": proof.verdict.reason or None,
                }
                for proof in report.proofs
            ],
        }


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None


def optimize(
    model: onnx.ModelProto, *, proving: bool = False, opset: int | None = None
) -> tuple[onnx.ModelProto, list[OptimizedStep]]:
    """Run every rewrite and measure the graph after each of them.

    `proving` also checks every single rewrite, before it is made, against onnxruntime; one that
    fails is not made, and is reported among what its pass refused and proved. `opset` has the
    result converted to that operator set, as the last step.
    """
    if opset is not None:
        check_opset(opset)
    x = parity_inputs(_input_shape(model))[0]
    wanted = run(session(model), x)
    steps: list[OptimizedStep] = []
    error = 0.0
    for rewrite in PIPELINE:
        model, report = prove(rewrite, model, onnxruntime_judge) if proving else rewrite(model)
        if report.changed:
            error = _largest_error(run(session(model), x), wanted)
        steps.append(OptimizedStep(report, error))
    if opset is not None:
        model, report = in_opset(model, opset)
        error = _largest_error(run(session(model), x), wanted)
        steps.append(OptimizedStep(report if proving else replace(report, proofs=()), error))
    return model, steps


def _largest_error(outputs: list[Tensor], wanted: list[Tensor]) -> float:
    return max(error_of_range(*pair) for pair in zip(outputs, wanted, strict=True))


def rewritten_for(
    model: onnx.ModelProto, precision: str
) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Return the graph that `build_library` takes: a quantized one as it is.

    It was rewritten before it was quantized, and rewriting would fold its integers to fp32.
    """
    return (model, []) if precision == "int8" else run_pipeline(model)


def check_keep_float(model: onnx.ModelProto, keep_float: Sequence[str]) -> None:
    """Make sure that every pattern matches the name of a node of a rewritten graph.

    Raises:
        UsageError: one matches none.
    """
    for pattern in keep_float:
        if not any(fnmatchcase(node.name, pattern) for node in model.graph.node):
            raise UsageError(
                f"--keep-float {pattern!r} matches no layer of the rewritten graph; "
                "`mbv3c compile --explain` lists them"
            )


@dataclass(frozen=True)
class Library:
    """A library that was built.

    Attributes:
        lowered: the network that it computes.
        sources: of a GPU the source of every kernel, by its name in the library.
    """

    lowered: Lowered
    sources: dict[str, str]


def build_library(
    model: onnx.ModelProto,
    target: Target,
    output: Path,
    reports: Sequence[PassReport] = (),
    *,
    precision: str = "fp32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
    symbols: bool = False,
) -> Library:
    """Turn a rewritten graph into the target's shared library, with its symbol table on demand.

    For fp16, nodes whose names match a pattern of `keep_float` stay in fp32. Kernels that
    `choices` knows are as it says.

    Raises:
        UsageError: a pattern matches no node.
        ModelError: TVM lacks operators of the graph. What the passes that could have removed them
            say in `reports` is part of the message.
    """
    check_keep_float(model, keep_float)
    resolved = cpu.resolve(target)
    try:
        lowered = lower_for(model, resolved, precision, keep_float, choices)
    except UnknownOperatorsError as error:
        reasons = why_left(model, error.positions, reports)
        raise ModelError("\n  ".join([str(error), *reasons])) from error
    return Library(lowered, build(lowered.module, resolved, output, symbols=symbols))


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
        inputs = parity_inputs(_input_shape(model))
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


def _describe_quantization(report: QuantizationReport | None) -> dict[str, Any] | None:
    """Say what a bundle's quantized model came from; None if we did not make it."""
    if report is None:
        return None
    return {
        "model": bundles.QUANTIZED,
        "calibration": report.calibration,
        "random_inputs": report.random_inputs,
        "method": report.method,
        "layers_in_fp32": [one.name for one in report.layers if one.kept_float is not None],
    }


_REFERENCE = {
    False: "running onnxruntime on the model as given",
    True: "running onnxruntime on the quantized model",
}


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


def _check_verifiable(target: Target) -> None:
    """Make sure that there is a way to run a target's kernels at all.

    Raises:
        UsageError: there is none.
        ToolError: this machine's processor lacks instructions.
    """
    require_isa(target)
    language = GPUS[target.gpu].gpu.language if target.gpu else ""
    if language not in ("", "opencl"):
        raise UsageError(
            f"{target.name} is compiled only: nothing here compiles or runs {language} kernels; "
            "--no-verify writes the bundle all the same, and mobile_gpu:generic_opencl verifies "
            "kernels of the same schedules"
        )


def target_of(bundle: bundles.Bundle) -> Target:
    """Return the target that a bundle was compiled for, with as many cores."""
    recorded = bundle.manifest["target"]
    return replace(find_target(recorded["name"]), cores=recorded["cores"])


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


def _runner(bundle: bundles.Bundle) -> Runner:
    if "npu" not in bundle.manifest:
        return require_runner(target_of(bundle), bundle.manifest["precision"])
    require_npu_tools()
    from mbv3c.execution.ethos_u.runner import StreamRunner  # needs vela

    return StreamRunner(bundle)


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


def _wrong(parity: Parity) -> str:
    """Name the kernels that are wrong by themselves."""
    missed = parity.kernels.missed if parity.kernels else []
    return "".join(f"\n  {one}" for one in missed[:_SHOWN_KERNELS])


def _verify(
    folder: Path,
    kernels: list[dict[str, Any]],
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    inputs: list[Tensor],
    references: list[list[ReferenceOutput]],
    progress: Progress,
    given: onnx.ModelProto | None = None,
    keep_float: Sequence[str] = (),
    runner: Runner | None = None,
    choices: Choices = NO_CHOICES,
) -> Parity:
    ran = execute(
        folder, kernels, model, target, precision, inputs, progress, keep_float, runner, choices
    )
    parity = compare(
        ran.outputs,
        references,
        TOLERANCES[precision],
        ran_on=ran.ran_on,
        exact_program=ran.exact_program,
    )
    parity = replace(parity, kernels=ran.alone)
    if given is None:
        return parity
    progress(_REFERENCE[False])
    return replace(parity, as_given=agreement(ran.outputs, list(run_reference(given, inputs))))


@dataclass(frozen=True)
class Executed:
    """What a bundle's library gave.

    Attributes:
        outputs: of every input.
        ran_on, exact_program: as of `Parity`.
        alone: what every kernel by itself has shown; None but of an int8 library.
    """

    outputs: list[list[Tensor]]
    ran_on: str
    exact_program: bool
    alone: KernelsAlone | None


def execute(
    folder: Path,
    kernels: list[dict[str, Any]],
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    inputs: list[Tensor],
    progress: Progress,
    keep_float: Sequence[str] = (),
    runner: Runner | None = None,
    choices: Choices = NO_CHOICES,
) -> Executed:
    """Run a bundle's library, or the closest thing to it that this machine can.

    `model` is what the library computes, with the kernels that `choices` knows as it says. Without
    `runner` this machine finds one.

    Raises:
        Mbv3cError: nothing can run it.
    """
    runner = runner or runner_for(target, precision)
    if runner is not None:
        own = Runnable(folder, runner, runner.description, True, kernels)
        standing_in: AbstractContextManager[Runnable] = nullcontext(own)
        progress(f"running the library on {runner.description}")
    else:
        standing_in = _stand_in(folder, model, target, precision, keep_float, choices, progress)
    with standing_in as ran:
        outputs = ran.runner.run(ran.folder, inputs)
        alone = _kernels_alone(
            model, ran.kernels, precision, inputs, ran.runner, ran.folder, progress
        )
    return Executed(outputs, ran.ran_on, ran.exact_program, alone)


@dataclass(frozen=True)
class Runnable:
    """What runs a bundle, or stands in for it.

    Attributes:
        folder: where its library is.
        runner: what runs that.
        ran_on: what executes it, as reports name it.
        exact_program: whether it is the bundle's own.
        kernels: as `describe` lists them; none of GPUs, whose are not run one by one.
    """

    folder: Path
    runner: Runner
    ran_on: str
    exact_program: bool
    kernels: list[dict[str, Any]]


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


def _check_interpreted(target: str) -> None:
    """Make sure that there is an interpreter for an NPU's command stream.

    Raises:
        UsageError: there is none.
    """
    if not find_npu(target).interpreted:
        raise UsageError(
            f"nothing here runs a command stream of {target}: the interpreter knows Ethos-U55 and "
            "Ethos-U65-256 only; `mbv3c verify` without --images checks it up to the stream"
        )


def _stand_in(
    folder: Path,
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    keep_float: Sequence[str],
    choices: Choices,
    progress: Progress,
) -> AbstractContextManager[Runnable]:
    """Make what comes closest to a library that nothing here runs."""
    if target.gpu:
        return _hosted(folder, model, target, precision, keep_float, choices, progress)
    return _rebuilt(model, target, precision, keep_float, progress)


@contextmanager
def _hosted(
    folder: Path,
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    keep_float: Sequence[str],
    choices: Choices,
    progress: Progress,
) -> Iterator[Runnable]:
    """Make a GPU bundle's kernels run on this machine's OpenCL device.

    Only the host code, which launches them one after the other, is built again for this machine.

    Raises:
        BundleError: the kernels in the library are not those that its model gives.
    """
    progress(f"building the host code of {target.name} for this machine")
    here = on_this_machine(target)
    runner = require_runner(here, precision)
    with tempfile.TemporaryDirectory(prefix="mbv3c-host-") as name:
        library = Path(name) / bundles.LIBRARY
        built = build_library(
            rewritten_for(model, precision)[0],
            here,
            library,
            precision=precision,
            keep_float=keep_float,
            choices=choices,
        )
        shipped = (folder / bundles.LIBRARY).read_bytes()
        others = [name for name, source in built.sources.items() if source.encode() not in shipped]
        if others:
            raise BundleError(
                f"{folder / bundles.LIBRARY} has another kernel {others[0]} than its model gives "
                f"({len(others)} differ in all); compile it again with this version"
            )
        progress(f"running its {len(built.sources)} kernels on {runner.description}")
        ran_on = f"{runner.description}: the kernels of the library, launched from this machine"
        yield Runnable(Path(name), runner, ran_on, True, [])


@contextmanager
def _rebuilt(
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    keep_float: Sequence[str],
    progress: Progress,
) -> Iterator[Runnable]:
    """Build a bundle's program for this machine."""
    progress(f"nothing here runs {target.name}: building the same program for this machine")
    with tempfile.TemporaryDirectory(prefix="mbv3c-host-") as name:
        folder = Path(name)
        library, host = folder / bundles.LIBRARY, find_target("host_cpu")
        optimized, _ = rewritten_for(model, precision)
        built = build_library(optimized, host, library, precision=precision, keep_float=keep_float)
        ran_on = f"this machine, rebuilt for it (not the {target.name} library itself)"
        kernels = describe(built.lowered)["kernels"]
        yield Runnable(folder, HostRunner(), ran_on, False, kernels)


def _kernels_alone(
    model: onnx.ModelProto,
    kernels: list[dict[str, Any]],
    precision: str,
    inputs: list[Tensor],
    runner: Runner,
    folder: Path,
    progress: Progress,
) -> KernelsAlone | None:
    """Check every kernel of an int8 library by itself; None of another."""
    if precision != "int8" or not isinstance(runner, KernelRunner):
        return None
    progress("running every kernel by itself")
    # The last input has the largest values: of integers, those that saturate, too.
    return check_kernels(model, kernels, inputs[-1], runner, folder)


def _write_golden(
    folder: Path, x: Tensor, references: list[list[ReferenceOutput]], precision: str
) -> None:
    tolerance = TOLERANCES[precision]
    first = with_pooled_spread(references, tolerance)[0]
    (folder / bundles.GOLDEN_INPUT).parent.mkdir()
    np.save(folder / bundles.GOLDEN_INPUT, x)
    files = bundles.output_files(folder / bundles.GOLDEN_OUTPUT)
    for reference, file in zip(first, files, strict=False):
        np.save(file, reference.output)
    allowed = [tolerance.allowed(reference.spread, reference.step) for reference in first]
    (folder / bundles.GOLDEN_TOLERANCE).write_text("".join(f"{one:.9g}\n" for one in allowed))


def _describe(
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    reports: list[PassReport],
    golden: list[ReferenceOutput],
    parity: Parity | None,
) -> dict[str, Any]:
    resolved = cpu.resolve(target)
    return {
        "mbv3c": __version__,
        "model": {"name": model.graph.name, "metadata": _metadata(model)},
        "target": {
            "name": target.name,
            "triple": resolved.triple,
            "cpu": resolved.cpu,
            "cores": resolved.cores,
        },
        "precision": precision,
        "input": {
            "name": model_input(model).name,
            "shape": list(_input_shape(model)),
            "dtype": "float32",
        },
        "outputs": [
            {
                "name": reference.name,
                "shape": list(reference.output.shape),
                "dtype": str(reference.output.dtype),
            }
            for reference in golden
        ],
        "passes": [
            {"name": r.name, "matched": len(r.matched), "refused": len(r.refused)} for r in reports
        ],
        "parity": parity.to_json() if parity else None,
        "tools": {name: metadata.version(name) for name in _RECORDED_TOOLS},
    }


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _input_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    shape = static_shape(model_input(model))
    if shape is None:
        raise ModelError("the model's input has a dynamic shape; fix it with --input-shape")
    return shape
