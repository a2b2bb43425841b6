"""How the work of a network is split among the cores of an emulated processor."""

import sys
from dataclasses import dataclass
from pathlib import Path

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY
from mbv3c.execution.emulator.counting import by_thread, count, functions
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.processes import require
from mbv3c.scratch import scratch_folder
from mbv3c.speed.profile import rebuild
from mbv3c.targets import open_bundle

_SOURCE = Path(__file__).with_name("processors.c")


@dataclass(frozen=True)
class Split:
    """The instructions that the kernels of a network execute in one inference.

    Attributes:
        cores: how many share the work.
        total: of all cores.
        longest: sum, over the kernels, of what the core with the most work executes; the others
            wait for it at the end of each kernel.
    """

    cores: int
    total: int
    longest: int


def split(kit: EmulatorKit, cpu: str, bundle: Path, cores: int) -> Split:
    """Count what the kernels of a bundle execute on each core.

    TVM's pool has one thread for each core, and gives each a fixed part of a kernel. Waiting in
    the pool is not counted.

    Args:
        kit: the emulator and the program that it runs.
        cpu: the processor to emulate, in qemu's words.
        bundle: a bundle that was compiled for that many cores.
        cores: 1 to 16.

    Raises:
        ToolError: the program fails.
    """
    with scratch_folder("cores") as folder, rebuild(open_bundle(bundle)) as rebuilt:
        _build(folder / "processors.so")
        pool = {"NUM_THREADS": cores, "THREAD_POOL_SPIN_COUNT": 0, "BIND_THREADS": 0}
        settings = [part for name, value in pool.items() for part in ("-E", f"TVM_{name}={value}")]
        settings += ["-E", f"LD_PRELOAD={folder / 'processors.so'}"]
        files = (rebuilt.folder / GOLDEN_INPUT, folder / "output.npy")

        def command(plugin: object) -> list[str]:
            *options, runner = kit.command(cpu, *plugin)
            return [*options, *settings, runner, "--repeat", "2", str(rebuilt.folder), *files]

        counted = count(command, kit, doing=f"counting on {cores} cores")
        parts = by_thread(counted, functions(rebuilt.folder / LIBRARY)).values()
    return Split(cores, sum(map(sum, parts)), sum(map(max, parts)))


def _build(library: Path) -> None:
    require(
        [
            *(sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"),
            *("-shared", "-fPIC", "-O2", "-s", str(_SOURCE), "-o", str(library)),
        ],
        doing="building what says the number of processors",
        remedy="install the linker with `pip install ziglang`",
        timeout=600,
    )
