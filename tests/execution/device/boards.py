"""An emulated aarch64 board with a Python of its own: Debian's, and TVM's aarch64 wheels."""

import hashlib
import sys
from importlib import metadata
from pathlib import Path

from mbv3c.atomic import new_folder
from mbv3c.execution.cache import cache_root, unpack_packages
from mbv3c.execution.emulator.kit import WHEEL_PLATFORMS, EmulatorKit, emulator_command
from mbv3c.execution.processes import require

ROOT = Path(__file__).parents[3]
CPUINFO = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n"
DEBIAN = ("python3", "libgomp1", "libstdc++6")
PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "click", "typing-extensions", "ml-dtypes")


def provide_board() -> Path:
    """Fetch the board unless it is in the cache: 110 MB to download, 250 MB on disk."""
    wanted = [f"{name}=={metadata.version(name)}" for name in PACKAGES]
    recipe = " ".join((*wanted, *DEBIAN, CPUINFO))
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folder = cache_root() / f"board-aarch64-{digest}"
    if folder.is_dir():
        return folder
    with new_folder(folder, force=False) as new:
        root = new / "root"
        unpack_packages(root, "arm64", DEBIAN, print)
        (root / "proc").mkdir()
        (root / "proc" / "cpuinfo").write_text(CPUINFO)
        version = python_of(new).name.removeprefix("python")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version]
        command += [part for one in WHEEL_PLATFORMS for part in ("--platform", one)]
        command += ["--target", str(new / "site"), *wanted]
        require(command, doing="downloading wheels", remedy="check the network", timeout=1800)
        (new / "site" / "tvm" / "lib" / "libtvm_compiler.so").unlink()  # a server compiles nothing
    return folder


def python_of(folder: Path) -> Path:
    return min((folder / "root" / "usr" / "bin").glob("python3.[0-9]*"))


def board_python(kit: EmulatorKit, folder: Path, cpu: str) -> tuple[str, ...]:
    """Return the command that starts the board's Python; `-m` and a module go behind."""
    settings = {
        "PYTHONPATH": f"{folder / 'site'}:{ROOT}",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return (
        *(*emulator_command(kit.system), "-cpu", cpu, "-L", str(folder / "root")),
        *("-U", "LD_LIBRARY_PATH", "-U", "LD_PRELOAD", "-U", "PYTHONHOME"),
        *(part for name, value in settings.items() for part in ("-E", f"{name}={value}")),
        *(str(python_of(folder)), "-s"),
    )
