"""The trained text models of PP-OCR on every target: errors, decisions and time.

    python -m benchmarks.text [--only NAME …] [--targets TARGET:PRECISION …] [--write]

Each model is compiled for each target and precision, int8 with rendered text as calibration. The
error is that of the verdict, on seeded inputs, in int8 on rendered text. The agreement is that of
decisions, on rendered text that was not calibrated on, with onnxruntime on the model as given. The
ratio is ours over onnxruntime's: of processor times on this machine in turns, on one thread, or of
instructions under an emulator, in int8 both of the quantized model. Ours in fp16 is beside
onnxruntime's fp32.
"""

import argparse
import datetime
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import mbv3c
from benchmarks import aarch64
from benchmarks.results import replace_section
from mbv3c.bundle import GOLDEN_INPUT, NPU_HOST
from mbv3c.errors import Mbv3cError, ParityError
from mbv3c.execution.emulator import kit as toolbox
from mbv3c.execution.timing.latency import processor_name
from mbv3c.execution.timing.worker import BUNDLE, CONTENDERS
from mbv3c.job_spec import NO_TUNE_LOGS, JobSpec
from mbv3c.parity.reference import run, session
from mbv3c.scratch import scratch_folder
from mbv3c.speed.measure import Instructions
from mbv3c.targets import open_bundle
from tests.text_models import MODELS, TextModel, agreement, outputs_of

