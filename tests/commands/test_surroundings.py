"""A disk that is full, caches and homes that are not there, and two commands at once."""

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

import mbv3c
from mbv3c.tuning.database import Database
from tests.command_line import command_line, finished

COMMANDS = {
    "build": "build --variant small --width 0.35 --resolution 96 -o out.onnx --force",
    "optimize": "optimize model.onnx -o out.onnx --force",
    "quantize": "quantize model.onnx --random-inputs 2 --no-layers -o out.onnx --force",
    "compile": "compile model.onnx --target host_cpu -o bundle --force",
    "C library": "compile model.onnx --target host_cpu --artifact c -o bundle --force",
    "tune": "tune model.onnx --target host_cpu --trials 4 --database logs",
    "verify": "verify bundle --html out.onnx",
}


@pytest.fixture
def folder(host_bundle: Path, blocks_file: Path, tmp_path: Path) -> Path:
    """Return a folder with a model, a bundle, and a file that is old."""
    made = tmp_path / "work"
    made.mkdir()
    (tmp_path / "temporary").mkdir()
    (made / "model.onnx").write_bytes(blocks_file.read_bytes())
    (made / "out.onnx").write_bytes(b"old")
    subprocess.run(["cp", "-r", host_bundle, made / "bundle"], check=True)
    return made


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder.parent / "temporary"), **more}


def nothing_left(folder: Path) -> bool:
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    return not hidden and not list((folder.parent / "temporary").iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_told_and_what_was_there_stays(name: str, folder: Path) -> None:
    """No file may become longer than 8 KiB, as a disk that is full would have it."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = ["bash", "-c", 'ulimit -f 8; exec "$@"', "_", *command_line(*COMMANDS[name].split())]
    done = finished(command, cwd=folder, env=environment(folder))
    assert done.returncode == 1, done.stderr
    assert "\nerror: " in f"\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert nothing_left(folder)


@pytest.mark.parametrize("cache", ["/dev/null/cache", "/proc/cache"])
def test_a_cache_that_nobody_may_write_to(cache: str, folder: Path) -> None:
    """What this machine runs needs none; what is emulated says so."""
    surroundings = environment(folder, MBV3C_CACHE=cache, HOME="/dev/null/home")
    surroundings.pop("XDG_CACHE_HOME", None)
    command = command_line(*COMMANDS["compile"].split())
    done = finished(command, cwd=folder, env=surroundings)
    assert done.returncode == 0, done.stderr
    mbv3c.open_bundle(folder / "bundle")
    command = command_line("doctor", "--fetch=emulator")
    done = finished(command, cwd=folder, env=surroundings)
    assert done.returncode == 1
    assert "cannot write to the cache folder" in done.stderr
    assert "set MBV3C_CACHE" in done.stderr
    assert nothing_left(folder)


@pytest.mark.parametrize("name", ["optimize", "compile", "tune"])
def test_two_at_once(name: str, folder: Path) -> None:
    """Without --force one wins and the other says so; with it both end, and one is there."""
    arguments = COMMANDS[name].replace("out.onnx", "new.onnx").replace("-o bundle", "-o new")
    for forced in (False, True):
        given = arguments if forced else arguments.replace(" --force", "")
        two = [
            subprocess.Popen(
                command_line(*given.split()),
                cwd=folder,
                env=environment(folder),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        said = [process.communicate()[1] for process in two]
        codes = sorted(process.returncode for process in two)
        if name == "tune":
            assert codes in ([0, 0], [0, 1]), said  # one after the other, or one waits in vain
            assert codes == [0, 0] or any("another process is tuning into" in one for one in said)
        elif forced:
            assert codes == [0, 0], said
        else:
            assert codes == [0, 2], said
            assert any("another run has written" in one or "exists" in one for one in said)
        assert nothing_left(folder)
    if name == "optimize":
        onnx.checker.check_model(onnx.load(folder / "new.onnx"))
    elif name == "compile":
        assert mbv3c.run(folder / "new", np.zeros((1, 3, 32, 32), np.float32)).arrays
    else:
        database = Database(next((folder / "logs").rglob("records.jsonl")).parent)
        assert not database.torn()
        assert database.records()
