"""What crashes, loops or grows without end in a command is one line, and nothing outlives it."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx
import pytest

from mbv3c.process_tree import available_memory, children_of, descendants_of
from mbv3c.steps import seconds_of
from mbv3c.supervisor import memory_limit
from tests.command_line import Done, mbv3c_process, python

# The command `targets`, which does something else: in a step, of which the supervisor knows.
SCRIPT = """
import ctypes, os, subprocess, sys, time
from mbv3c import cli, supervisor
from mbv3c.execution.cache import cache_root, provide
from mbv3c.scratch import scratch_folder
from mbv3c.steps import step

LIBC = ctypes.PyDLL(None)  # its calls keep the interpreter's lock, as a library's loop may

def segfault():
    ctypes.string_at(0)

def abort():
    os.abort()

def loop():
    while True:
        LIBC.usleep(100)

def bomb():
    kept = []
    while True:
        kept.append(b"x" * (16 << 20))

def sleep():
    time.sleep(100)

def reading():
    print("it read", input())

def workers():
    for _ in range(2):
        subprocess.Popen(["sleep", "100"], start_new_session=True)
    subprocess.Popen([sys.executable, "-c",
        "import subprocess, time; subprocess.Popen(['sleep', '100']); time.sleep(100)"])
    provide(cache_root() / "part", fetch)

def fetch(folder):
    (folder / "half").write_text("half")
    time.sleep(100)

def leftover():
    subprocess.Popen(["sleep", "100"], start_new_session=True)

def leave():
    LIBC.fflush(None)
    LIBC._exit(3)

def late():
    import atexit
    atexit.register(segfault)

def changed(**given):
    with scratch_folder("test"), step("folding constants", "onnxsim", lambda: 0):
        print("begun", flush=True)
        globals()[sys.argv[2]]()
    print("done")

cli.commands.commands["targets"].callback = changed
cli.commands.commands["targets"].params = [cli.click.Argument(["what"]), *(
    option for option in cli.commands.commands["targets"].params if option.name == "as_json")]
supervisor.main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def ended(script: Path, temporary: Path, *arguments: str, **environment: str) -> Done:
    return python(script, "targets", *arguments, TMPDIR=str(temporary), **environment)


