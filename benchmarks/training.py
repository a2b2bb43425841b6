"""Measure training: seconds of an epoch, and accuracy in fp32 and in int8 on Fashion-MNIST.

    python -m benchmarks.training [--folder FOLDER] [--write]

Trains MobileNetV3-Small 0.5 at 32 pixels for 900 steps of 128 on one thread, as `mbv3c train`
does, and quantizes the result as `mbv3c quantize` does. A folder keeps the trained model, and the
state of a training that was interrupted. The images are those of `mbv3c doctor --fetch=demo`.
"""

import argparse
import datetime
import sys
import time
from importlib import metadata
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from benchmarks.results import replace_section
from mbv3c.accuracy.tally import Interval
from mbv3c.errors import Mbv3cError
from mbv3c.execution.timing.latency import processor_name
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.load import load_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.quantization.calibration import Calibration
from mbv3c.quantization.quantize import quantize
from mbv3c.scratch import scratch_folder
from mbv3c.training.demo import fetch_demo
from mbv3c.training.evaluate import evaluate
from mbv3c.training.examples import Examples, open_examples
from mbv3c.training.plan import TrainPlan
from mbv3c.training.session import TrainRequest, train_file
from mbv3c.training.train import train

TITLE = "Training"
WIDTH, STEPS, VALIDATION = 0.5, 900, 5_000 / 60_000
TIMED = {32: 30, 64: 12}  # steps that are timed, by the side of the images
CALIBRATED = 64


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to work; kept, and gone on from")
    parser.add_argument("--write", action="store_true", help="put it into RESULTS.md")
    arguments = parser.parse_args()
    try:
        if arguments.folder is None:
            with scratch_folder("training") as folder:
                body = _measured(folder)
        else:
            arguments.folder.mkdir(parents=True, exist_ok=True)
            body = _measured(arguments.folder)
    except Mbv3cError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{TITLE}\n\n{body}\n")
    if arguments.write:
        replace_section(TITLE, body)
    return 0


def _say(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


def _built(side: int) -> onnx.ModelProto:
    return build_model(ModelSpec("small", width=WIDTH, resolution=side, classes=10))


def _measured(folder: Path) -> str:
    images = fetch_demo(_say)
    output = folder / f"small-{WIDTH}-32.onnx"
    if not output.is_file():
        request = TrainRequest(images, validation=VALIDATION, plan={"steps": STEPS})
        train_file(_built(32), request, output, lambda event: _say(str(event)))
    model = load_model(output)
    examples = open_examples(images, model, validation=VALIDATION)
    _say("accuracy in fp32 and in int8")
    quantized, _ = quantize(model, _calibration(examples), rank_layers=False)
    exact, rounded = (evaluate(one, examples, "test").interval for one in (model, quantized))
    rows = [_timed(side, images) for side in TIMED]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnxruntime"))
    return f"""\
{datetime.datetime.now(tz=datetime.UTC).date()}, {processor_name()}, one thread; {versions}.
`python -m benchmarks.training --write`: MobileNetV3-Small {WIDTH}, Fashion-MNIST of ten classes,
55,000 images to train with. Processor time, on a machine with other work, of steps of 128 images;
an epoch is 429 steps, reckoned from the median.

| side | step | an epoch |
|---|---|---|
{chr(10).join(rows)}

At 32 pixels, {STEPS} steps (2.1 epochs), the defaults of `train`, no augmentation, seed 0; int8 by
`quantize` on {CALIBRATED} images; 10,000 test images, 95 % intervals, onnxruntime.

| | right |
|---|---|
| fp32 | {_shown(exact)} |
| int8 | {_shown(rounded)} |
"""


def _calibration(examples: Examples) -> Calibration:
    chosen = np.arange(CALIBRATED) * (examples.count("train") // CALIBRATED)
    x = np.ascontiguousarray(examples.batch("train", chosen).transpose(0, 3, 1, 2))
    return Calibration("training images", False, CALIBRATED, lambda: (one[None] for one in x))


def _timed(side: int, images: Path) -> str:
    """Return the row of the table for images of a side."""
    _say(f"timing steps at {side} pixels")
    model = _built(side)
    examples = open_examples(images, model, validation=VALIDATION, limit=12_800)
    moments: list[float] = []
    train(
        model,
        examples,
        TrainPlan(TIMED[side]),
        progress=lambda step: moments.append(time.process_time()),
    )
    seconds = median(np.diff(list(islice(moments, 2, None))))
    return f"| {side} | {1000 * seconds:.0f} ms | {429 * seconds:.0f} s |"


def _shown(right: Interval) -> str:
    return f"{right.share:.2%} ({right.low:.2%} to {right.high:.2%})"


if __name__ == "__main__":
    sys.exit(main())
