"""PoCL and the OpenCL runtime; `mbv3c doctor --fetch` puts both into the cache beforehand."""

import logging

import pytest

from mbv3c.execution.opencl import kit
from mbv3c.execution.opencl.runtime import load_runtime


@pytest.fixture(scope="session")
def opencl_kit() -> kit.OpenCLKit:
    return kit.fetch_kit(logging.getLogger(__name__).info)


@pytest.fixture(scope="session")
def opencl(opencl_kit: kit.OpenCLKit) -> None:
    """Load the runtime on PoCL, whatever GPU this machine has."""
    load_runtime("Portable Computing Language", logging.getLogger(__name__).info)