@pytest.mark.parametrize(("what", "signal_"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_crash_names_step_and_library(
    what: str, signal_: str, script: Path, temporary: Path
) -> None:
    done = ended(script, temporary, what, "--json")
    assert done.returncode == 70
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: onnxsim crashed while folding constants ({signal_})")
    (report,) = temporary.iterdir()
    assert str(report) in line
    text = report.read_text()
    assert f"in {what}" in text
    assert "apache-tvm" in text
    error = json.loads(done.stdout.removeprefix("begun\n"))["error"]
    assert (error["kind"], error["exit_code"]) == ("crash", 70)


OVERFLOW = """
<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (int32[1] y) {
    least = Constant<value = int32[1] {-2147483648}>()
    minus = Constant<value = int32[1] {-1}>()
    y = Div(least, minus)
}
"""


def test_a_model_that_crashes_onnxruntime(temporary: Path) -> None:
    """The least whole number over -1 overflows: x86 traps, and onnxruntime 1.32 divides."""
    model, output = temporary / "overflow.onnx", temporary / "out.onnx"
    onnx.save(onnx.parser.parse_model(OVERFLOW), model)
    done = mbv3c_process(
        "optimize", model, "-o", output, env={**os.environ, "TMPDIR": str(temporary)}
    )
    assert done.returncode == 70
    assert "error: onnxruntime crashed while running the model (SIGFPE)" in done.stderr
    assert len(list(temporary.iterdir())) == 2  # the model, and the report


@pytest.mark.parametrize(
    ("what", "limit", "kind", "message"),
    [
        ("loop", {"MBV3C_STEP_SECONDS": "0.3"}, "time", r", took more than 0 s, .*MBV3C_STEP_SEC"),
        ("bomb", {"MBV3C_MEMORY": "200M"}, "memory", r", took 0.\d GiB of .*set MBV3C_MEMORY"),
    ],
)
def test_a_limit_names_the_step_and_how_to_change_it(
    what: str, limit: dict[str, str], kind: str, message: str, script: Path, temporary: Path
) -> None:
    done = ended(script, temporary, what, "--json", **limit)
    assert done.returncode == 1
    assert re.fullmatch(f"error: folding constants, by onnxsim{message}.*\n", done.stderr)
    assert json.loads(done.stdout.removeprefix("begun\n"))["error"]["kind"] == kind
    assert not list(temporary.iterdir())


def test_a_library_that_ends_the_process_is_named(script: Path, temporary: Path) -> None:
    """LLVM does so where the disk is full."""
    done = ended(script, temporary, "leave")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: onnxsim ended the process while folding constants (exit code 3), for the reason"
    )
    assert not list(temporary.iterdir())


def test_what_happens_after_the_answer_changes_nothing(script: Path, temporary: Path) -> None:
    for what in ("late", "leftover"):
        begun = time.monotonic()
        done = ended(script, temporary, what)
        assert (done.returncode, done.stdout) == (0, "begun\ndone\n"), done.stderr
        assert time.monotonic() - begun < 50  # who reads its output need not wait for a process


def _hear_interrupts() -> None:
    """Undo what a shell does to what it starts in the background, tests among them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(script: Path, temporary: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a group of its own, and wait until it is in its step."""
    process = subprocess.Popen(
        [sys.executable, script, "targets", what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        process_group=0,
        preexec_fn=_hear_interrupts,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


@pytest.mark.parametrize("killed", ["front", "guard", "command", "group"])
def test_killed_it_leaves_neither_processes_nor_folders(
    killed: str, script: Path, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("MBV3C_CACHE", str(cache))
    with started(script, temporary, "workers") as process:
        while len(below := descendants_of(process.pid)) < 6:  # guard, command, and four of its
            time.sleep(0.01)
        while not (cache / "part.partial" / "half").exists():
            time.sleep(0.01)
        (guard,) = children_of(process.pid)
        (command,) = children_of(guard)
        if killed == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            one = {"front": process.pid, "guard": guard, "command": command}[killed]
            os.kill(one, signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
        end = time.monotonic() + 5
        while any(map(is_alive, below)):
            assert time.monotonic() < end
            time.sleep(0.01)
    assert not [*temporary.iterdir(), *cache.iterdir()]
    if killed in ("front", "group"):
        assert process.returncode == -signal.SIGKILL
        return
    assert process.returncode == 1
    assert re.match("error: (the process that watches|killed while folding const)", errors)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_the_command(
    number: signal.Signals, script: Path, temporary: Path
) -> None:
    with started(script, temporary, "sleep") as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "error: interrupted; nothing half written is left"
    assert not list(temporary.iterdir())


def test_a_second_signal_ends_what_does_not_listen(script: Path, temporary: Path) -> None:
    with started(script, temporary, "loop") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "error: interrupted; nothing half written is left"
    assert not list(temporary.iterdir())


def test_other_signals_end_it_as_they_end_every_program(script: Path, temporary: Path) -> None:
    with started(script, temporary, "sleep") as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGHUP
    assert not list(temporary.iterdir())


class Terminal:
    """A shell on a terminal."""

    def __init__(self) -> None:
        self.process, self._end = pty.fork()
        if self.process == 0:
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)  # what ran the tests may ignore them
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])

    def types(self, text: str) -> None:
        os.write(self._end, text.encode())

    def reads(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Read until something comes."""
        text, end = "", time.monotonic() + seconds
        while (found := re.search(pattern, text)) is None:
            assert time.monotonic() < end, text
            if select.select([self._end], [], [], 0.1)[0]:
                text += os.read(self._end, 4096).decode(errors="replace")
        return found

    def close(self) -> None:
        for process in (*descendants_of(self.process), self.process):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        os.close(self._end)
        os.waitpid(self.process, 0)


def test_a_terminal_stops_continues_and_interrupts_it(
    script: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(temporary))
    terminal = Terminal()
    try:
        terminal.types(f"{sys.executable} {script} targets sleep; echo code $?\n")
        terminal.reads("begun")
        terminal.types("\x1a")
        terminal.reads("Stopped")
        terminal.types("fg\n")
        terminal.reads("script.py targets sleep")
        time.sleep(0.5)  # the shell says so before it hands the terminal over
        terminal.types("\x03")
        terminal.reads("error: interrupted")
        terminal.types("echo code $?\n")
        terminal.reads("code 130")
        terminal.types(f"{sys.executable} {script} targets reading &\n")
        terminal.reads("begun")  # it wants to read, and is in the background
        terminal.types(
            "until [[ $(jobs) == *Stopped* ]]; do sleep 0.1; done; echo now $((6 * 7))\n"
        )
        terminal.reads("now 42")
        terminal.types("fg\n")
        terminal.reads("script.py targets reading")
        terminal.types("a line\n")
        terminal.reads("it read a line")
        terminal.types("echo code $?\n")
        terminal.reads("code [0-9]")  # it has ended, and cleaned up
    finally:
        terminal.close()
    assert not list(temporary.iterdir())


def test_a_reader_that_has_seen_enough(script: Path, temporary: Path) -> None:
    """The output is closed early: no complaint, and no process that waits."""
    text = f"{sys.executable} {script} targets sleep | head -n 1; echo ${{PIPESTATUS[0]}}"
    env = {**os.environ, "TMPDIR": str(temporary), "MBV3C_STEP_SECONDS": "0.2"}
    done = subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, env=env, check=False, timeout=60
    )
    assert done.stdout == "begun\n1\n"
    assert done.stderr.startswith("error: folding constants")
    text = f"{sys.executable} -m mbv3c targets 2>&1 > /dev/full; echo $?"
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
    assert done.stdout == "error: No space left on device; free some space, or set TMPDIR\n1\n"


def test_limits_are_read() -> None:
    assert memory_limit(None, 1000) == 900
    assert memory_limit(None, None) == 0
    assert memory_limit("none", 1000) == 0
    assert [memory_limit(text, 1) for text in ("2G", "1.5gib", "700MB", "12")] == [
        2 << 30,
        3 << 29,
        700 << 20,
        12,
    ]
    assert memory_limit("much", 1000) == 900
    assert [seconds_of(text) for text in (None, "7", "none", "0", "long")] == [300, 7, 0, 0, 300]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = available_memory()
    assert available is not None
    assert available > 0
    swap = re.search(r"SwapFree: +(\d+)", Path("/proc/meminfo").read_text())
    assert swap is not None
    assert available <= total + (int(swap[1]) << 10)


def test_it_can_be_switched_off(script: Path, temporary: Path) -> None:
    done = ended(script, temporary, "segfault", MBV3C_SUPERVISE="0")
    assert done.returncode == -signal.SIGSEGV


UNFORKED = """
import os, sys

def refused():
    raise BlockingIOError(11, os.strerror(11))

os.fork = refused
from mbv3c.supervisor import main
main()
"""


def test_without_another_process_a_command_runs_in_this_one() -> None:
    done = python("-c", UNFORKED, "targets")
    assert done.returncode == 0, done.stderr
    assert "host_cpu" in done.stdout
