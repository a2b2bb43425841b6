"""The command line's processes: the command in one of its own, and two that watch over it.

    front ─► guard ─► command ─► what it starts

The front is the process that the user started. It passes signals on and ends as the command did.
The guard adopts whatever loses its parent, and limits memory and the time of some steps. If the
command dies of a signal, as it does when a library below crashes, the guard says in which step.

None of the three outlives another: Linux kills the command with its guard, the guard ends all when
the front is gone, and the front when the guard is. Whoever remains removes temporary folders.

All three are forks of one interpreter, before anything heavy is imported. Commands share the
front's process group, so that a terminal stops, continues and interrupts both; the guard has a
group of its own, and survives what kills a group.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn

from mbv3c.errors import EXIT_FAILED, EXIT_FAULT, EXIT_INTERRUPTED
from mbv3c.process_tree import (
    adopt_orphans,
    available_memory,
    children_of,
    descendants_of,
    end_with_parent,
    kill_below,
    memory_of,
    state_of,
)
from mbv3c.steps import LIMIT_VARIABLE, Board, Step, write_steps_to

MEMORY_VARIABLE = "MBV3C_MEMORY"
OFF_VARIABLE = "MBV3C_SUPERVISE"
COMPLETE_VARIABLE = "_MBV3C_COMPLETE"  # by which a shell asks click for words: at once, or never
_SHARE = 0.9  # of what is available, so that the system need not choose whom to kill
_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}

_PASSED_ON = {
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP),
    *(signal.SIGCONT, signal.SIGWINCH, signal.SIGUSR1, signal.SIGUSR2),
}
# What stops a group in the background that reads or writes: the front with its command.
_FROM_TERMINAL = {signal.SIGTTIN, signal.SIGTTOU}
_INTERRUPTS = {signal.SIGINT, signal.SIGTERM}
_CRASHES = {
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE),
    *(signal.SIGSYS, signal.SIGTRAP),
}
_SI_USER = 0  # of siginfo_t's si_code: sent by kill(2), and not by a terminal to a whole group
_AGAIN = 1.0  # seconds after an interrupt from which another one is meant as a second
_LOOK = 0.1  # seconds between two looks at a command
_QUICK = 0.02  # the same when it has half of the memory that it may have
_WHOLE = 10  # looks of which one takes in all processes
_IDLE = 0.1  # share of the time without work that counts
_STARTING = 10.0  # seconds that a fork may take to say who it is


def main() -> NoReturn:
    """Run the command line in a process that is watched over; in this one where that cannot be.

    `device` runs in this one: it has a process for every session, with limits of its own. So does
    what completes words for a shell.
    """
    off = os.environ.get(OFF_VARIABLE) == "0" or COMPLETE_VARIABLE in os.environ
    if sys.platform != "linux" or off or "device" in sys.argv[1:2]:
        _command()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FROM_TERMINAL)
    front = os.getpid()
    try:
        board = Board()
        guard = os.fork()
    except OSError:  # there is no memory that can be shared, or no process more
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _command()
    if guard:
        adopt_orphans()
        _Front(board, guard).run()
    command = _fork_guarded(board, front)
    if command:
        _Guard(board, front, command).run()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    write_steps_to(board)
    _command()


def _command() -> NoReturn:
    from mbv3c.cli import main as command_line
    from mbv3c.imports import without_torch

    without_torch()
    command_line()


def _fork_guarded(board: Board, front: int) -> int:
    """Become the guard and fork the command; return its process, and 0 in the command itself."""
    end_with_parent(signal.SIGTERM)
    adopt_orphans()
    guard = os.getpid()
    try:
        command = os.fork()
    except OSError as error:
        _say(board, "system", f"no process can be started: {error.strerror}", EXIT_FAILED)
        os._exit(EXIT_FAILED)
    if command:
        signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_TERMINAL)
        os.setpgid(0, 0)
        return command
    end_with_parent()
    if os.getppid() != guard:  # it ended before Linux was told
        os._exit(EXIT_FAULT)
    return 0


class _Front:
    """The process that the user started."""

    def __init__(self, board: Board, guard: int) -> None:
        self._board, self._guard = board, guard
        self._interrupted: float | None = None

    def run(self) -> NoReturn:
        while True:
            info = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
            if info.si_signo == signal.SIGCHLD:
                self._end_with_guard()
            else:
                self._pass_on(signal.Signals(info.si_signo), info.si_code)

    def _pass_on(self, number: signal.Signals, code: int) -> None:
        if signal.getsignal(number) == signal.SIG_IGN:
            return
        command = self._command_process()
        if number in _INTERRUPTS:
            now = time.monotonic()
            if self._interrupted is not None and now - self._interrupted > _AGAIN:
                number, code = signal.SIGKILL, _SI_USER  # it does not listen
            self._interrupted = self._interrupted or now
        if command and code <= _SI_USER:
            with suppress(ProcessLookupError):
                os.kill(command, number)
        if number == signal.SIGTSTP:  # unless nobody could continue it, which Linux knows
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_BLOCK, {number})

    def _command_process(self) -> int:
        end = time.monotonic() + _STARTING
        while not self._board.process and time.monotonic() < end:
            if not children_of(os.getpid()):
                break
            time.sleep(0.001)
        return self._board.process

    def _end_with_guard(self) -> None:
        """End as the command did, if the guard has ended."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not process:
                return
            if process == self._guard:
                break
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            _clean_up(self._board)
            _say(self._board, "killed", "the process that watches over it was killed", EXIT_FAILED)
            code = EXIT_FAILED
        elif code > _BY_SIGNAL:
            _die_of(code - _BY_SIGNAL)
        elif self._interrupted is not None and code == _KILLED:
            _say(self._board, "interrupted", _LEFT_NOTHING, EXIT_INTERRUPTED)
            code = EXIT_INTERRUPTED
        elif code == _KILLED:
            _say(self._board, "killed", _killed(self._board.step), EXIT_FAILED)
            code = EXIT_FAILED
        os._exit(code)


