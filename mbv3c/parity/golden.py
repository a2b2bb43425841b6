"""The golden files of a bundle, by which a board checks itself."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import numpy as np

from mbv3c.bundle import (
    GOLDEN,
    GOLDEN_INPUT,
    GOLDEN_OUTPUT,
    GOLDEN_TOLERANCE,
    LABELS,
    SCALED,
    Bundle,
    Golden,
    golden_scales,
)
from mbv3c.door.arrays import read_array
from mbv3c.door.files import read_plain
from mbv3c.errors import BundleError
from mbv3c.feeds import Array, arrays_of, as_feed, numbered_files
from mbv3c.parity.reference import error_of_range

# Another onnxruntime spreads by a little more or less.
_TIMES_ALLOWED = 2.0
_READABLE = (OSError, ValueError)  # what is not let in and what is no text are ValueErrors
_MOST_TOLERANCES = 1 << 20  # bytes


def check_golden(bundle: Bundle, right: Golden) -> None:
    """Make sure that the golden files are what `verify` judges by.

    Args:
        bundle: the bundle, whose golden files lie where those of one shape do.
        right: the golden input and outputs as onnxruntime computes them now, and the tolerances.

    Raises:
        BundleError: a file is empty or damaged, holds something else, or allows more.
    """
    folder = bundle.path
    for array, file in zip(
        arrays_of(right.input), numbered_files(folder / GOLDEN_INPUT), strict=False
    ):
        found = _read(file)
        if (found.dtype, found.shape) != (array.dtype, array.shape) or not np.array_equal(
            found, array, equal_nan=array.dtype.kind == "f"
        ):
            raise _damaged(file, "it is not the seeded input")
    limits = _limits(folder / GOLDEN_TOLERANCE)
    if len(limits) != len(right.outputs):
        raise _damaged(folder / GOLDEN_TOLERANCE, f"it has {len(limits)} tolerances")
    files = numbered_files(folder / GOLDEN_OUTPUT)
    scales = [*right.scales] or [None] * len(limits)
    _check_scales(folder, scales)
    for wanted, allowed, limit, file, scale in zip(
        right.outputs, right.allowed, limits, files, scales, strict=False
    ):
        if limit > max(_TIMES_ALLOWED * allowed, float(np.finfo(np.float32).eps)):
            raise _damaged(
                folder / GOLDEN_TOLERANCE, f"it allows {limit:.3g}, and `verify` {allowed:.3g}"
            )
        found = _read(file)
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            raise _damaged(file, f"it holds {found.dtype} {found.shape}")
        span = None if scale is None else scale.astype(np.float64)
        error = error_of_range(found.astype(np.float64), wanted.astype(np.float64), span)
        if np.isfinite(wanted.astype(np.float64)).all() and not error <= allowed:
            raise _damaged(file, f"it is {error:.1e} of the range from what onnxruntime gives")


def read_golden(bundle: Bundle) -> Golden:
    """Read the golden files of a bundle for one shape of the inputs.

    Raises:
        BundleError: a file is damaged.
    """
    folder, manifest = bundle.path, bundle.manifest
    lines = _limits(folder / GOLDEN_TOLERANCE)
    text = _lines(folder / GOLDEN_TOLERANCE)
    inputs = [
        _read(file)
        for _, file in zip(manifest.inputs, numbered_files(folder / GOLDEN_INPUT), strict=False)
    ]
    outputs = [
        _read(file) for _, file in zip(lines, numbered_files(folder / GOLDEN_OUTPUT), strict=False)
    ]
    scales = [
        _read(file) if line.endswith(SCALED) else None
        for line, file in zip(text, golden_scales(folder / GOLDEN), strict=False)
    ]
    labels = [line.endswith(LABELS) for line in text]
    return Golden(as_feed(inputs), outputs, lines, labels, scales)


def _check_scales(folder: Path, scales: Sequence[Array | None]) -> None:
    """Make sure that the ranges by which a board judges are not larger than those of `verify`.

    Raises:
        BundleError: they are, or are missing, or no ranges.
    """
    lines = _lines(folder / GOLDEN_TOLERANCE)
    files = golden_scales((folder / GOLDEN_TOLERANCE).parent)
    for line, scale, file in zip(lines, scales, files, strict=False):
        if (scale is not None) != line.endswith(SCALED):
            raise _damaged(folder / GOLDEN_TOLERANCE, f"{line!r} is not by the output's ranges")
        if scale is None:
            continue
        found = _read(file)
        if (found.dtype, found.shape) != (scale.dtype, scale.shape):
            raise _damaged(file, f"it holds {found.dtype} {found.shape}")
        if not ((found > 0) & (found <= _TIMES_ALLOWED * scale)).all():
            raise _damaged(file, "its ranges are not the output's")


def _limits(path: Path) -> list[float]:
    try:
        limits = [float(line.split()[0]) for line in _lines(path)]
    except (*_READABLE, IndexError) as error:
        raise _damaged(path, "it is no list of tolerances") from error
    if not all(isfinite(limit) and limit >= 0 for limit in limits):
        raise _damaged(path, "a tolerance is no number")
    return limits


def _lines(path: Path) -> list[str]:
    return read_plain(path, _MOST_TOLERANCES).decode().splitlines()


def _read(path: Path) -> Array:
    try:
        return read_array(path)
    except _READABLE as error:
        raise _damaged(path, "it is no .npy array") from error


def _damaged(path: Path, reason: str) -> BundleError:
    return BundleError(
        f"{path} would let a board pass that computes something else: {reason}; compile the "
        "bundle again"
    )
