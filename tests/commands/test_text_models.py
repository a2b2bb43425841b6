"""The trained text models that people have: they decide as onnxruntime does.

`python -m benchmarks.text` has every target and precision, with errors and times.
"""

from pathlib import Path

import numpy as np
import pytest

import mbv3c
from mbv3c.job_spec import JobSpec
from mbv3c.parity.reference import run, session
from tests.text_models import MODELS, agreement, outputs_of

IMAGES = 4


def agreed(name: str, target: str, folder: Path) -> float:
    """Compile a model, and return how far its decisions on rendered text are onnxruntime's."""
    model = MODELS[name]
    given = model.load()
    mbv3c.compile(given, JobSpec(target, "fp32"), folder / "bundle")
    reference, inputs = session(given), model.inputs(IMAGES)
    ours = outputs_of(folder / "bundle", inputs)
    return float(
        np.mean(
            [agreement(model, y, run(reference, x)[0]) for x, y in zip(inputs, ours, strict=True)]
        )
    )


def test_they_read_what_is_rendered() -> None:
    """The reference itself tells directions apart and finds text, or nothing would be shown."""
    model = MODELS["direction, v2"]
    opened = session(model.load())
    decided = [model.decided(run(opened, x)[0]) for x in model.inputs(4)]
    assert decided == [[0], [1], [0], [1]]


@pytest.mark.parametrize("name", ["direction, v2", "detector, v3"])
def test_some_on_this_machine(name: str, tmp_path: Path) -> None:
    assert agreed(name, "host_cpu", tmp_path) > 0.999


@pytest.mark.parametrize("target", ["host_cpu", "arm_cpu", "mobile_gpu"])
@pytest.mark.parametrize("name", MODELS)
def test_all_in_fp32(name: str, target: str, tmp_path: Path) -> None:
    assert agreed(name, target, tmp_path) > 0.999
