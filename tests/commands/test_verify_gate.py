"""`mbv3c verify` as a gate, on real bundles: limits, saved outputs, reports, JUnit XML."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from mbv3c.errors import EXIT_FAILED, EXIT_USAGE
from tests.command_line import Done, document, mbv3c


def verify(*arguments: object) -> Done:
    return mbv3c("verify", *arguments)


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Path:
    return small_bundle


@pytest.fixture(scope="module")
def written(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return what one `verify` wrote."""
    folder = tmp_path_factory.mktemp("gate")
    files = {name: folder / f"w.{name}" for name in ("npz", "json", "xml")}
    done = verify(
        *(bundle, "--save-outputs", files["npz"], "--report", files["json"]),
        *("--junit", files["xml"], "--max-of-range", 1e-4, "--min-top1", 1, "--json"),
    )
    assert done.returncode == 0, done.stderr
    (folder / "verify.json").write_text(done.stdout)
    return files | {"verify": folder / "verify.json"}


def test_metrics_are_those_of_the_saved_arrays(written: dict[str, Path]) -> None:
    found = json.loads(written["verify"].read_text())
    assert (found["passed"], found["exit_code"]) == (True, 0)
    assert [(row["output"], row["input"]) for row in found["metrics"]] == [
        ("logits", index) for index in range(5)
    ]
    with np.load(written["npz"]) as arrays:
        for row in found["metrics"]:
            ours, wanted = (
                arrays[f"{side}.{row['input']}.0"].astype(np.float64)
                for side in ("bundle", "reference")
            )
            error = np.abs(ours - wanted)
            assert row["max_abs"] == error.max() > 0
            assert error[tuple(row["max_abs_at"])] == error.max()
            assert row["max_of_range"] == error.max() / np.ptp(wanted)
            assert row["quantiles"]["50"] == np.median(error)
            assert row["compared"] == row["values"] == 10
    # What the standing rules say is there, too, and the same.
    assert found["max_error_of_range"] == max(row["max_error_of_range"] for row in found["inputs"])
    assert [check["passed"] for check in found["checks"]] == [True] * 10


def test_the_saved_outputs_say_where_they_come_from(
    bundle: Path, written: dict[str, Path]
) -> None:
    with np.load(written["npz"]) as arrays:
        header = json.loads(arrays["header"].tobytes())
    assert header["target"] == "host_cpu:native"
    assert header["ran_on"] == "this machine"
    assert header["bundle"] == "bundle"
    assert header["versions"]["onnxruntime"]


def test_junit_has_every_output_and_limit(written: dict[str, Path]) -> None:
    root = ElementTree.parse(written["xml"]).getroot()
    names = {case.attrib["name"] for case in root.iter("testcase")}
    assert {"runs on this machine", "logits, input 4", "--min-top1 of logits, input 0"} <= names
    counts = {suite.attrib["name"]: int(suite.attrib["tests"]) for suite in root}
    kernels = counts.pop("kernels")
    assert counts == {"parity": 6, "constants": 1, "limits": 10}
    assert kernels > 0
    assert int(root.attrib["tests"]) == kernels + sum(counts.values())
    assert float(root.attrib["time"]) > 0


def test_a_missed_limit_is_3_and_junit_says_so(bundle: Path, tmp_path: Path) -> None:
    done = verify(bundle, "--max-abs", 0, "--junit", tmp_path / "j.xml", "--metrics")
    assert done.returncode == 3
    assert "parity: passed on this machine" in done.stdout  # the standing rules
    assert "limits: 0 of 5 kept" in done.stdout
    assert "MISSED --max-abs of logits, input 0" in done.stdout
    assert "max absolute error" in done.stdout
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (root.attrib["failures"], root.attrib["errors"]) == ("5", "0")
    failed = document(verify(bundle, "--max-abs", 0, "--json"), code=3)
    assert (failed["passed"], failed["exit_code"]) == (False, 3)


