"""A server that is killed at random moments leaves nothing. `--kills 20` tries more."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mbv3c.scratch import scratch_folder
from tests.command_line import command_line
from tests.commands.test_killed import MARK, SECONDS, marked
from tests.execution.device.serving import served, wait_for

_LONGEST = 2.0  # seconds from a session's begin to the kill
_IN_SESSION = 0.8  # of the kills; the others come at any time
_WHO = ("server", "session", "group")


def _is_empty_for_the_next_command(folder: Path) -> bool:
    with scratch_folder("next"):
        pass
    return [path.name for path in folder.iterdir()] == ["serve.log"]


def test_nothing_outlives_a_killed_server(
    host_bundle: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Kill the server, its session, or its group, while a client runs a bundle on it."""
    dice, killed = random.Random(time.time_ns()), Counter[str]()
    x = tmp_path / "x.npy"
    files = ("--input", x, "-o", tmp_path / "y.npy", "--force")
    np.save(x, np.zeros((1, 3, 32, 32), np.float32))
    for number in range(request.config.getoption("--kills")):
        folder = tmp_path / f"served {number}"
        folder.mkdir()
        mark, who = f"server {number} {dice.random()}", dice.choice(_WHO)
        with served(folder, environment={MARK: mark}) as one:
            client = subprocess.Popen(
                command_line("run", host_bundle, "--device", one.address, *files),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if dice.random() < _IN_SESSION:
                wait_for(one.sessions, 60)
            time.sleep(dice.uniform(0, _LONGEST))
            sessions = one.sessions()
            if who == "session" and sessions:
                os.kill(sessions[0], signal.SIGKILL)
                time.sleep(dice.random())
            if who == "group":
                os.killpg(one.process.pid, signal.SIGKILL)
            one.process.kill()
            killed[f"{who}, {len(sessions)} sessions"] += 1
            end = time.monotonic() + SECONDS
            while left := marked(mark):
                assert time.monotonic() < end, (who, left)
                time.sleep(0.02)
            client.kill()
            client.communicate(timeout=30)
        with monkeypatch.context() as patched:
            patched.setattr("tempfile.tempdir", str(folder))
            # A process that ends has no memory any more when its locks are given back.
            wait_for(partial(_is_empty_for_the_next_command, folder), SECONDS)
    with capsys.disabled():
        sys.stderr.write(f"\r{dict(killed)}")