TITLE = "Trained text models (PP-OCR)"
TARGETS = (
    "host_cpu fp32",
    "host_cpu int8",
    "arm_cpu:cortex-a76 fp32",
    "arm_cpu:cortex-a76 fp16",
    "arm_cpu:cortex-a76 int8",
    "mobile_gpu fp32",
    "mobile_gpu fp16",
    "npu:ethos-u55-256 int8",
)
_BUNDLE = "bundle"
_CALIBRATED_ON = 16
_TRIED, _TRIED_SLOWLY = 8, 4  # images, and images where something is emulated
# A multiply-add takes an emulator some fifty times as long.
_EMULATED_AT = {"find": (1, 3, 160, 160), "read": (1, 3, 48, 160)}
_COUNTED_OF_ONNXRUNTIME = 4  # inferences, of which two warm up
_RUNS = 60
_NPU_ALLOWED = "bit for bit, cosine 0.9 to fp32"  # of the command stream to TOSA, and of the whole
_HEAD = (
    "| model | target | error of range | allowed | agreement | beside onnxruntime |",
    "|---|---|---|---|---|---|",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--write", action="store_true", help="put it into RESULTS.md")
    arguments = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = "1"
    lines = [*_HEAD]
    print("\n".join(lines), flush=True)
    for target in arguments.targets:
        for name in arguments.only:
            lines.append(_row(name, target))
            print(lines[-1], flush=True)
    if arguments.write:
        replace_section(TITLE, "\n".join([*_said(), "", *lines]))
    return 0


def _said() -> Iterator[str]:
    today = datetime.datetime.now(tz=datetime.UTC).date()
    versions = (f"{name} {metadata.version(name)}" for name in ("apache-tvm", "onnxruntime"))
    made = f"{processor_name()}; {', '.join(versions)}"
    yield f"`python -m benchmarks.text --write`, {today}, {made}."
    yield "arm_cpu is emulated, mobile_gpu is PoCL on this machine, npu is interpreted."
    yield "Detectors take 320x320 pixels, readers 48x320, but for where a row says another size."


def _row(name: str, target: str) -> str:
    model, (device, precision) = MODELS[name], target.split()
    if device.startswith("arm_cpu") and model.task in _EMULATED_AT:
        model = replace(model, shape=_EMULATED_AT[model.task])
        target += f" at {'x'.join(map(str, model.shape[2:]))}"
    with scratch_folder("text") as folder:
        try:
            cells = _measured(model, device, precision, folder)
        except Mbv3cError as error:
            cells = (f"refused: {_in_short(str(error))}", "", "", "")
        how = _quantized(folder / _BUNDLE)
    return f"| {' | '.join((name, target + how, *cells))} |"


def _in_short(refusal: str) -> str:
    """Return the words of a refusal, of a verdict that missed those with its figures."""
    said = " ".join(refusal.split())
    return said[said.find("parity: ") :][:300] if "parity: " in said else said[:300]


def _quantized(bundle: Path) -> str:
    """Say what is unusual of how a bundle was quantized, and what an NPU leaves to the CPU."""
    if not bundle.is_dir():
        return ""
    manifest = open_bundle(bundle).manifest
    record, said = manifest.quantization, ""
    if record is not None and record.method != "minmax":
        said += f", ranges by {record.method}"
    if record is not None and record.layers_in_fp32:
        said += f", {len(record.layers_in_fp32)} layers in fp32"
    return said + (", its end on the CPU" if (bundle / NPU_HOST).exists() else "")


def _measured(
    model: TextModel, device: str, precision: str, folder: Path
) -> tuple[str, str, str, str]:
    given, bundle = model.load(), folder / _BUNDLE
    tried = _TRIED if device.startswith("host_cpu") else _TRIED_SLOWLY
    inputs = model.inputs(_TRIED + _CALIBRATED_ON)
    calibration = None
    if precision == "int8":
        calibration = folder / "calibration"
        calibration.mkdir()
        for number, x in enumerate(inputs[_TRIED:]):
            np.save(calibration / f"{number}.npy", x)
    job = JobSpec(device, precision, calibration, tune_logs=NO_TUNE_LOGS)
    parity = _verdict(given, job, bundle, inputs[:tried])
    reference = session(given)
    shares = []
    for x, ours in zip(inputs[:tried], outputs_of(bundle, inputs[:tried]), strict=True):
        shares.append(agreement(model, ours, run(reference, x)[0]))
    return (
        f"{parity['max_error_of_range']:.1e}",
        f"{parity['tolerance']:.1e}" if "tolerance" in parity else _NPU_ALLOWED,
        f"{np.mean(shares):.1%}",
        _speed(bundle, device, precision),
    )


def _verdict(
    given: onnx.ModelProto, job: JobSpec, bundle: Path, inputs: Sequence[NDArray[np.float32]]
) -> dict[str, Any]:
    """Compile a model, and return the verdict: in int8 on text, since noise shows these little.

    Raises:
        Mbv3cError: it does not compile, or misses.
    """
    if job.precision != "int8":
        compiled = mbv3c.compile(given, job, bundle)
        assert compiled.verdict is not None
        return compiled.verdict.to_json()
    mbv3c.compile(given, job, bundle, verify=False)
    text = bundle.with_name("text")
    text.mkdir()
    for number, x in enumerate(inputs):
        np.save(text / f"{number}.npy", x)
    result = mbv3c.verify(bundle, inputs=text)
    if result.exit_code:
        missed = result.document.get("missed") or [
            line for line in result.lines if "MISSED" in line
        ]
        raise ParityError("; ".join(missed), result.document)
    return dict(result.document)


def _speed(bundle: Path, device: str, precision: str) -> str:
    if device.startswith(("mobile_gpu", "npu")):
        return ""  # a processor says nothing of their time
    if device.startswith("host_cpu"):
        ours, theirs = _processor_times(bundle)
        return f"{ours:.2f} ms, {ours / theirs:.2f} of {theirs:.2f} ms"
    measured = mbv3c.bench(bundle)
    assert isinstance(measured, Instructions)
    counted = _instructions_of_onnxruntime(bundle, measured.cpu, precision)
    return (
        f"{measured.executed / 1e6:.0f} M instructions, {measured.executed / counted:.2f} of "
        f"{counted / 1e6:.0f} M"
    )


def _processor_times(bundle: Path) -> list[float]:
    """Return milliseconds of processor time of ours and onnxruntime's, the medians of turns.

    Unlike time on a clock they hold on a machine that does other things, too. One thread each,
    which is this one.
    """
    x = np.load(bundle / GOLDEN_INPUT)
    runs = [CONTENDERS[name].open(bundle, x, 1, "cpu") for name in (BUNDLE, "onnxruntime")]
    turns = []
    for _ in range(_RUNS):
        begun = [time.thread_time()]
        for run_once in runs:
            run_once()
            begun.append(time.thread_time())
        turns.append(np.diff(begun))
    ours, theirs = np.median(turns[_RUNS // 10 :], axis=0) * 1e3
    return [float(ours), float(theirs)]


def _instructions_of_onnxruntime(path: Path, cpu: str, precision: str) -> int:
    """Count what onnxruntime executes of the model that the bundle was made of."""
    machine, bundle = aarch64.provide(toolbox.fetch(_log), _log), open_bundle(path)
    quantized = precision == "int8"
    with scratch_folder("text") as place:
        model = place / "model.onnx"
        onnx.save(onnx.load(bundle.compiled_model if quantized else bundle.model), model)
        named = precision if quantized else "fp32"
        # fp16 is beside fp32, so this is counted once for both.
        counted = (cpu, model.read_bytes())
        if counted not in _known:
            _known[counted] = aarch64.count_runtime(
                *(machine, cpu, "onnxruntime", named, model, path),
                inferences=_COUNTED_OF_ONNXRUNTIME,
            ).instructions
    return _known[counted]


_known: dict[tuple[str, bytes], int] = {}


def _log(step: str) -> None:
    print(step, file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
