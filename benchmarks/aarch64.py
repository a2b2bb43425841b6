"""onnxruntime, ncnn and LiteRT on an emulated aarch64 machine with a Python of its own.

Everything goes to mbv3c's cache: Debian's Python for arm64, the runtimes' aarch64 wheels, and
pnnx, which converts ONNX to ncnn's format on this machine.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from mbv3c.atomic import new_folder
from mbv3c.bundle import GOLDEN_INPUT, GOLDEN_OUTPUT
from mbv3c.errors import ToolError
from mbv3c.execution.cache import cache_root, unpack_packages
from mbv3c.execution.emulator.counting import VECTOR_FMLA, Count, count
from mbv3c.execution.emulator.kit import WHEEL_PLATFORMS, EmulatorKit, emulator_command
from mbv3c.execution.processes import require
from mbv3c.parity.reference import error_of_range

NCNN, PNNX = "1.0.20261020", "20261020"

_INFERENCES, _WARM = 6, 2
_LARGEST_SPREAD = 0.03
_SAME = {"fp32": 1e-4, "int8": 0.3}  # of the range: what no other network comes to
_HERE = Path(__file__).parent
_PACKAGES = {"LiteRT": "ai-edge-litert"}  # of what is called otherwise
_DEBIAN = ("python3", "libgomp1", "libstdc++6")
_REMEDY = "check the network and pip's settings, then run it again"
# onnxruntime reads this file to know the processor; that of the host makes it crash.
_CPUINFO = """\
processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


@dataclass(frozen=True)
class Machine:
    """An emulated machine with Python.

    Attributes:
        kit: the emulator and its counter.
        folder: `root`, `site` (aarch64 packages), `pnnx`, `marks.so`.
    """

    kit: EmulatorKit
    folder: Path

    @property
    def python(self) -> Path:
        return _python_of(self.folder / "root")


@dataclass(frozen=True)
class Executed:
    """What one inference of a bundle's golden input executed.

    Attributes:
        instructions: all of them.
        fmla: the vector multiply-adds among them.
        error: of the output against onnxruntime's in fp32, of the range.
    """

    instructions: int
    fmla: int
    error: float


def versions() -> dict[str, str]:
    """Return the versions of the runtimes, of all but ncnn those that are installed here."""
    return {
        "onnxruntime": metadata.version("onnxruntime"),
        "ncnn": NCNN,
        "LiteRT": metadata.version("ai-edge-litert"),
    }


