"""Packages of this Python, by what is installed and without importing them."""

import importlib.util
from importlib import metadata
from pathlib import Path

from mbv3c.errors import ToolError


def package_version(package: str) -> str | None:
    """Return the version of an installed package; None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def package_folder(module: str) -> Path:
    """Return the folder of an installed module.

    Raises:
        ToolError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ToolError(f"{module} is not installed in this Python; install mbv3c with pip")
    return Path(spec.origin).parent
