"""Models that many tests share; building one takes seconds."""

import gc
import logging
import os
import tempfile
from pathlib import Path

import hypothesis
import onnx
import pytest

from mbv3c.execution.emulator.cores import CoresKit, fetch_cores
from mbv3c.execution.emulator.kit import EmulatorKit, fetch
from mbv3c.execution.emulator.llvm import Llvm, fetch_llvm
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from tests.long_tests import long_tests, split
from tests.onnx_text import graph, random
from tests.parity.small_network import small_network

# No test is timed: CI machines are slow at times.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# The tests that were collected, and the parameters of each.
COLLECTED = pytest.StashKey[dict[str, list[str]]]()
STATE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-docs", action="store_true", help="write generated pages anew")
    parser.addoption("--seconds", type=float, help="of each fuzzing test; else 100 files")
    parser.addoption("--fuzz-seed", type=int, default=0, help="first seed of fuzzing tests")
    parser.addoption("--variations", type=int, default=12, help="number of random models")
    parser.addoption("--kills", type=int, default=4, help="number of commands that are killed")


def pytest_configure(config: pytest.Config) -> None:
    """Give all processes of a run one place to note the bundles that they make."""
    if not hasattr(config, "workerinput"):  # a process of pytest-xdist has its parent's
        config.stash[STATE] = tempfile.TemporaryDirectory(prefix="mbv3c-state-")
        os.environ["MBV3C_STATE"] = config.stash[STATE].name


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()  # or libraries say at the end that something has leaked
    if STATE in config.stash:
        config.stash[STATE].cleanup()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what docs/testing.md lists, before it is left out."""
    rows, collected = long_tests(), dict[str, list[str]]()
    for item in items:
        test, parameters = split(item.nodeid)
        collected.setdefault(test, []).append(parameters)
        if test in rows and not rows[test].keeps(parameters):
            item.add_marker(pytest.mark.long)
    config.stash[COLLECTED] = collected


def pytest_collection_finish() -> None:
    """Let Python never look for garbage in what was imported: it takes a twentieth of the time."""
    gc.freeze()


@pytest.fixture(scope="session")
def small() -> onnx.ModelProto:
    """Return MobileNetV3-Small, 224 pixels, 1000 classes; tests must not change it."""
    return build_model(ModelSpec("small"))


@pytest.fixture(scope="session")
def large() -> onnx.ModelProto:
    """Return MobileNetV3-Large, 224 pixels, 1000 classes; tests must not change it."""
    return build_model(ModelSpec("large"))


@pytest.fixture(scope="session", params=["small", "large"])
def network(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Return each of the two in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def blocks() -> onnx.ModelProto:
    """Return three bottlenecks of 32 pixels: every kind of kernel; tests must not change it."""
    return small_network()


@pytest.fixture(scope="session")
def blocks_file(blocks: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return `blocks` in a file."""
    path = tmp_path_factory.mktemp("blocks") / "blocks.onnx"
    onnx.save(blocks, path)
    return path


@pytest.fixture(scope="session")
def little_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a classifier of two layers in a file, for what any network shows."""
    model = graph(
        """g (float[1, 3, 16, 16] x) => (float[1, 8] y) {
            a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, stem)
            b = HardSwish(a)
            c = GlobalAveragePool(b)
            d = Flatten(c)
            y = Gemm<transB = 1>(d, head)
        }""",
        stem=random(16, 3, 3, 3),
        head=random(8, 16),
    )
    path = tmp_path_factory.mktemp("little") / "little.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def emulator_kit() -> EmulatorKit:
    """Return the kit in the user's cache; `mbv3c doctor --fetch` puts it there beforehand."""
    return fetch(logging.getLogger(__name__).info)


@pytest.fixture(scope="session")
def cores_kit() -> CoresKit:
    """Return the kit in the user's cache; `mbv3c doctor --fetch` puts it there beforehand."""
    return fetch_cores(logging.getLogger(__name__).info)


@pytest.fixture(scope="session")
def llvm() -> Llvm:
    """Return llvm-mca in the user's cache; `mbv3c doctor --fetch` puts it there beforehand."""
    return fetch_llvm(logging.getLogger(__name__).info)
