"""A frame on the NPU gives what the model gives for the converted frame."""

from pathlib import Path

import numpy as np
import pytest

import mbv3c
from mbv3c import Ends, Frame, JobSpec, Outputs, job_of
from tests.ends.camera import LABELS, classifier, converted, frame, outputs

ENDS = Ends(Frame(), Outputs(top=2), LABELS)


def test_a_frame_gives_the_classes_of_the_converted_frame(tmp_path: Path) -> None:
    made = mbv3c.compile(classifier(), JobSpec("npu", ends=ENDS), tmp_path / "b")
    assert made.verdict is not None
    assert made.verdict.passed
    assert made.bundle.manifest.taken[0].dtype == "uint8"
    assert [one.dtype for one in made.bundle.manifest.outputs] == ["float32", "int64"]
    assert job_of(made.bundle).ends == ENDS
    ran = mbv3c.run(tmp_path / "b", frame())
    (scores,) = outputs(classifier(), converted(frame()))
    wanted = np.argsort(-scores[0], kind="stable")[:2]
    assert [one.index for one in ran.classes] == wanted.tolist()
    assert [one.label for one in ran.classes] == [LABELS[index] for index in wanted]
    allowed = 0.05 * float(np.ptp(scores))
    assert [one.score for one in ran.classes] == pytest.approx(scores[0][wanted], abs=allowed)
