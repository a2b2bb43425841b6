"""Latency on this machine beside onnxruntime, OpenVINO and LiteRT."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.contenders import LITERT, MODULE, write_file
from benchmarks.networks import Network, build, compile_for
from mbv3c.execution.timing.latency import Ratio, Times, choose_cpus, ratio, take_turns, times
from mbv3c.execution.timing.worker import BUNDLE, OTHERS, find_contender
from mbv3c.scratch import scratch_folder

RUNS = 300
PEERS = (*OTHERS, LITERT)


@dataclass(frozen=True)
class Row:
    """One network on one number of threads.

    Attributes:
        times: by contender.
        ratios: of our time to that of each other.
        undisturbed: whether the machine did little else.
        litert_error: of LiteRT's output against onnxruntime's without optimisations, of the range.
    """

    network: Network
    threads: int
    times: dict[str, Times]
    ratios: dict[str, Ratio]
    undisturbed: bool
    litert_error: float


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
                error = write_file(graph.model, bundle)
                progress("timing")
                sides = {side: (side, bundle) for side in (BUNDLE, *PEERS)}
                turns = take_turns(sides, cpus, RUNS, module=MODULE)
            blocks = turns.blocks
            ratios = {other: ratio(blocks[BUNDLE], blocks[other]) for other in PEERS}
            timed = {side: times(measured) for side, measured in blocks.items()}
            rows.append(Row(network, count, timed, ratios, turns.undisturbed, error))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown; `?` stands where a ratio is uncertain."""
    lines = [
        "| network | threads | mbv3c | onnxruntime | OpenVINO | LiteRT "
        "| / onnxruntime | / OpenVINO | / LiteRT | error of LiteRT |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        cells = [f"{row.times[side].median_ms:.2f} ms" for side in (BUNDLE, *PEERS)]
        cells += [_ratio(row.ratios[other], row.undisturbed) for other in PEERS]
        cells.append(f"{row.litert_error:.1e}")
        lines.append(f"| {row.network.name} | {row.threads} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(found: Ratio, undisturbed: bool) -> str:
    lower, upper = found.quartiles
    mark = "" if undisturbed and found.steady else " ?"
    return f"{found.median:.2f} ({lower:.2f}–{upper:.2f}){mark}"