def test_saved_outputs_are_judged_again_with_no_bundle(
    written: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "elsewhere.npz"
    shutil.copy(written["npz"], file)
    monkeypatch.chdir(tmp_path)
    plain = verify("--check", file, "--json")
    assert plain.returncode == 0, plain.stderr
    again, first = document(plain), json.loads(written["verify"].read_text())
    assert again["metrics"] == first["metrics"]
    assert again["inputs"] == first["inputs"]
    assert again["saved"]["bundle"] == "bundle"
    largest = max(row["max_abs"] for row in first["metrics"])
    assert verify("--check", file, "--max-abs", largest).returncode == 0
    missed = verify("--check", file, "--max-abs", largest / 2, "--junit", tmp_path / "j.xml")
    assert missed.returncode == 3
    assert "by the limits given: MISSED on this machine" in missed.stdout
    assert ElementTree.parse(tmp_path / "j.xml").getroot().attrib["failures"] != "0"


def test_saved_outputs_that_are_wrong_miss(written: dict[str, Path], tmp_path: Path) -> None:
    with np.load(written["npz"]) as archive:
        arrays = dict(archive)
    arrays["bundle.3.0"][0, 2] += 1e-3 * np.ptp(arrays["reference.3.0"])
    np.savez(tmp_path / "o.npz", **arrays)
    done = verify("--check", tmp_path / "o.npz", "--json")
    rows = document(done, code=3)["inputs"]
    assert [row["passed"] for row in rows] == [True] * 3 + [False, True]
    # Limits stand in for the rules.
    assert verify("--check", tmp_path / "o.npz", "--max-of-range", 1e-2).returncode == 0


def forged(
    written: dict[str, Path], path: Path, change: Callable[[dict[str, Any]], object]
) -> Path:
    report = json.loads(written["json"].read_text())
    change(report)
    path.write_text(json.dumps(report))
    return path


def test_a_baseline_of_itself_is_kept(bundle: Path, written: dict[str, Path]) -> None:
    done = verify(bundle, "--baseline", written["json"], "--json")
    assert done.returncode == 0
    names = [check["name"] for check in document(done)["checks"]]
    assert "arena_bytes" in names
    assert "error of logits, input 4" in names


def test_larger_than_the_baseline_is_5(
    bundle: Path, written: dict[str, Path], tmp_path: Path
) -> None:
    def shrink(report: dict[str, Any]) -> None:
        report["sizes"]["arena_bytes"] = int(report["sizes"]["arena_bytes"] / 1.05)

    file = forged(written, tmp_path / "b.json", shrink)
    done = verify(bundle, "--baseline", file, "--junit", tmp_path / "j.xml")
    assert done.returncode == 5
    assert "MISSED arena_bytes" in done.stdout
    suites = ElementTree.parse(tmp_path / "j.xml").getroot()
    failures = {suite.attrib["name"]: suite.attrib["failures"] for suite in suites}
    assert failures == {"parity": "0", "kernels": "0", "constants": "0", "baseline": "1"}
    assert verify(bundle, "--baseline", file, "--max-growth", "6%").returncode == 0


def test_less_exact_than_the_baseline_is_3(
    bundle: Path, written: dict[str, Path], tmp_path: Path
) -> None:
    def improve(report: dict[str, Any]) -> None:
        for one in report["errors"]:
            one["error"] = 0.0

    file = forged(written, tmp_path / "b.json", improve)
    done = verify(bundle, "--baseline", file, "--max-error-growth", "0.1%")
    assert done.returncode == 3
    assert "MISSED error of logits" in done.stdout


def test_time_is_compared_as_a_ratio_to_onnxruntime(
    bundle: Path, written: dict[str, Path], tmp_path: Path
) -> None:
    report = tmp_path / "r.json"
    assert verify(bundle, "--report", report, "--latency").returncode == 0
    speed = json.loads(report.read_text())["speed"]
    assert speed["kind"] == "ratio to onnxruntime"
    assert speed["value"] > 0
    speed["value"] /= 100
    fast = forged({"json": report}, tmp_path / "f.json", lambda found: found.update(speed=speed))
    done = verify(bundle, "--baseline", fast)
    assert done.returncode == 4
    assert "MISSED ratio to onnxruntime" in done.stdout
    assert verify(bundle, "--baseline", fast, "--max-slowdown", "99999%").returncode == 0


def test_emulated_instructions_are_compared_exactly(arm_bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    assert verify(arm_bundle, "--report", report, "--latency").returncode == 0
    found = json.loads(report.read_text())
    assert found["speed"]["kind"] == "executed instructions"
    found["speed"]["value"] -= 1
    report.write_text(json.dumps(found))
    done = verify(arm_bundle, "--baseline", report, "--max-slowdown", "0%", "--json")
    missed = [check for check in document(done, code=4)["checks"] if not check["passed"]]
    assert [check["name"] for check in missed] == ["executed instructions"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], EXIT_USAGE, "name a bundle, or a file of --save-outputs"),
        (["{bundle}", "--check", "{npz}"], EXIT_USAGE, "name a bundle, or a file"),
        (["--check", "{npz}", "--report", "x"], EXIT_USAGE, "--report takes a bundle"),
        (["--check", "{npz}", "--device", "a:1"], EXIT_USAGE, "take a bundle"),
        (["--check", "{npz}", "--ladder"], EXIT_USAGE, "take a bundle"),
        (["{bundle}", "--ladder", "--max-abs", "1"], EXIT_USAGE, "--ladder prints its own table"),
        (["{bundle}", "--ladder", "--metrics"], EXIT_USAGE, "--ladder prints its own table"),
        (["--check", "{json}"], EXIT_FAILED, "is damaged, or no file of"),
        (["--check", "{npz}", "--quantile", "9"], EXIT_USAGE, "is no PERCENT:ERROR"),
        (["{bundle}", "--max-growth", "1%"], EXIT_USAGE, "--max-growth belongs to --baseline"),
        (["{bundle}", "--latency"], EXIT_USAGE, "--latency belongs to --report or --baseline"),
        (["{bundle}", "--baseline", "{npz}"], EXIT_FAILED, "is damaged"),
        (["{bundle}", "--baseline", "none"], EXIT_USAGE, "no such file"),
        (["{bundle}", "--baseline", "{json}", "--latency"], EXIT_USAGE, "nothing about speed"),
        (["{bundle}", "--baseline", "{json}", "--report", "{json}"], EXIT_USAGE, "the same file"),
        (["{bundle}", "--plot", "x.jpg"], EXIT_USAGE, "ends in .png or .svg"),
        (["{bundle}", "--html", "no/x.html"], EXIT_USAGE, "the folder no does not exist"),
        (["{bundle}", "--save-outputs", "x.npy"], EXIT_USAGE, "does not end in .npz"),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    code: int,
    message: str,
    bundle: Path,
    written: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = verify(*(one.format(bundle=bundle, **written) for one in arguments))
    assert done.returncode == code
    assert message in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("share", ["5", "-1%", "x%", "%", "inf%", "nan%"])
def test_a_share_needs_its_sign(bundle: Path, share: str) -> None:
    done = verify(bundle, "--max-slowdown", share)
    assert done.returncode == 2
    assert "is no percentage of 0% or more, such as 5%" in done.stderr


def test_pictures_and_page_show_the_blocks(bundle: Path, tmp_path: Path) -> None:
    done = verify(bundle, "--plot", tmp_path / "p.svg", "--html", tmp_path / "p.html", "--json")
    assert done.returncode == 0, done.stderr
    blocks = document(done)["blocks"]
    assert [one["block"] for one in blocks[:2]] == ["features.0", "features.1"]
    assert all(0 <= error < 1e-5 for one in blocks for error in one["errors"])
    assert {len(one["errors"]) for one in blocks} == {5}
    page = (tmp_path / "p.html").read_text()
    checks = re.search(r"✓ passed: all of (\d+) checks", page)
    assert checks is not None
    assert int(checks[1]) > 6  # five outputs, the constants, and every kernel
    assert "Every block of the library got the tensors" in page
    assert "<svg" in page and "<svg" in (tmp_path / "p.svg").read_text()
    assert all((tmp_path / name).stat().st_size > 50_000 for name in ("p.svg", "p.html"))


def test_pictures_of_saved_outputs(written: dict[str, Path], tmp_path: Path) -> None:
    done = verify("--check", written["npz"], "--html", tmp_path / "p.html")
    assert done.returncode == 0, done.stderr
    assert "Saved outputs say nothing about the blocks" in (tmp_path / "p.html").read_text()


def test_an_error_is_in_junit(bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    (damaged / "model.so").write_bytes(b"no library")
    done = verify(damaged, "--junit", tmp_path / "j.xml")
    assert done.returncode == EXIT_FAILED
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (root.attrib["errors"], root.attrib["failures"]) == ("1", "0")
    (error,) = root.iter("error")
    assert "was changed after compile" in error.attrib["message"]