def provide(kit: EmulatorKit, progress: Callable[[str], None]) -> Machine:
    """Fetch the machine unless it is there, about 130 MB; needs Debian's sources and PyPI."""
    wanted = [f"{_PACKAGES.get(name, name)}=={its}" for name, its in versions().items()]
    wanted.append(f"numpy=={metadata.version('numpy')}")
    recipe = " ".join((*wanted, PNNX, _CPUINFO, (_HERE / "marks.c").read_text()))
    name = f"bench-aarch64-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    folder = cache_root() / name
    if folder.is_dir():
        return Machine(kit, folder)
    with new_folder(folder, force=False) as new:
        root = new / "root"
        unpack_packages(root, "arm64", _DEBIAN, progress)
        (root / "proc").mkdir()
        (root / "proc" / "cpuinfo").write_text(_CPUINFO)
        python = _python_of(root).name.removeprefix("python")
        progress(f"downloading {', '.join(wanted)} for aarch64 and pnnx (about 95 MB)")
        platforms = [part for one in WHEEL_PLATFORMS for part in ("--platform", one)]
        selection = ["--implementation", "cp", "--python-version", python, *platforms]
        _pip(new / "site", *selection, *wanted)
        _pip(new / "pnnx", f"pnnx=={PNNX}")
        require(
            [
                *(sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"),
                *("-nostdlib", "-shared", "-fPIC", "-O2", "-s", str(_HERE / "marks.c")),
                *("-o", str(new / "marks.so")),
            ],
            doing="building the markers",
            remedy="install the linker with `pip install ziglang`",
            timeout=600,
        )
    return Machine(kit, folder)


def _python_of(root: Path) -> Path:
    found = sorted((root / "usr" / "bin").glob("python3.[0-9]*"))
    if not found:
        raise ToolError("the Debian package python3 for arm64 brought no interpreter")
    return found[0]


def _pip(target: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--target", str(target), *arguments]
    require([*command, *options], doing="downloading wheels", remedy=_REMEDY, timeout=1800)


def to_ncnn(machine: Machine, model: Path) -> None:
    """Write MODEL.ncnn.param and .bin beside an ONNX file, weights in fp32."""
    program = machine.folder / "pnnx" / "pnnx" / "pnnx"
    program.chmod(0o755)
    remedy = "see what pnnx says"
    command = [program, model.name, "fp16=0"]
    require(command, doing="converting to ncnn", remedy=remedy, timeout=600, folder=model.parent)


def count_runtime(
    machine: Machine,
    cpu: str,
    runtime: str,
    precision: str,
    model: Path,
    bundle: Path,
    inferences: int = _INFERENCES,
) -> Executed:
    """Count the instructions of one inference of another runtime.

    Unlike ours they differ from inference to inference, with the memory that each gets: the least
    of those after the first two is what counts.

    Args:
        machine: where it runs.
        cpu: the processor to emulate, in qemu's words.
        runtime: onnxruntime, ncnn or LiteRT.
        precision: as guest.py has it; int8 is that of a quantized model.
        model: the ONNX file; for the others the files beside it. The output goes to RUNTIME.npy
            there.
        bundle: its golden files are the input and what the output is compared with.
        inferences: how many are run, the first two among them.
    """
    output = model.parent / f"{runtime}.npy"
    counted = _counted(machine, cpu, (runtime, precision), model, bundle, inferences)
    warm = counted.regions[_WARM:]
    if max(warm) - min(warm) > _LARGEST_SPREAD * min(warm):
        raise ToolError(f"the inferences of {runtime} executed {counted.regions} instructions")
    error = error_of_range(np.load(output), np.load(bundle / GOLDEN_OUTPUT))
    return Executed(min(warm), counted.classes()[VECTOR_FMLA], error)


def count_loading(
    machine: Machine,
    cpu: str,
    runtime: str,
    precision: str,
    model: Path,
    bundle: Path,
) -> int:
    """Count the instructions from opening a model to its first result.

    The arguments are those of `count_runtime`.
    """
    counted = _counted(machine, cpu, (runtime, precision), model, bundle, 0)
    made, wanted = np.load(model.parent / f"{runtime}.npy"), np.load(bundle / GOLDEN_OUTPUT)
    if error_of_range(made, wanted) > _SAME[precision]:
        raise ToolError(f"the first result of {runtime} is not the model's")
    return counted.instructions


def _counted(
    machine: Machine,
    cpu: str,
    asked: tuple[str, str],
    model: Path,
    bundle: Path,
    inferences: int,
) -> Count:
    """Run a runtime in a precision; its last output goes to RUNTIME.npy beside the model."""
    runtime, precision = asked
    root, site = machine.folder / "root", machine.folder / "site"
    given = model.with_suffix({"ncnn": "", "LiteRT": ".tflite"}.get(runtime, model.suffix))
    output = model.parent / f"{runtime}.npy"
    settings = {
        "PYTHONPATH": site,
        "PYTHONHASHSEED": 0,
        "OMP_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
    }
    return count(
        lambda plugin: [
            *(*emulator_command(machine.kit.system), "-cpu", cpu, *plugin, "-L", str(root)),
            *("-U", "LD_LIBRARY_PATH", "-U", "LD_PRELOAD", "-U", "PYTHONHOME"),
            *(part for name, value in settings.items() for part in ("-E", f"{name}={value}")),
            *(machine.python, "-s", _HERE / "guest.py", runtime, precision, given),
            *(bundle / GOLDEN_INPUT, output, machine.folder / "marks.so", str(inferences)),
        ],
        machine.kit,
        doing=f"counting the instructions of {runtime}",
    )
