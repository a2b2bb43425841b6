"""`mbv3c adapt`: what its options refuse; what it does is in tests/search."""

from pathlib import Path

import pytest

from tests.command_line import mbv3c


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "fast"], "--budget 'fast' is none; write one like 0.7x"),
        (["--budget", "0.5x", "--target", "toaster"], "toaster"),
        (["--budget", "0.5x", "--saving", "0.9"], "--saving must be above 0 and at most 0.5"),
        (["--budget", "0.5x", "--tune-rate", "inf"], "'--tune-rate': inf is no number above 0"),
        (["--budget", "0.5x", "--batch", "1"], "--batch must be at least 2, got 1"),
        (["--budget", "0.5x", "--tune-steps", "0"], "Invalid value for '--tune-steps'"),
        (["--budget", "0.5x", "--plot", "a.png", "-o", "a.png"], "a.png is named by two of"),
        (["--budget", "0.5x", "--journal", "a.onnx", "-o", "a.onnx"], "--output and --journal"),
        (["--budget", "0.5x", "--finish", "slowly"], "unknown 'slowly'"),
        (["--budget", "0.5x", "--plot", "steps.pdf"], "ends in .png or .svg"),
        (["--budget", "0.5x", "-o", "."], ". is a folder; name a file"),
        (["--budget", "0.5x", "--labels", "none.csv"], "no such file: none.csv"),
        (
            ["--budget", "5Minstructions", "--target", "arm_cpu", "--device", "127.0.0.1:9"],
            "this target's costs are times, and not instructions",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "model.onnx").touch()
    given = ["model.onnx", "--images", "images", "--target", "host_cpu", "-o", "out.onnx"]
    done = mbv3c("adapt", *given, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
