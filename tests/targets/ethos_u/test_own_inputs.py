"""`mbv3c verify --inputs` of an NPU bundle: every step of the check, on files of the user's."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3c import pipeline
from mbv3c.errors import CalibrationError
from mbv3c.quantization.own_inputs import InputsRequest


def test_every_step_is_checked_on_own_inputs(bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((120, 120)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", rng.standard_normal((3, 3, 96, 96)).astype(np.float32))
    found = pipeline.verify_bundle(bundle, inputs=InputsRequest(tmp_path)).to_json()
    assert found["own_inputs"]["files"] == ["a.png", "b.npy", "b.npy", "b.npy"]
    assert len(found["inputs"]) == 4
    assert [row["input"] for row in found["metrics"]] == [0, 1, 2, 3]
    assert found["stream_bit_equal"] is True
    assert found["stream_inputs"] == 2
    assert found["same_tosa"] is True
    assert found["operators_alone"]["passed"] is True


def test_a_broken_input_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(CalibrationError, match=r"a\.png is no image"):
        pipeline.verify_bundle(bundle, inputs=InputsRequest(tmp_path))
