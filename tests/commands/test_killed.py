"""Commands that are killed at random moments leave nothing half done. `--kills 200` tries more."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import mbv3c
from mbv3c.execution.cache import cache_root
from mbv3c.process_tree import children_of
from mbv3c.tuning.database import Database
from tests.command_line import command_line

SECONDS = 5.0  # in which everything has to be gone
MARK = "MBV3C_TEST_KILLED"  # in the environment of every process of a command
OLD = b"old"
COMMANDS = {
    "build": "build --variant small --width 0.35 --resolution 96 -o built.onnx --force",
    "optimize": "optimize model.onnx -o optimized.onnx --force",
    "inspect": "inspect model.onnx",
    "quantize": "quantize model.onnx --random-inputs 2 -o quantized.onnx --force",
    "compile": "compile model.onnx --target host_cpu -o bundle --force",
    "compile int8": "compile model.onnx --target host_cpu --precision int8 -o int8 --force",
    "compile arm": "compile model.onnx --target arm_cpu -o arm --force",
    "compile c": "compile model.onnx --target host_cpu --artifact c -o c_library --force",
    "verify": "verify given --report report.json --html page.html",
    "ladder": "verify given --ladder",
    "run": "run given --input x.npy -o y.npy --force",
    "bench": "bench given --runs 60",
    "tune": "tune model.onnx --target host_cpu --trials 8 --database logs",
}
FILES = ("built.onnx", "optimized.onnx", "quantized.onnx", "y.npy", "report.json", "page.html")
BUNDLES = ("given", "bundle", "int8", "arm", "c_library")
_CUT_SHORT = 4.0  # seconds that CI waits at most


@dataclass
class Victims:
    """Commands in a folder, that are killed.

    Attributes:
        folder: where they run.
        temporary: their TMPDIR.
        dice: what draws moments.
        seconds: how long each takes, as far as that is known.
    """

    folder: Path
    temporary: Path
    dice: random.Random
    seconds: dict[str, float] = field(default_factory=dict)

    def kill(self, name: str, longest: float) -> str | None:
        """Start a command, kill one of its processes, and check what is left.

        Returns:
            Which process was killed; None if all had ended before.
        """
        mark = f"{name} {self.dice.random()}"
        known = self.seconds.get(name, 10.0)
        moment, begun = self.dice.uniform(0, min(known, longest)), time.monotonic()
        process = subprocess.Popen(
            command_line(*COMMANDS[name].split()),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: mark, "TMPDIR": str(self.temporary)},
            process_group=0,
        )
        try:
            _, errors = process.communicate(timeout=moment)
            assert process.returncode == 0, (name, errors)
            self.seconds[name] = time.monotonic() - begun
            who = None
        except subprocess.TimeoutExpired:
            who = self._kill_one(process.pid)
            process.communicate(timeout=SECONDS)
        said = f"{name}, {who or 'nobody'} killed after {moment:.2f} s"
        end = time.monotonic() + SECONDS
        while left := marked(mark):
            assert time.monotonic() < end, (said, left)
            time.sleep(0.02)
        self.check(said)
        return who

    def _kill_one(self, front: int) -> str:
        """Kill the front, the guard, the command, the front's group, or what the command runs."""
        who = self.dice.choice(("front", "guard", "command", "group", "worker"))
        if who == "group":
            os.killpg(front, signal.SIGKILL)
            return who
        process = front
        for name in ("guard", "command", "worker"):
            below = children_of(process)
            if who == "front" or not below:
                break
            process = below[0]
            if who == name:
                break
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return "nothing left"
        if who == "worker":  # the command says so, or does without it: the end comes by itself
            time.sleep(self.dice.random())
            os.killpg(front, signal.SIGKILL)
        return who

    def check(self, said: str) -> None:
        """Make sure that all files are old or new, and that there are no others."""
        assert not list(self.temporary.iterdir()), said
        hidden = [path.name for path in self.folder.iterdir() if path.name.startswith(".")]
        assert not hidden, said
        for name in FILES:
            data = (self.folder / name).read_bytes()
            assert data == OLD or data.endswith(WHOLE.get(name, data[-1:])), (said, name)
        for name in ("built.onnx", "optimized.onnx", "quantized.onnx"):
            if (self.folder / name).read_bytes() != OLD:
                _loaded(self.folder / name)
        if (self.folder / "y.npy").read_bytes() != OLD:
            assert np.load(self.folder / "y.npy").shape == (1, 10), said
        for name in BUNDLES:
            mbv3c.open_bundle(self.folder / name)  # which compares every hash
        for records in (self.folder / "logs").rglob("records.jsonl"):
            Database(records.parent).records()  # which compares every checksum
        assert not list(cache_root().rglob("*.partial")), said


# How files end that text formats would not miss to have.
WHOLE = {"report.json": b"}\n", "page.html": b"</html>\n"}


def _loaded(path: Path) -> None:
    import onnx

    onnx.checker.check_model(onnx.load(path))


def marked(mark: str) -> list[str]:
    """Return the command lines of the processes whose environment has a mark."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_killed_at_random_moments(
    host_bundle: Path,
    blocks_file: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count, seed = request.config.getoption("--kills"), time.time_ns()
    folder, temporary = tmp_path / "work", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    (folder / "model.onnx").write_bytes(blocks_file.read_bytes())
    np.save(folder / "x.npy", np.zeros((1, 3, 32, 32), np.float32))
    for name in FILES:
        (folder / name).write_bytes(OLD)
    for name in BUNDLES:
        subprocess.run(["cp", "-r", host_bundle, folder / name], check=True)
    victims, killed = Victims(folder, temporary, random.Random(seed)), Counter[str]()
    names = list(COMMANDS)
    victims.dice.shuffle(names)
    longest = 1e9 if count > len(names) else _CUT_SHORT
    tried = 0
    with capsys.disabled():
        while killed.total() < count:
            assert tried < 4 * count, (seed, victims.seconds)
            who = victims.kill(names[tried % len(names)], longest)
            tried += 1
            killed[who or "nobody, it had ended"] += who is not None
            sys.stderr.write(f"\r{killed.total()} kills of {tried} commands: {dict(killed)}")