_LEFT_NOTHING = "interrupted; nothing half written is left"
_BY_SIGNAL = 160  # the guard's exit code, less the signal, for a front that has to die of it
_KILLED = 150  # the same for a command that somebody killed


def _die_of(number: int) -> None:
    """End by a signal, so that a shell says so; no core is written twice."""
    import resource

    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)


class _Guard:
    """The process that watches over a command."""

    def __init__(self, board: Board, front: int, command: int) -> None:
        self._board, self._front, self._command = board, front, command
        self._most = memory_limit(os.environ.get(MEMORY_VARIABLE), available_memory())
        self._looks, self._others = 0, 0
        self._step, self._seconds = -1, 0.0
        self._looked, self._worked = time.monotonic(), 0.0

    def run(self) -> NoReturn:
        wait = _LOOK
        while True:
            signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, wait)
            status = self._reaped()
            if status is not None:
                self._ended(os.waitstatus_to_exitcode(status))
            if os.getppid() != self._front:
                _clean_up(self._board)
                os._exit(EXIT_FAILED)
            wait = self._looked_at()

    def _reaped(self) -> int | None:
        """Reap what has ended; return the command's status if it has."""
        found = None
        with suppress(ChildProcessError):
            while True:
                process, status = os.waitpid(-1, os.WNOHANG)
                if not process:
                    break
                found = status if process == self._command else found
        return found

    def _ended(self, code: int) -> NoReturn:
        done = self._board.code
        kept = done is not None and code >= 0
        _clean_up(self._board, folders=not kept)
        if done is not None:  # what happened after that, to libraries that unload, changes nothing
            code = done
        elif code < 0:
            number = signal.Signals(-code)
            if number in _CRASHES:
                code = _report_crash(self._board, number)
            elif number == signal.SIGKILL:
                code = _KILLED
            elif number in _INTERRUPTS:  # before it could do something about it
                _say(self._board, "interrupted", _LEFT_NOTHING, EXIT_INTERRUPTED)
                code = EXIT_INTERRUPTED
            else:
                code = _BY_SIGNAL + number
        else:  # it did not come to its own end
            _say(self._board, "crash", _ended_by_library(self._board.step, code), EXIT_FAILED)
            code = EXIT_FAILED
        os._exit(code)

    def _looked_at(self) -> float:
        """End a command that is beyond a limit; return how long to wait until the next look."""
        used, step, passed = self._memory(), self._board.step, self._passed()
        if step.number != self._step:
            self._step, self._seconds = step.number, 0.0
        self._seconds += passed
        if self._most and used > self._most:
            self._end_at("memory", _too_large(step, used, self._most))
        if step.seconds and self._seconds > step.seconds:
            self._end_at("time", _too_long(step))
        return _QUICK if self._most and 2 * used > self._most else _LOOK

    def _passed(self) -> float:
        """Return the seconds since the last look, as far as they count for a limit.

        On a machine that does other things, or sleeps, a command waits without any fault of its
        own: what counts is its processor time, and a tenth of the time in which it has none.
        """
        now = time.monotonic()
        stopped, worked = state_of(self._command)
        passed = min(now - self._looked, 2 * _LOOK)
        counted = min(max(worked - self._worked, _IDLE * passed), now - self._looked)
        self._looked, self._worked = now, worked
        return 0.0 if stopped else counted

    def _memory(self) -> int:
        if self._looks % _WHOLE == 0:
            below = descendants_of(self._command)
            self._others = sum(map(memory_of, below))
        self._looks += 1
        return memory_of(self._command) + self._others

    def _end_at(self, kind: str, message: str) -> NoReturn:
        _clean_up(self._board)
        _say(self._board, kind, message, EXIT_FAILED)
        os._exit(EXIT_FAILED)


