"""The command line. Each command converts its arguments, calls one function, prints one result.

onnx, onnxruntime and TVM are imported inside the commands, so that `--help` is instant.
"""

import os
import shlex
import signal
import sys
from collections.abc import Mapping
from errno import EDQUOT, ENOSPC
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from mbv3c import steps
from mbv3c.commands import loudness, project_file
from mbv3c.commands.adapt import adapt
from mbv3c.commands.bench import bench
from mbv3c.commands.build import build
from mbv3c.commands.clean import clean
from mbv3c.commands.cluster import cluster
from mbv3c.commands.compile import compile_
from mbv3c.commands.completion import completion
from mbv3c.commands.config import config
from mbv3c.commands.device import device
from mbv3c.commands.doctor import doctor
from mbv3c.commands.inspect import inspect
from mbv3c.commands.optimize import optimize
from mbv3c.commands.options import PATH, echo, print_json
from mbv3c.commands.quantize import quantize
from mbv3c.commands.report import report
from mbv3c.commands.run import run
from mbv3c.commands.search import search
from mbv3c.commands.sweep import sweep
from mbv3c.commands.targets import targets
from mbv3c.commands.train import train
from mbv3c.commands.tune import tune
from mbv3c.commands.verify import verify
from mbv3c.commands.versions import version_options
from mbv3c.commands.wrapping import fitted
from mbv3c.errors import EXIT_FAILED, EXIT_FAULT, EXIT_INTERRUPTED, Mbv3cError, UsageError
from mbv3c.fault import report_fault
from mbv3c.quoting import for_terminal


def main() -> NoReturn:
    """Run the command line and exit; users' mistakes become one line and an exit code."""
    interrupted = _Interrupted()
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    as_json = "--json" in sys.argv
    try:
        # Without standalone mode click returns the code of an Exit, and None otherwise.
        code = commands.main(standalone_mode=False) or 0
    except Mbv3cError as error:
        code = error.exit_code
        hint = _of_file() if isinstance(error, UsageError) else ""
        _report(as_json, error.kind, f"{error}{hint}", code, error.details)
        if {"--explain", "--verbose", "-v"}.intersection(sys.argv):
            _explain(error)
    except click.ClickException as error:
        code = 2
        mistake = _with_help(error)
        if not as_json:
            _show(mistake)
            if _of_file():
                echo(_of_file().removeprefix("; "), err=True)
        else:
            _report(as_json, "usage", mistake.format_message(), code, {})
    except (click.Abort, KeyboardInterrupt):
        code = _end_interrupted(as_json)
    except BrokenPipeError:
        code = _unread()
    except MemoryError:
        code = EXIT_FAILED
        _report(as_json, "memory", "this takes more memory than there is", code, {})
    except OSError as error:
        code = EXIT_FAILED
        _report(as_json, "system", _refused_by_system(error), code, {})
    except Exception as error:
        # An interrupt inside of TVM's own code comes out of it as a RuntimeError.
        if interrupted.happened and isinstance(error, RuntimeError):
            code = _end_interrupted(as_json)
        else:
            code = EXIT_FAULT
            _report(as_json, "fault", report_fault(error), code, {})
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _unread()
    except OSError as error:
        code = _unread()
        _report(False, "system", _refused_by_system(error), code, {})
    steps.done(code)
    sys.exit(code)


# What is likely meant by an option or an argument that is missing.
_LIKELY = {
    "MODEL": "model.onnx",
    "BUNDLE": "bundle",
    "--target": "rpi5",
    "--output": "out.onnx",
    "--data": "images",
    "--images": "images",
    "--budget": "0.5x",
    "--input": "photo.jpg",
    "--tracker": "192.168.1.20:9190",
}


