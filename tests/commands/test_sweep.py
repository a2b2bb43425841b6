"""`mbv3c sweep`: what its options refuse, and once with real jobs."""

from pathlib import Path

import pytest

from mbv3c.errors import UsageError
from mbv3c.search.sweep_report import check_save
from tests.command_line import document, mbv3c, mbv3c_process

DIGITS = Path(__file__).parents[1] / "data" / "digits.npz"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "npu", "--width", "wide"], "--width 'wide' is not a number"),
        (["--variant", "small"], "--target: name at least one of the targets"),
        (["--target", "npu", "--jobs", "0"], "--jobs 0: give a whole number"),
        (["--target", "npu", "--cluster", "http://x"], "'http://x' is no address"),
        (["--target", "npu", "--train-steps", "5"], "--train-steps: training needs images"),
        (["--target", "npu", "--plot", "front.pdf"], "ends in .png or .svg"),
        (["--target", "npu", "--plot", "a.png", "--save", "a.png"], "named by two of the options"),
        (["--target", "npu", "--save", "."], "is the current folder"),
        (["grid.yaml", "--target", "npu"], "--target and a GRID exclude each other"),
        (["none.yaml"], "no such file: none.yaml"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").touch()
    done = mbv3c("sweep", *arguments, "--store", "store", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


def test_force_deletes_nothing_but_what_a_sweep_has_saved(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    (saved / "bundle").mkdir(parents=True)
    for name in ("net.onnx", "bundle/manifest.json"):
        (saved / name).touch()
    check_save(saved, force=True)
    with pytest.raises(UsageError, match="exists; write over it with --force"):
        check_save(saved, force=False)
    (saved / "thesis.tex").touch()
    for place in (saved, saved / "thesis.tex"):
        with pytest.raises(UsageError, match="no sweep has saved; --force does not delete it"):
            check_save(place, force=True)


def test_networks_are_trained_and_compiled_once(tmp_path: Path) -> None:
    store = ["--store", tmp_path / "store"]
    network = ["--variant", "small", "--width", "0.35", "--resolution", "32"]
    images = ["--images", DIGITS, "--train-steps", "15", "--test", "0.1", "--compile"]
    asked = [*network, *images, *store, "--target", "host_cpu", "--precision", "int8", "--json"]
    first = document(mbv3c_process("sweep", *asked, "--save", tmp_path / "saved"))
    (one,) = first["combinations"]
    assert one["accuracy"]["share"] > 0.3
    assert (one["accuracy_of"], one["part"]) == ("quantized", "test")
    assert one["bundle"]["passed"]
    saved = {path.name.partition("-")[0] for path in (tmp_path / "saved").iterdir()}
    assert saved == {"mobilenet_v3_small_0.35@32", "mobilenet_v3_small_0.35@32.onnx"}
    done = mbv3c_process("sweep", *asked)
    assert document(done) == first
    assert "done" not in done.stderr  # all is known
