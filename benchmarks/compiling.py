"""What compiling takes: processor time and memory, with an empty cache and with a full one.

    python -m benchmarks.compiling [--networks small large] [--precisions fp32 int8] [--write]

Each is a command of its own, `mbv3c compile --no-verify`, untuned, for a Cortex-A76; int8 is
calibrated on random inputs. Processor time is that of the command with everything that it starts,
memory the peak of its largest process. The driver of libraries, which is compiled once for a
machine, is there already.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import replace_section
from mbv3c.execution.native.build import driver_for
from mbv3c.execution.native.kernels import FOLDER
from mbv3c.execution.timing.latency import processor_name
from mbv3c.scratch import scratch_folder
from mbv3c.targets import find_target
from mbv3c.targets.library.target import LibraryTarget

TITLE = "What compiling takes"
TARGET = "arm_cpu:cortex-a76"
NETWORKS, PRECISIONS = ("small", "large"), ("fp32", "int8")
_HEAD = """\
{date}, {processor}, one thread. The command:

    python -m benchmarks.compiling --write

runs `mbv3c compile --no-verify --tune-logs none --target {target}` with an empty cache of compiled
kernels (cold), and once more (warm). The two bundles are equal, byte for byte. Other programs ran
on the machine meanwhile, which raises processor time, too; memory does not depend on that.

| network | precision | cold | warm | warm / cold | peak memory cold | warm | kernels kept |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Took:
    """What a command took.

    Attributes:
        seconds: processor time of its processes.
        peak: bytes of memory of the largest of them.
    """

    seconds: float
    peak: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiling", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    head = _HEAD.format(
        date=time.strftime("%Y-%m-%d", time.gmtime()), processor=processor_name(), target=TARGET
    )
    lines = [head]
    print(head, flush=True)
    with scratch_folder("compiling") as folder:
        os.environ["MBV3C_CACHE"] = str(folder / "cache")
        target = find_target(TARGET)
        assert isinstance(target, LibraryTarget)
        driver_for(target.triple, folder)
        for network in arguments.networks:
            for precision in arguments.precisions:
                lines.append(_row(network, precision, folder))
                print(lines[-1], flush=True)
    if arguments.write:
        replace_section(TITLE, "\n".join(lines))


def _row(network: str, precision: str, folder: Path) -> str:
    """Compile a network twice, and write the line of the table."""
    objects = folder / "cache" / FOLDER
    shutil.rmtree(objects, ignore_errors=True)
    bundles = [folder / f"{network}-{precision}-{state}" for state in ("cold", "warm")]
    cold, warm = (_compiled(network, precision, bundle) for bundle in bundles)
    assert _contents(bundles[0]) == _contents(bundles[1])
    kept = list(objects.iterdir())
    size = sum(path.stat().st_size for path in kept)
    cells = (
        *(network, precision, f"{cold.seconds:.1f} s", f"{warm.seconds:.1f} s"),
        *(f"{warm.seconds / cold.seconds:.2f}", f"{cold.peak / 1e6:.0f} MB"),
        *(f"{warm.peak / 1e6:.0f} MB", f"{len(kept)}, {size / 1e3:,.0f} kB"),
    )
    return f"| {' | '.join(cells)} |"


def _compiled(network: str, precision: str, bundle: Path) -> Took:
    """Compile a network by a command of its own."""
    options = ["--no-verify", "--tune-logs", "none", "--quiet", "-o", str(bundle)]
    what = ["--variant", network, "--precision", precision, "--target", TARGET]
    return _took([sys.executable, "-m", "mbv3c", "compile", *what, *options])


def _took(command: Sequence[str]) -> Took:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {said}")
    return Took(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _contents(bundle: Path) -> dict[str, bytes]:
    files = (path for path in bundle.rglob("*") if path.is_file())
    return {str(path.relative_to(bundle)): path.read_bytes() for path in files}


if __name__ == "__main__":
    main()
