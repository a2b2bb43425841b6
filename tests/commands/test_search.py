"""What `mbv3c search` refuses before any work; a whole search is in tests/search."""

from pathlib import Path

import pytest

from tests.command_line import mbv3c

ASKED = ("search", "--target", "host_cpu", "--budget", "0.5x", "--resolution", 32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rounds", "20,many"), "--rounds '20,many' are no numbers of steps"),
        (("--rounds", "20,10"), "the steps of --rounds must be above 0 and grow"),
        (("--sampler", "grid"), "unknown --sampler 'grid'; known: tpe, nsga2, random"),
        (("--budget", "2x"), "every model takes 1x of itself"),
        (("--reward", "0.07"), "--reward, an exponent, must lie between -10 and 0"),
        (("--least", "1.5"), "--least must be from 0 to below 1"),
        (("--resolution", "33"), "--resolution 33 is not supported"),
        (("--variant", "medium"), "unknown --variant 'medium'"),
        (
            ("--final-steps", "10"),
            "--final-steps must be at least 600, the steps of the last of --rounds",
        ),
        (("--augment", "blur"), "unknown --augment 'blur'"),
        (("--batches", "0"), "--batches must be at least 1, got 0"),
        (("--bands", "0"), "--bands must be at least 1, got 0"),
        (("--judged", "0"), "--judged must be at least 1 image"),
        (("--precision", "int4"), "unknown precision 'int4'"),
        (("--device", "cuda"), "to train on another device give --train-on cuda"),
        (("--tracker", "127.0.0.1:9"), "--tracker needs --key"),
        (("--device", "127.0.0.1:9", "--budget", "2Mcycles"), "this target's costs are times"),
        (("--labels", "none.csv"), "no such file: none.csv"),
    ],
)
def test_what_makes_no_sense_is_refused_first(
    options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    images = ("--images", tmp_path / "images", "--store", tmp_path / "store")
    done = mbv3c(*ASKED, *images, *options, "-o", tmp_path / "found", cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "found").exists()


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "front.svg").write_text("mine")
    (tmp_path / "images").mkdir()
    given = ("--images", tmp_path / "images", "--store", tmp_path / "store", "-o", tmp_path)
    done = mbv3c(*ASKED, *given)
    assert done.returncode == 2
    assert (
        f"{tmp_path} holds front.svg and 2 more, and no journal.jsonl of a search" in done.stderr
    )
    assert (tmp_path / "front.svg").read_text() == "mine"
