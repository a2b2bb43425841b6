"""What takes more than one process: the cache of compiled kernels, TVM's autoload, RPC."""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, rpc

from mbv3c.execution.cache import cache_root
from mbv3c.execution.opencl.runtime import provide_plugin
from tests.execution.device.serving import end
from tests.execution.opencl import modules

pytestmark = pytest.mark.usefixtures("opencl")

ROOT = Path(__file__).parents[3]
X = np.arange(64, dtype=np.float32)
# Runs the library of the first argument twice, and prints what the runtime counted.
RUN_TWICE = """
import json, sys
import numpy as np, tvm
from mbv3c.execution.opencl.runtime import counters, load_runtime
load_runtime("Portable Computing Language")
device = tvm.device("opencl", 0)
x = tvm.runtime.tensor(np.arange(64, dtype=np.float32), device)
for _ in range(2):
    y = tvm.runtime.empty((64,), "float32", device)
    tvm.runtime.load_module(sys.argv[1])["scale"](x, y)
    assert (y.numpy() == 3 * np.arange(64)).all()
print(json.dumps(vars(counters())))
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache that has this machine's kit and plugin, and no compiled kernel."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for part in cache_root().glob("opencl-[kr]*"):
        (folder / part.name).symlink_to(part)
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return modules.export(modules.scale(3.0), tmp_path / "scale.so")


def _python(
    code: str, *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _run_twice(library: Path, cache: Path) -> dict[str, int]:
    done = _python(RUN_TWICE, library, MBV3C_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    return result


def _programs(cache: Path) -> list[Path]:
    return sorted((cache / "opencl-programs").iterdir())


# ---- compiled kernels ----


def test_second_process_builds_no_kernel(library: Path, cache: Path) -> None:
    first = _run_twice(library, cache)
    assert (first["kernels_built"], first["kernels_loaded"], first["launches"]) == (1, 0, 2)
    (program,) = _programs(cache)
    assert first["cache_bytes_written"] == program.stat().st_size
    second = _run_twice(library, cache)
    assert (second["kernels_built"], second["kernels_loaded"]) == (0, 1)
    assert second["cache_bytes_written"] == 0


def test_another_source_is_another_kernel(library: Path, cache: Path, tmp_path: Path) -> None:
    _run_twice(library, cache)
    both = modules.scale(3.0)
    both["wide"] = modules.wide(8)["wide"]
    module = modules.export(both, tmp_path / "both.so")
    # The same kernel beside another one comes from the cache; the other one is never built.
    assert _run_twice(module, cache)["kernels_built"] == 0
    done = _python(
        RUN_TWICE, modules.export(modules.scale(4.0), tmp_path / "four.so"), MBV3C_CACHE=str(cache)
    )
    assert "AssertionError" in done.stderr
    assert len(_programs(cache)) == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "other key"])
def test_broken_entry_is_built_again(library: Path, cache: Path, damage: str) -> None:
    _run_twice(library, cache)
    (program,) = _programs(cache)
    whole = program.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "truncate": whole[:-100],
        "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "other key": whole.replace(b"Portable", b"portable", 1),
    }
    program.write_bytes(damaged[damage])
    counted = _run_twice(library, cache)
    assert (counted["kernels_built"], counted["cache_entries_refused"]) == (1, 1)
    assert program.read_bytes()[:200] == whole[:200]


def test_program_that_the_driver_refuses_is_built_again(library: Path, cache: Path) -> None:
    """An entry that is whole, but not one of this driver's programs."""
    _run_twice(library, cache)
    (program,) = _programs(cache)
    key_at = program.read_bytes().index(b"\n") + 1
    whole = program.read_bytes()
    head = key_at + 8 + int.from_bytes(whole[key_at : key_at + 8], "little")
    content = b"not a program"
    check = 14695981039346656037
    for byte in content:
        check = (check ^ byte) * 1099511628211 % 2**64
    framed = len(content).to_bytes(8, "little") + content + check.to_bytes(8, "little")
    program.write_bytes(whole[:head] + framed)
    counted = _run_twice(library, cache)
    assert (counted["kernels_built"], counted["cache_entries_refused"]) == (1, 1)


def test_cache_that_cannot_be_written_is_no_error(library: Path, cache: Path) -> None:
    (cache / "opencl-programs").write_text("a file where a folder should be")
    counted = _run_twice(library, cache)
    assert (counted["kernels_built"], counted["cache_bytes_written"]) == (1, 0)


# ---- choosing and missing devices ----

DEVICE_NAME = """
from mbv3c.execution.opencl.runtime import device_info, load_runtime
load_runtime()
print(device_info().platform)
"""


def test_device_is_chosen_by_the_environment() -> None:
    done = _python(DEVICE_NAME, MBV3C_OPENCL_DEVICE="PORTABLE computing")
    assert done.stdout == "Portable Computing Language\n", done.stderr
    done = _python(DEVICE_NAME, MBV3C_OPENCL_DEVICE="no such device")
    assert "no OpenCL device has 'no such device' in its name; known: 'Portable" in done.stderr