def _with_help(error: click.ClickException) -> click.ClickException:
    """Return the error of a missing option or argument with a line that is likely meant."""
    if not isinstance(error, click.MissingParameter) or error.ctx is None:
        return error
    # Click reads what was typed first, so whatever else has no value yet is missing, too.
    missing = [
        one
        for one in error.ctx.command.params
        if one.required and one.name not in error.ctx.params
    ]
    names = [
        one.opts[-1] if isinstance(one, click.Option) else one.human_readable_name
        for one in missing
    ]
    if not names or not _LIKELY.keys() >= set(names):
        return error
    added = [(name, _LIKELY[name])[not name.startswith("-") :] for name in names]
    line = shlex.join(["mbv3c", *sys.argv[1:], *chain.from_iterable(added)])
    targets = "; all targets: `mbv3c targets`" if "--target" in names else ""
    return click.UsageError(f"{error.format_message()} For example: `{line}`{targets}", error.ctx)


def _of_file() -> str:
    """Say what a project's file sets for the command that runs: it may be what is refused."""
    known = [setting.text for setting in _in_use.of_command]
    return f"; {_in_use.project.title} sets {', '.join(known)}" if known else ""


def _show(mistake: click.ClickException) -> None:
    """Print what click says: the usage, and the mistake in lines that fit a terminal."""
    said = fitted(for_terminal(f"Error: {mistake.format_message()}"), sys.stderr).removeprefix(
        "Error: "
    )
    click.UsageError(said, getattr(mistake, "ctx", None)).show()


def _unread() -> int:
    """Keep Python from complaining at exit: nobody reads our output any more, or nobody can."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILED


def _explain(error: BaseException) -> None:
    """Print what the libraries below said, which the message leaves out."""
    cause = error.__cause__
    while cause is not None:
        echo(f"because of {type(cause).__name__}: {cause}", err=True)
        cause = cause.__cause__


def _refused_by_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    step = "; free some space, or set TMPDIR" if error.errno in (ENOSPC, EDQUOT) else ""
    return f"{where}{error.strerror or error}{step}"


def _end_interrupted(as_json: bool) -> int:
    message = "interrupted; nothing half written is left"
    _report(as_json, "interrupted", message, EXIT_INTERRUPTED, {})
    return EXIT_INTERRUPTED


def _report(
    as_json: bool, kind: str, message: str, code: int, details: Mapping[str, object]
) -> None:
    echo(f"error: {message}", err=True)
    if as_json:
        print_json({"error": {"kind": kind, "message": message, "exit_code": code, **details}})


class _Interrupted:
    """A signal handler that interrupts like Ctrl-C and remembers that it did."""

    happened = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.happened and steps.supervised():
            return  # a second one while the first is seen to; the supervisor ends what is deaf
        self.happened = True
        raise KeyboardInterrupt


class _InUse:
    """The project file that is read, and the command that runs."""

    project = project_file.ProjectFile()
    command = ""

    @property
    def of_command(self) -> list[project_file.Setting]:
        return [
            setting
            for command, settings in self.project.settings.items()
            if command[0] == self.command
            for setting in settings.values()
        ]


_in_use = _InUse()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@version_options
@click.option(
    "--config",
    "config_file",
    type=PATH,
    help="Read options from this file.  [default: ./mbv3c.toml]",
)
@click.option(
    "--profile",
    envvar=project_file.PROFILE_VARIABLE,
    show_envvar=True,
    help="Take this profile of that file.",
)
@click.pass_context
def commands(context: click.Context, config_file: Path | None, profile: str | None) -> None:
    """Compile MobileNetV3 for edge accelerators and prove that it still computes the same."""
    _in_use.project, _in_use.command = project_file.ProjectFile(), ""
    project = project_file.read_project(commands, config_file, profile)
    _in_use.project, _in_use.command = project, context.invoked_subcommand or ""
    context.obj, context.default_map = project, project.default_map
    if project.path is not None:
        context.meta[loudness.TITLE] = project.title
    steps.say(f"running `mbv3c {context.invoked_subcommand}`")


_MODELS = build, train, optimize, quantize, compile_, tune
_NETWORKS = adapt, search, sweep
_BUNDLES = verify, run, bench, inspect, report
_AROUND = targets, doctor, device, cluster, config, completion, clean
for command in (*_MODELS, *_NETWORKS, *_BUNDLES, *_AROUND):
    commands.add_command(command)
loudness.add_to(commands)
