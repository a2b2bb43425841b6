"""What the tuning databases that come with mbv3c save: the same network with them and without."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.networks import Graph, Network, build
from mbv3c.execution.emulator import kit as toolbox
from mbv3c.execution.emulator.counting import count_bundle
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.timing.latency import choose_cpus, ratio, take_turns, times
from mbv3c.execution.timing.worker import BUNDLE
from mbv3c.job import Job
from mbv3c.lowering.plan import DEFAULT, NO_CHOICES, TRANSFERRED, TUNED, Choices
from mbv3c.pipeline import compile_model
from mbv3c.scratch import scratch_folder
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.devices import CPUS, CpuTarget
from mbv3c.targets.cpu.isa import missing
from mbv3c.targets.library.building import best_known
from mbv3c.targets.library.manifest import manifest_of
from mbv3c.tuning.choices import shipped

NETWORKS = tuple(
    Network(variant, width, 224) for variant in ("large", "small") for width in (1.0, 0.75)
)
EMULATED = ("arm_cpu:cortex-a76", "arm_cpu:cortex-a55")
TIMED = ("host_cpu:avx512", "host_cpu:avx2")
RUNS = 2000


@dataclass(frozen=True)
class Row:
    """One network on one device.

    Attributes:
        origins: calls of kernels whose choices are tuned, transferred and default.
        before, after: without the database and with it: millions of instructions, or milliseconds.
        ratio: of the two; of times the median over the blocks.
        quartiles: of the ratio of times, over the blocks; None of what was counted.
    """

    network: Network
    device: str
    origins: Counter[str]
    before: float
    after: float
    ratio: float
    quartiles: tuple[float, float] | None = None


def measure(networks: Sequence[Network], progress: Callable[[str], None]) -> list[Row]:
    """Count or time every network on every device that is here, emulated or not.

    Raises:
        ToolError: a part cannot be fetched, or a library does not run.
    """
    kit = toolbox.fetch(progress)
    devices = {cpu.name: replace(cpu, cores=1) for cpu in CPUS}
    here = [name for name in TIMED if not missing(devices[name])]
    rows = []
    for network in networks:
        graph = build(network)
        for name in (*EMULATED, *here):
            progress(f"{network.name}, {name}")
            rows.append(_row(kit, network, graph, devices[name]))
    return rows


def _row(kit: EmulatorKit, network: Network, graph: Graph, target: CpuTarget) -> Row:
    with scratch_folder("bench") as folder:
        folders = [folder / side for side in ("default", "tuned")]
        sides: tuple[Choices, ...] = (NO_CHOICES, best_known(BACKEND, target, [shipped()]))
        compiled = [
            compile_model(graph.model, Job(target, choices=choices), folder)
            for folder, choices in zip(folders, sides, strict=True)
        ]
        kernels = manifest_of(compiled[1].bundle).kernels
        origins = Counter(kernel.origin for kernel in kernels if kernel.origin)
        if not target.emulated_as:
            return _timed(network, target, origins, folders)
        before, after = (
            count_bundle(kit, target.emulated_as, folder).instructions / 1e6 for folder in folders
        )
    return Row(network, target.name, origins, before, after, after / before)


def _timed(
    network: Network, target: CpuTarget, origins: Counter[str], folders: Sequence[Path]
) -> Row:
    contenders = {folder.name: (BUNDLE, folder) for folder in folders}
    default, tuned = take_turns(contenders, choose_cpus(1), RUNS).blocks.values()
    found = ratio(tuned, default)
    before, after = (times(one).median_ms for one in (default, tuned))
    return Row(network, target.name, origins, before, after, found.median, found.quartiles)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as tables in Markdown, of what was counted and of what was timed."""
    counted = [row for row in rows if row.device in EMULATED]
    timed = [row for row in rows if row.device in TIMED]
    parts = [
        _table(counted, "default, M", "tuned, M"),
        _table(timed, "default, ms", "tuned, ms"),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(rows: Sequence[Row], *columns: str) -> str:
    if not rows:
        return ""
    before, after = columns
    lines = [
        f"| network | device | tuned | transferred | default | {before} | {after} | ratio |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        cells = [row.network.name, row.device]
        cells += [str(row.origins[one]) for one in (TUNED, TRANSFERRED, DEFAULT)]
        cells += [f"{one:.2f}" for one in (row.before, row.after)]
        spread = " ({:.3f} to {:.3f})".format(*row.quartiles) if row.quartiles else ""
        cells.append(f"{row.ratio:.3f}{spread}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
