"""A served device that tests share."""

from collections.abc import Iterator

import pytest

from mbv3c.execution.device.place import Address, Place
from tests.execution.device.serving import HOST, Served, served


@pytest.fixture(scope="session")
def no_opencl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which no OpenCL driver is found."""
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
    """Return where a server is that finds no OpenCL driver."""
    return Place(Address(HOST, device.port), seconds=20)
