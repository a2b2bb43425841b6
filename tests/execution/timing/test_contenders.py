"""Which runtimes can be compared with, and on which processors."""

import os
import re
import sys

import pytest

from mbv3c.errors import UsageError
from mbv3c.execution.timing.latency import choose_cpus, processor_name
from mbv3c.execution.timing.worker import OTHERS, find_contender
from mbv3c.installing import install_extra


def test_onnxruntime_is_there() -> None:
    assert OTHERS[0] == "onnxruntime"
    assert find_contender("onnxruntime").version


def test_unknown_runtime_is_named() -> None:
    with pytest.raises(UsageError, match="'tensorrt'; known: onnxruntime, openvino"):
        find_contender("tensorrt")


def test_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(
        UsageError, match=rf"openvino is not .*{re.escape(install_extra('bench'))}"
    ):
        find_contender("openvino")


def test_processors_are_those_that_are_allowed() -> None:
    allowed = os.sched_getaffinity(0)
    assert set(choose_cpus(len(allowed))) == allowed
    assert set(choose_cpus(1)) <= allowed
    for count in (0, len(allowed) + 1):
        with pytest.raises(UsageError, match=f"--threads {count} is not possible"):
            choose_cpus(count)
    assert processor_name()
