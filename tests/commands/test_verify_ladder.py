"""`mbv3c verify --ladder` as a user runs it: clean, and with faults planted in the compiler."""

import json
import resource
from pathlib import Path

import onnx
import pytest

from mbv3c import pipeline
from mbv3c.errors import UsageError
from mbv3c.job import Job
from mbv3c.job_spec import JobSpec
from mbv3c.lowering.plan import NO_CHOICES
from tests.command_line import command_line, finished, mbv3c, python

PLANTED = Path(__file__).parents[1] / "parity" / "planted_faults.py"

# Runs a script with the packages of this environment but for mbv3c, which it must not need.
ALONE = """
import runpy, sys
sys.modules["mbv3c"] = None
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def seconds(*command: object) -> float:
    """Return the processor time of a command; waiting for others does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert finished(command_line(*command)).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture
def model(blocks_file: Path) -> Path:
    return blocks_file


@pytest.fixture
def bundle(host_bundle: Path) -> Path:
    return host_bundle


def test_a_clean_bundle_is_green(bundle: Path, tmp_path: Path) -> None:
    done = mbv3c("verify", "--ladder", bundle, "--culprit", tmp_path / "c", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"]
    assert found["culprit"] is found["reproduction"] is None
    assert not (tmp_path / "c").exists()
    stages = [one["stage"] for one in found["stages"]]
    assert stages[0] == "model as given"
    assert {"fold_pad", "fold_batchnorm", "fuse_hardswish", "fold_se"} <= {*stages}
    assert stages[-2:] == ["import to Relax", "scheduled, on the target"]
    assert [one["verdict"] for one in found["stages"]] == ["reference"] + ["ok"] * (
        len(stages) - 1
    )
    assert all(one["max_error_of_range"] <= one["allowed"] for one in found["stages"][1:])
    assert "tuned" in {one["stage"] for one in found["skipped"]}


def test_a_model_is_compiled_with_the_choices_of_compile(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = list[Job]()

    def climb(given: object, job: Job, progress: object) -> None:
        jobs.append(job)
        raise UsageError("that is all")

    monkeypatch.setattr(pipeline, "climb_model", climb)
    done = mbv3c("verify", "--ladder", model, "--target", "arm_cpu")
    assert "that is all" in done.stderr
    assert jobs[0].choices == JobSpec("arm_cpu").job().choices != NO_CHOICES


def test_a_clean_ladder_takes_three_times_a_plain_verify_at_most(bundle: Path) -> None:
    plain = seconds("verify", bundle)
    assert seconds("verify", "--ladder", bundle) <= 3 * plain


@pytest.mark.parametrize(
    ("fault", "stage", "layers"),
    [
        ("wrong_epsilon", "fold_batchnorm", {"stem.conv", "stem.bn"}),
        ("hard_swish_of_29", "fuse_hardswish", {"stem.act.add", "stem.act.div"}),
        ("gate_over_height", "fold_se", {"bneck1.se.pool", "bneck1.se.scale"}),
        ("wrong_side", "fold_pad", {"bneck1.pad", "bneck1.depthwise.conv"}),
        ("last_column", "scheduled, on the target", {"bneck1.depthwise.conv"}),
        ("swapped_panels", "scheduled, on the target", {"bneck2.project.conv"}),
        ("halved_scale", "scheduled, on the target", {"bneck2.project.conv"}),
    ],
)
def test_a_planted_fault_is_named_and_reproduced(
    model: Path, tmp_path: Path, fault: str, stage: str, layers: set[str]
) -> None:
    folder = tmp_path / "culprit"
    options = ["--target", "host_cpu", "--culprit", folder, "--json"]
    if fault == "halved_scale":
        options += ["--precision", "int8"]
    done = python(PLANTED, fault, "verify", "--ladder", model, *options)
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    culprit = found["culprit"]
    assert culprit["stage"] == stage
    assert layers <= {*culprit["layers"]}
    # Nothing of another block, and little more than the layer itself.
    assert {name.split(".")[0] for name in culprit["layers"]} == {min(layers).split(".")[0]}
    assert len(culprit["layers"]) <= 8
    assert [one["verdict"] for one in found["stages"]].count("BREAKS") == 1
    assert bool(culprit["kernels"]) == (stage == "scheduled, on the target")
    assert found["reproduction"] == str(folder)
    onnx.checker.check_model(onnx.load(folder / "before.onnx"), full_check=True)
    assert "mbv3c" not in (folder / "reproduce.py").read_text()
    shown = python("-I", "-c", ALONE, folder / "reproduce.py")
    assert shown.returncode == 1, shown.stderr
    assert shown.stdout.startswith("max error ")
    if fault != "last_column":  # what nobody wrote is never twice the same
        assert shown.stdout.split()[2] == f"{culprit['max_error_of_range']:.3e}"


def test_a_person_reads_which_stage_and_layer(model: Path, tmp_path: Path) -> None:
    options = ["--target", "host_cpu", "--culprit", tmp_path / "c"]
    done = python(PLANTED, "wrong_side", "verify", "--ladder", model, *options)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["stage", "from", "given"]
    assert "culprit: fold_pad, at bneck1.pad, bneck1.depthwise.conv" in lines
    assert lines[-1].startswith(f"  {tmp_path / 'c'}/reproduce.py shows it")


def test_what_lies_where_the_culprit_goes_is_kept(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    command = ["verify", "--ladder", bundle, "--culprit", tmp_path / "mine"]
    assert mbv3c(*command).returncode == 2
    done = mbv3c(*command, "--force")
    assert done.returncode == 2
    assert "no culprit of an earlier run" in done.stderr
    assert (tmp_path / "mine" / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "options", [["--target", "host_cpu"], ["--culprit", "c"], ["--force"], ["--precision", "int8"]]
)
def test_options_of_the_ladder_alone_are_refused(bundle: Path, options: list[str]) -> None:
    done = mbv3c("verify", bundle, *options)
    assert done.returncode == 2
    assert "belong to --ladder" in done.stderr


def test_a_model_needs_a_target_and_a_bundle_has_one(model: Path, bundle: Path) -> None:
    done = mbv3c("verify", "--ladder", model)
    assert done.returncode == 2
    assert "--target" in done.stderr
    done = mbv3c("verify", "--ladder", bundle, "--target", "host_cpu")
    assert done.returncode == 2
    assert "manifest" in done.stderr
