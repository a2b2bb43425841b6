"""Nothing is looked up, connected to or told to anybody, but what the user named.

A small library is preloaded into the commands and into every process that they start; it notes
each name that is looked up, and each address that is connected to, also by native code.
"""

import os
import sys
from pathlib import Path

import pytest

from tests.command_line import Done, finished

WATCH = Path(__file__).with_name("network_watch.c")
COMMANDS = """
import sys
from unittest import mock
from mbv3c import cli

def run(*arguments):
    with mock.patch.object(sys, "argv", ["mbv3c", *arguments]):
        try:
            cli.main()
        except SystemExit as done:
            # Nothing was fetched into this HOME, so `doctor` ends with 1.
            assert not done.code or arguments == ("doctor",), arguments

model, host = sys.argv[1], "--target=host_cpu"
run("inspect", model)
run("optimize", model, "-o", "optimized.onnx")
run("quantize", model, "--random-inputs", "2", "-o", "int8.onnx")
run("compile", model, host, "-o", "bundle")
run("verify", "bundle")
run("run", "bundle", "--input", "bundle/golden/input.npy", "-o", "y.npy")
run("bench", "bundle", "--runs", "10")
run("tune", model, host, "--trials", "2", "--database", "tuned")
run("targets")
run("doctor")
"""


@pytest.fixture(scope="session")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library to preload."""
    library = tmp_path_factory.mktemp("watch") / "network_watch.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", WATCH]
    done = finished([*command, "-o", library, "-ldl"])
    assert done.returncode == 0, done.stderr
    return library


def watched(watch: Path, folder: Path, *arguments: object, **more: str) -> tuple[Done, list[str]]:
    """Run Python in a folder; return how it ended, and what it sought in the network."""
    log = folder / "network.log"
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    own = {"LD_PRELOAD": str(watch), "NETWORK_LOG": str(log), "HOME": str(folder)}
    own["XDG_CACHE_HOME"] = str(folder / ".cache")
    environment = {**kept, **own, **more}
    for name in ("CI", "GITHUB_ACTIONS"):  # where onnxruntime is silent by itself
        environment.pop(name, None)
    done = finished([sys.executable, *arguments], env=environment, cwd=folder)
    return done, log.read_text().splitlines() if log.exists() else []


def test_no_command_seeks_anything_in_the_network(
    watch: Path, little_file: Path, tmp_path: Path
) -> None:
    done, sought = watched(watch, tmp_path, "-c", COMMANDS, little_file)
    assert done.returncode == 0, done.stderr
    assert sought == []
    # onnxruntime's telemetry would keep what it has to tell in a folder beside.
    assert {path.name for path in (tmp_path / ".cache").iterdir()} <= {"mbv3c", "zig"}


def test_the_watch_notices_what_python_and_native_code_seek(watch: Path, tmp_path: Path) -> None:
    seek = (
        "import ctypes, socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9)); "
        "ctypes.CDLL(None).getaddrinfo(b'localhost', None, None, ctypes.byref(ctypes.c_void_p()))"
    )
    done, sought = watched(watch, tmp_path, "-c", seek)
    assert done.returncode == 0, done.stderr
    assert sought == ["connect to 127.0.0.1", "look up localhost"]