def memory_limit(text: str | None, available: int | None) -> int:
    """Return how many bytes a command may have: 0 for any number.

    Args:
        text: what the user wants, such as 6G, 500M or none; None for a share of what is available.
        available: bytes that are available; None if nobody knows.
    """
    if text == "none":
        return 0
    digits, unit = (text or "").upper().removesuffix("B").removesuffix("I"), 0
    if digits and digits[-1] in _UNITS:
        digits, unit = digits[:-1], _UNITS[digits[-1]]
    with suppress(ValueError, OverflowError):
        return int(float(digits) * 2**unit)
    return int(_SHARE * (available or 0))


def _clean_up(board: Board, *, folders: bool = True) -> None:
    """End all processes below this one, and remove temporary folders that they leave."""
    kill_below()
    if folders:
        from mbv3c.scratch import remove_abandoned

        for folder, pattern in board.places:
            with suppress(OSError):
                remove_abandoned(folder, pattern)


def _report_crash(board: Board, number: signal.Signals) -> int:
    from mbv3c.fault import report_crash

    step = board.step
    who = step.library or "a library below mbv3c"
    crashed = f"{who} crashed while {step.what} ({number.name})"
    _say(board, "crash", report_crash(crashed, board.trace), EXIT_FAULT)
    return EXIT_FAULT


def _by(step: Step) -> str:
    return f"{step.what}, by {step.library}," if step.library else f"{step.what}"


def _too_large(step: Step, used: int, most: int) -> str:
    return (
        f"{_by(step)} took {used / 2**30:.1f} GiB of memory, and {most / 2**30:.1f} GiB is what "
        f"it may take here: give a smaller model or input, or set {MEMORY_VARIABLE}, such as 20G "
        "or none"
    )


def _too_long(step: Step) -> str:
    return (
        f"{_by(step)} took more than {step.seconds:.0f} s, as if it did not end: give a smaller "
        f"model, or set {LIMIT_VARIABLE}, such as 3000 or none"
    )


def _ended_by_library(step: Step, code: int) -> str:
    who = step.library or "a library below mbv3c"
    return (
        f"{who} ended the process while {step.what} (exit code {code}), for the reason that it "
        "has printed: nothing half written is left"
    )


def _killed(step: Step) -> str:
    return (
        f"killed while {step.what}, by somebody or by the system for want of memory: nothing half "
        "written is left; see `dmesg`, or try again"
    )


def _say(board: Board, kind: str, message: str, code: int) -> None:
    """Print an error as the command itself would have."""
    from mbv3c.quoting import for_terminal

    with suppress(OSError):
        os.write(2, f"error: {for_terminal(message)}\n".encode(errors="replace"))
        if "--json" in sys.argv and board.code is None:
            import json

            error = {"kind": kind, "message": message, "exit_code": code}
            os.write(1, f"{json.dumps({'error': error}, indent=2)}\n".encode())