def test_without_a_driver_the_remedy_is_named(cache: Path, tmp_path: Path) -> None:
    for part in cache.glob("opencl-kit-*"):
        part.unlink()
    (tmp_path / "none").mkdir()
    done = _python(DEVICE_NAME, MBV3C_CACHE=str(cache), OCL_ICD_VENDORS=str(tmp_path / "none"))
    assert done.returncode == 1
    assert "ToolError: OpenCL" in done.stderr
    assert "apt install pocl-opencl-icd" in done.stderr
    assert "mbv3c doctor --fetch" in done.stderr


# ---- TVM's autoload ----


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """Return a Python path on which the entry points of pyproject.toml are installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = project["entry-points"]["tvm.backends"]
    info = tmp_path / "site" / "mbv3c_entry_points-1.dist-info"
    info.mkdir(parents=True)
    lines = ["[tvm.backends]", *(f"{name} = {place}" for name, place in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mbv3c-entry-points\nVersion: 1\n")
    return f"{ROOT}:{info.parent}"


EXISTS = "import tvm; print(tvm.device('opencl', 0).exist)"


def test_tvm_loads_the_runtime_by_itself(installed: str) -> None:
    done = _python(EXISTS, PYTHONPATH=installed)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_importing_tvm_builds_and_opens_nothing(installed: str, tmp_path: Path) -> None:
    code = "import tvm; print([line for line in open('/proc/self/maps') if 'pocl' in line])"
    assert _python(code, PYTHONPATH=installed).stdout == "[]\n"
    empty = tmp_path / "empty"
    done = _python(EXISTS, PYTHONPATH=installed, MBV3C_CACHE=str(empty))
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert not empty.exists()


def test_tvm_comes_up_with_a_broken_plugin(installed: str, cache: Path) -> None:
    plugin = provide_plugin(print).relative_to(cache_root())
    (cache / plugin.parts[0]).unlink()
    (cache / plugin).parent.mkdir(parents=True)
    (cache / plugin).write_bytes(b"no library")
    done = _python(EXISTS, PYTHONPATH=installed, MBV3C_CACHE=str(cache))
    assert (done.stdout, done.stderr) == ("False\n", "")


# ---- RPC ----


@pytest.fixture
def server(installed: str, tmp_path: Path) -> Iterator[int]:
    """Return the port of TVM's RPC server on this machine, which loads the runtime by itself."""
    log = tmp_path / "server.log"
    command = ["-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", "--port", "19290"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command, "--port-end", "19390"],
            env={**os.environ, "PYTHONPATH": installed},
            stdout=file,
            stderr=file,
            process_group=0,
        )
    try:
        deadline = time.monotonic() + 60
        while "bind to" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield int(log.read_text().split("bind to 127.0.0.1:")[1].split()[0])
    finally:
        end(process)  # its child, too, which would stay


def test_relax_vm_behind_rpc(server: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((modules.CHANNELS, modules.CLASSES), np.float32)
    path = modules.export(modules.classifier(weight), tmp_path / "classifier.so")
    remote = rpc.connect("127.0.0.1", server, session_timeout=120)
    remote.upload(bytearray(path.read_bytes()), path.name)
    device = remote.device("opencl", 0)
    assert device.exist
    machine = relax.VirtualMachine(remote.load_module(path.name), device)
    for _ in range(2):
        x = rng.standard_normal((1, modules.CHANNELS, 6, 6), np.float32)
        machine.set_input("main", tvm.runtime.tensor(x, device))
        machine.invoke_stateful("main")
        y = machine.get_outputs("main").numpy()
        np.testing.assert_allclose(y, modules.classify(x, weight), atol=1e-6)
    counted = json.loads(remote.get_function("mbv3c.opencl.counters")())
    assert counted["launches"] >= 4
    with pytest.raises(tvm.error.RPCError, match=r"allocating .* bytes on"):
        tvm.runtime.empty((2**48,), "float32", device)


def test_emulated_half_behind_rpc(server: int, tmp_path: Path) -> None:
    path = modules.export(modules.scale(0.1, 64, "float16"), tmp_path / "scale.so")
    remote = rpc.connect("127.0.0.1", server, session_timeout=120)
    remote.upload(bytearray(path.read_bytes()), path.name)
    device = remote.device("opencl", 0)
    x = X.astype(np.float16)
    y = tvm.runtime.empty((64,), "float16", device)
    remote.load_module(path.name)["scale"](tvm.runtime.tensor(x, device), y)
    np.testing.assert_array_equal(y.numpy(), x * np.float16(0.1))


def test_plugin_builds_anew(cache: Path) -> None:
    """zig brings all that the build needs, also where the system has no compiler."""
    for part in cache.glob("opencl-runtime-*"):
        part.unlink()
    (cache / "zig").symlink_to(cache_root() / "zig")
    path = str(Path(shutil.which("uname") or "/bin/uname").parent.parent / "no-programs")
    done = _python(DEVICE_NAME, MBV3C_CACHE=str(cache), PATH=path)
    assert done.stdout == "Portable Computing Language\n", done.stderr
