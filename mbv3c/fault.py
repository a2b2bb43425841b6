"""The last resort: an error that nobody foresaw becomes a file to send, and two lines to read."""

import platform
import shlex
import sys
import tempfile
import traceback
from importlib import metadata

from mbv3c.version import __version__

_PACKAGES = ("apache-tvm", "numpy", "onnx", "onnxruntime", "onnxsim", "ethos-u-vela", "ziglang")


def report_fault(error: BaseException) -> str:
    """Write what is needed to mend a fault of mbv3c, and return what to tell the user.

    The file holds the command line, the versions of what computes, and where the error arose. It
    holds nothing of the user's files but the names and figures that the error itself mentions.
    """
    name = _name(error)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="mbv3c-fault-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(_report(error))
    except OSError as trouble:
        written = f"its details could not be written ({trouble.strerror}); set TMPDIR to a folder"
        return f"this is a fault of mbv3c, not of yours: {name}\n{written} with some space"
    return (
        f"this is a fault of mbv3c, not of yours: {name}\n"
        f"please read {file.name} and send it to the project's issues, with the model if it "
        "may be shown; docs/security.md says where, and what to do if others could exploit it"
    )


def report_crash(what: str, trace: str) -> str:
    """Write what is needed to mend a crash of a library, and return what to tell the user.

    Args:
        what: who crashed and at what, as a sentence.
        trace: where in Python that was.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="mbv3c-fault-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"{_heading()}{what}\n\n{trace}")
    except OSError:
        return f"{what}: nothing half written is left"
    return f"{what}: nothing half written is left; {file.name} has details to send, with the model"


def _name(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _report(error: BaseException) -> str:
    return _heading() + "".join(traceback.format_exception(error))


def _heading() -> str:
    versions = [f"mbv3c {__version__}", f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return "\n".join([shlex.join(sys.argv), ", ".join(versions), system, ""])
