"""What `mbv3c search` refuses before any work; a whole search is in tests/search."""

from pathlib import Path

import pytest

from tests.command_line import mbv3c

ASKED = ("search", "--target", "host_cpu", "--budget", "0.5x", "--resolution", 32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rounds", "20,many"), "--rounds '20,many' are no numbers of steps"),
        (("--rounds", "20,10"), "the steps of the rounds must be above 0 and grow"),
        (("--sampler", "grid"), "unknown sampler 'grid'; known: tpe, nsga2, random"),
        (("--budget", "2x"), "every model takes 1x of itself"),
        (("--reward", "0.07"), "the exponent of the reward must lie between -10 and 0"),
        (("--least", "1.5"), "the least share must be from 0 to below 1"),
        (("--resolution", "33"), "resolution 33 is not supported"),
        (("--variant", "medium"), "unknown variant 'medium'"),
        (("--final-steps", "10"), "for at least the 600 steps of the last round"),
        (("--augment", "blur"), "unknown augmentation 'blur'"),
        (("--precision", "int4"), "unknown precision 'int4'"),
        (("--device", "cuda"), "to train on another device give --train-on cuda"),
        (("--tracker", "127.0.0.1:9"), "--tracker needs --key"),
        (("--device", "127.0.0.1:9", "--budget", "2Mcycles"), "this target's costs are in us"),
        ((), "no such folder, and no .npz file"),
    ],
)
def test_what_makes_no_sense_is_refused_first(
    options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    images = ("--images", tmp_path / "images", "--store", tmp_path / "store")
    done = mbv3c(*ASKED, *images, *options, "-o", tmp_path / "found", cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "found").exists()
