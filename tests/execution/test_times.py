"""How long commands took last time."""

from pathlib import Path

import pytest

from mbv3c.execution import times
from mbv3c.execution.times import FILE, Took, Work, last, noting

COMPILE = Work("compile", "/models/a.onnx", "arm_cpu:cortex-a76", "fp32")
OTHER = Work("compile", "/models/b.onnx", "arm_cpu:cortex-a76", "fp32")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_done_last_is_known_and_else_what_is_most_alike() -> None:
    assert last(COMPILE) is None
    with noting(OTHER):
        pass
    found = last(COMPILE)
    assert found is not None
    assert found.work == OTHER
    with noting(COMPILE):
        pass
    with noting(OTHER):
        pass
    found = last(COMPILE)
    assert found is not None
    assert found.work == COMPILE
    assert last(Work("compile", "/models/a.onnx", "npu:ethos-u55-128", "int8")) is None


def test_what_failed_is_not_noted() -> None:
    with pytest.raises(ValueError, match="wrong"), noting(COMPILE):
        raise ValueError("wrong")
    assert last(COMPILE) is None


def test_other_lines_are_passed_over_and_what_cannot_be_kept_is_let_go(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with noting(COMPILE):
        pass
    kept = (cache / FILE).read_text()
    (cache / FILE).write_text(f'{{}}\nnull\n{{"work": 3}}\n\x00\n{kept}{{"wo')
    found = last(COMPILE)
    assert found is not None
    assert found.work == COMPILE
    (cache / FILE).unlink()
    (cache / FILE).mkdir()
    with noting(COMPILE):
        pass
    assert last(COMPILE) is None


def test_the_older_half_goes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "_LARGEST", 2000)
    for number in range(30):
        with noting(Work("compile", f"/models/{number}.onnx")):
            pass
    assert (cache / FILE).stat().st_size < 2000
    found = last(Work("compile", "/models/29.onnx"))
    assert found is not None
    assert found.work.model == "/models/29.onnx"


def test_in_words() -> None:
    assert Took(COMPILE, 3.04, "2026-05-01T10:00:00+00:00").text == "3.0 s, on 2026-05-01"
    assert Took(COMPILE, 125.4, "2026-05-01T10:00:00+00:00").text == "2 min 5 s, on 2026-05-01"
