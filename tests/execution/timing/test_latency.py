"""Turns, and workers that fail."""

from pathlib import Path

import pytest

from mbv3c.errors import ToolError
from mbv3c.execution.timing.latency import Turns, choose_cpus, worker


def test_few_interruptions_do_not_disturb() -> None:
    assert Turns({}, 10, 200).undisturbed
    assert not Turns({}, 11, 200).undisturbed


def test_a_failing_worker_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ToolError, match=r"timing onnxruntime failed with status 1: .*input\.npy"),
        worker("onnxruntime", tmp_path, choose_cpus(1)),
    ):
        pass
