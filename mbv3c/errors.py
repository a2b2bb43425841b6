"""The one family of errors that a user can cause, and the exit codes that belong to it."""

from pathlib import Path

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARITY = 3
EXIT_SLOWER = 4
EXIT_LARGER = 5
EXIT_FAULT = 70  # EX_SOFTWARE of sysexits.h: a fault of mbv3c itself
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class Mbv3cError(Exception):
    """Something failed; the message says what, where, and what to do next."""

    exit_code = EXIT_FAILED
    kind = "failed"

    @property
    def details(self) -> dict[str, object]:
        """What the JSON form of the error has beside kind, message and exit code."""
        return {}


class UsageError(Mbv3cError):
    """The command line asked for something that does not exist or does not fit together."""

    exit_code = EXIT_USAGE
    kind = "usage"


class ModelError(Mbv3cError):
    """The given ONNX model cannot be read or is not one that mbv3c can compile."""

    kind = "model"


class UnknownOperatorsError(ModelError):
    """A compiler has no importer for some of a model's operators.

    Attributes:
        positions: positions of the nodes of these operators in the graph.
    """

    def __init__(self, message: str, positions: tuple[int, ...]) -> None:
        super().__init__(message)
        self.positions = positions


class CalibrationError(Mbv3cError):
    """A file to calibrate with is broken or does not fit the model."""

    kind = "calibration"


class ImageError(CalibrationError):
    """An image cannot be read.

    Attributes:
        reason: why the image cannot be read, without the file's name.
    """

    kind = "image"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is no image, or it is broken: {reason}; replace or remove it")
        self.reason = reason


class DivergedError(Mbv3cError):
    """The loss or the weights of a training are no longer numbers."""

    kind = "diverged"


class ToolError(Mbv3cError):
    """A tool beside mbv3c (linker, emulator, pip, apt) is missing or failed."""

    kind = "tool"


class BundleError(Mbv3cError):
    """A bundle cannot be written, or a folder is not a complete bundle."""

    kind = "bundle"


class SavedFileError(Mbv3cError):
    """A file that `verify` is to read back is damaged, or not one that it wrote."""

    kind = "saved_file"


class ParityError(Mbv3cError):
    """A library does not compute what onnxruntime computes.

    Attributes:
        parity: the comparison, in the documented JSON form.
    """

    exit_code = EXIT_PARITY
    kind = "parity"

    def __init__(self, message: str, parity: dict[str, object]) -> None:
        super().__init__(message)
        self.parity = parity

    @property
    def details(self) -> dict[str, object]:
        return {"parity": self.parity}
