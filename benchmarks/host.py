"""Latency on this machine beside onnxruntime and OpenVINO."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.networks import Network, build, compile_for
from mbv3c.execution.timing.latency import Ratio, Times, choose_cpus, interleave, ratio, times
from mbv3c.execution.timing.worker import BUNDLE, OTHERS, find_contender
from mbv3c.scratch import scratch_folder

RUNS = 300


@dataclass(frozen=True)
class Row:
    """One network on one number of threads.

    Attributes:
        times: by contender.
        ratios: of our time to that of each other.
        undisturbed: whether the machine did little else.
    """

    network: Network
    threads: int
    times: dict[str, Times]
    ratios: dict[str, Ratio]
    undisturbed: bool


def measure(
    networks: Sequence[Network], threads: Sequence[int], progress: Callable[[str], None]
) -> list[Row]:
    """Measure every network on every number of threads.

    Raises:
        UsageError: a runtime is not installed, or there are too few processors.
    """
    for other in OTHERS:
        find_contender(other)
    processors = {count: choose_cpus(count) for count in threads}
    rows = []
    for network in networks:
        graph = build(network)
        for count, cpus in processors.items():
            with scratch_folder("bench") as folder:
                progress(f"{network.name}, threads {count}")
                bundle = compile_for(graph, "host_cpu", count, folder, progress)
                progress("timing")
                turns = interleave((BUNDLE, *OTHERS), bundle, cpus, RUNS)
            blocks = turns.blocks
            ratios = {other: ratio(blocks[BUNDLE], blocks[other]) for other in OTHERS}
            timed = {side: times(measured) for side, measured in blocks.items()}
            rows.append(Row(network, count, timed, ratios, turns.undisturbed))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown; `?` stands where a ratio is uncertain."""
    lines = [
        "| network | threads | mbv3c | onnxruntime | OpenVINO | / onnxruntime | / OpenVINO |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row.times[side].median_ms:.2f} ms" for side in (BUNDLE, *OTHERS)]
        cells += [_ratio(row.ratios[other], row.undisturbed) for other in OTHERS]
        lines.append(f"| {row.network.name} | {row.threads} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(found: Ratio, undisturbed: bool) -> str:
    lower, upper = found.quartiles
    mark = "" if undisturbed and found.steady else " ?"
    return f"{found.median:.2f} ({lower:.2f}–{upper:.2f}){mark}"
