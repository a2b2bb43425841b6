"""A served device that tests share, and libraries to run on it."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.execution.device import libraries
from tests.execution.device.fixtures import device, no_opencl  # noqa: F401 - fixtures
from tests.execution.device.serving import HOST, end, free_port, wait_for


@pytest.fixture(autouse=True)
def _close_sessions() -> Iterator[None]:
    """End this process's own sessions after each test: the next client waits until they are."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return libraries.build_misbehaviour(tmp_path_factory.mktemp("misbehaving") / "model.so")


def _bundle(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a folder for a model; a runner reads nothing else of a bundle."""
    return factory.mktemp(name) / "model.so"


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return libraries.build_network(_bundle(tmp_path_factory, "network")).parent


@pytest.fixture(scope="session")
def two_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return libraries.build_network(_bundle(tmp_path_factory, "two"), outputs=2).parent


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return libraries.build_endless(_bundle(tmp_path_factory, "endless")).parent


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    log = tmp_path_factory.mktemp("stock") / "log"
    command = [
        "-m",
        "tvm.exec.rpc_server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--port-end",
        str(port + 1),
    ]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=file, stderr=file, process_group=0
        )
    try:
        wait_for(lambda: "bind to" in log.read_text(), 60, log)
        yield port
    finally:
        end(process)
