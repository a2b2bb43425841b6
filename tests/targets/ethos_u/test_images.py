"""`mbv3c verify --images` of an NPU bundle: the command stream, interpreted image by image."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3c.accuracy.image_sets import NO_LABELS
from mbv3c.accuracy.measure import AccuracyRequest, Event, measure_accuracy
from mbv3c.errors import UsageError
from mbv3c.targets import open_bundle
from mbv3c.targets.ethos_u.backend import BACKEND


def test_the_interpreted_stream_is_beside_fp32_and_qdq(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((120, 120)).save(tmp_path / f"{index}.png")
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "cache"))
    events: list[Event] = []
    opened = open_bundle(bundle)
    found = measure_accuracy(
        opened,
        lambda step: BACKEND.open(opened, step),
        AccuracyRequest(tmp_path, labels=NO_LABELS),
        events.append,
    )
    assert found["ran_on"] == "interpreter of the command stream"
    assert set(found["agreement"]) == {"given", "quantized"}
    assert found["agreement"]["quantized"]["top1"]["of"] == found["read"] == 3
    assert found["not_finite"] == 0
    assert json.dumps(events)


def test_a_stream_that_nothing_interprets_is_refused_at_once(bundle: Path) -> None:
    opened = open_bundle(bundle)
    target = replace(opened.manifest.target, name="npu:ethos-u85-256")
    other = replace(opened, manifest=replace(opened.manifest, target=target))
    with (
        pytest.raises(UsageError, match=r"npu:ethos-u85-256.*without --images"),
        BACKEND.open(other, lambda step: None),
    ):
        pass
