"""A device that is served as long as tests run; `conftest.py` of a folder takes it from here."""

from collections.abc import Iterator

import pytest

from mbv3c.execution.device.place import Address, Place
from tests.execution.device.serving import HOST, Served, served


@pytest.fixture(scope="session")
def no_opencl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which no OpenCL driver is found: a server is there sooner."""
    empty = tmp_path_factory.mktemp("empty")
    return {"MBV3C_CACHE": str(empty / "cache"), "OCL_ICD_VENDORS": str(empty)}


@pytest.fixture(scope="session")
def device(
    tmp_path_factory: pytest.TempPathFactory, no_opencl: dict[str, str]
) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("device"), environment=no_opencl) as one:
        yield one


@pytest.fixture(scope="session")
def place(device: Served) -> Place:
    """Return where that server is."""
    return Place(Address(HOST, device.port), seconds=20)
