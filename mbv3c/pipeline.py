"""The whole line on one page: prepare → lower → build → bundle → verify; then climb and tune."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from mbv3c import bundle as bundles
from mbv3c.atomic import need_space, new_folder
from mbv3c.bundle import Bundle, read_bundled
from mbv3c.ends.rewrite import with_ends
from mbv3c.errors import ParityError
from mbv3c.execution.device.place import Place
from mbv3c.feeds import Feed, shape_text
from mbv3c.graphs.load import input_shapes_of
from mbv3c.job import Job
from mbv3c.lowering.packing import SharedPacking
from mbv3c.parity.gate.baseline import GateRequest
from mbv3c.parity.gate.gate import GateResult, Subject, verify_and_judge
from mbv3c.parity.ladder.climb import climb
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.parity.several_shapes import ShapesVerdict
from mbv3c.parity.verdict import Verdict
from mbv3c.prepare import Prepared, check_model_record, describe, prepare, programs_of
from mbv3c.progress import Progress
from mbv3c.provenance import Making, check_provenance, write_provenance
from mbv3c.quantization.loss import loss_of
from mbv3c.quantization.own_inputs import InputsRequest, read_all_inputs
from mbv3c.scratch import scratch_folder
from mbv3c.speed.measure import speed_of
from mbv3c.targets import backend_for, backend_of, open_bundle
from mbv3c.targets.backend import Backend, Built, Compiled
from mbv3c.trust import MADE_HERE, Signer, Trust, note_made
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
    signer: Signer | None = None,
) -> Compiled:
    """Compile a model to a bundle, whole or not at all; it is verified before it gets its name.

    For several shapes of the inputs it becomes one bundle, in which they share their weights.
    `signer` signs it.

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
    for each, asked in programs:
        backend.check_model(each, asked)
    if len(programs) > 1:
        job = replace(job, choices=SharedPacking(job.choices))
    with new_folder(output, force=force) as folder:
        prepared = [
            prepare(each, asked, progress, backend.on_device(asked)) for each, asked in programs
        ]
        loss = loss_of(prepared[0].quantization)
        if loss is not None and loss.is_large:
            progress("\n".join(loss.lines()))
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
        write_provenance(folder, manifest, _making(backend))
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
        if signer is not None:
            signer.sign(folder)
        unknown = note_made(folder)
    if unknown is not None:
        progress(
            f"warning: cannot note that {output} was made here ({unknown}): `run`, `verify` and "
            "`bench` will ask for --trust; set MBV3C_STATE to a folder that only you can write to"
        )
    return Compiled(replace(bundle, path=output), verdict, built[0].alternatives, loss)


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


def _making(backend: Backend) -> Making:
    return Making(backend.program, backend.needed, backend.built_in)


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
    if known is None:
        check_model_record(bundle)
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
    verdict = verdicts[shape] if len(programs) == 1 else ShapesVerdict(verdicts)
    if known is None and verdict.passed:  # else what is wrong says more
        check_provenance(bundle, _making(backend))
    return verdict


def verify_bundle(
    path: Path,
    request: GateRequest | None = None,
    progress: Progress = lambda step: None,
    place: Place | None = None,
    inputs: InputsRequest | None = None,
    trust: Trust = MADE_HERE,
) -> GateResult:
    """Check a bundle against onnxruntime on the model as given, and hold it to what was asked.

    `place` says on which device to run; else this machine finds what can. `inputs` are the user's
    own, which take the place of the seeded ones. `trust` is what they say of a bundle from
    elsewhere.

    Raises:
        CalibrationError: an input is broken, or does not fit the model.
        Mbv3cError: the bundle is damaged, may not or cannot be run, or the request does not fit.
    """
    here = place is None

    def open_subject() -> Subject:
        bundle = open_bundle(path, trust)
        backend = backend_for(bundle)
        own, feeds = None, None
        if inputs is not None:
            with backend.programs(bundle) as programs:
                models = [read_bundled(program.model) for program in programs]
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
    path: Path,
    progress: Progress = lambda step: None,
    place: Place | None = None,
    trust: Trust = MADE_HERE,
) -> Ladder:
    """Check every stage that made a bundle, and find what the first that breaks gets wrong.

    Raises:
        Mbv3cError: the bundle is damaged, or may not or cannot be run.
    """
    return _climbed(open_bundle(path, trust), progress, place)


def _climbed(bundle: Bundle, progress: Progress, place: Place | None = None) -> Ladder:
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
        return _climbed(open_bundle(path), progress)


def tune_model(
    model: onnx.ModelProto, job: Job, request: TuneRequest, report: Callable[[Any], None]
) -> Tuning:
    """Look for better choices for a model's kernels; `report` is told what happens.

    Raises:
        Mbv3cError: the request makes no sense, or nothing could be measured.
    """
    backend = backend_of(job.target)
    backend.check_tuning(job, request)
    return backend.tune(with_ends(model, job.ends), job, request, report)
