"""How a network's cost grows, beside others: per multiply-add, and from core to core.

    python -m benchmarks.growth [--only time instructions cores] [--networks small large] [--write]

MobileNetV3 in fp32 over widths, image sizes and batches. `time`: mbv3c, onnxruntime and LiteRT
compute one graph and input in turns, in one thread of one process of this machine. `instructions`:
what they and ncnn execute on an emulated Cortex-A76. `cores`: how the kernels' instructions are
split among 1 to 8 of its cores. All outputs are compared. `--write` puts tables into
benchmarks/RESULTS.md, and draws docs/growth.svg from them.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import aarch64
from benchmarks.contenders import LITERT, write_file
from benchmarks.cores import split
from benchmarks.networks import Network, build, compile_for
from benchmarks.picture import rows, section
from benchmarks.results import RESULTS, replace_section
from mbv3c.bundle import GOLDEN_INPUT, GOLDEN_OUTPUT
from mbv3c.errors import ToolError
from mbv3c.execution.emulator import kit as toolbox
from mbv3c.execution.emulator.counting import count_bundle
from mbv3c.execution.host import arrays
from mbv3c.execution.timing.latency import processor_name
from mbv3c.execution.timing.worker import BUNDLE, CONTENDERS
from mbv3c.figures import write_panels
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import count, layers_with_weights, tensor_shapes
from mbv3c.parity.reference import error_of_range
from mbv3c.scratch import scratch_folder
from mbv3c.targets import open_bundle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIME, INSTRUCTIONS, CORES = "time", "instructions", "cores"
TITLES = {
    TIME: "How time grows",
    INSTRUCTIONS: "How instructions grow",
    CORES: "How work is split among cores",
}
PICTURE = Path(__file__).parents[1] / "docs" / "growth.svg"
VARIANTS = ("large", "small")
TIMED = (BUNDLE, "onnxruntime", LITERT)
COUNTED = (BUNDLE, "ncnn", LITERT)
NUMBERS_OF_CORES = (1, 2, 4, 8)
_TARGET, _CPU = "arm_cpu:cortex-a76", "cortex-a76"
_SHOWN = {BUNDLE: "mbv3c"}
_COLOURS = {
    "mbv3c": "tab:blue",
    "onnxruntime": "tab:gray",
    "ncnn": "tab:green",
    LITERT: "tab:orange",
}
_LARGEST_ERROR = 1e-4  # of the range, in fp32
_INFERENCES = 4  # of another runtime, in the emulator
_NETWORK = ("network", "width", "pixels", "batch", "million multiply-adds")

# Each axis alone, from the network that all results are about.
AXES: dict[str, tuple[float, ...]] = {
    "width": (0.35, 0.5, 0.75, 1.0, 1.25),
    "pixels": (96, 160, 224, 320, 416, 512),
    "batch": (1, 2, 4, 8, 16),
}


def along(variant: str, axis: str) -> list[Network]:
    """Return the networks of an axis."""
    networks = {
        "width": lambda value: Network(variant, value, 224),
        "pixels": lambda value: Network(variant, 1.0, value),
        "batch": lambda value: Network(variant, 1.0, 224, value),
    }
    return [networks[axis](value) for value in AXES[axis]]


def networks(variant: str) -> list[Network]:
    """Return the networks of all axes, each once."""
    return list(dict.fromkeys(one for axis in AXES for one in along(variant, axis)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*TITLES], choices=[*TITLES])
    parser.add_argument("--networks", nargs="*", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and the picture")
    arguments = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = "1"
    measure: dict[str, Callable[[str], Iterable[list[str]]]] = {
        TIME: lambda variant: (time_of(one, arguments.turns) for one in networks(variant)),
        INSTRUCTIONS: lambda variant: map(instructions_of, networks(variant)),
        CORES: split_of,
    }
    said = {TIME: _said_of_time(arguments.turns), INSTRUCTIONS: _COUNTED_SO, CORES: _SPLIT_SO}
    for kind in arguments.only:
        lines = head(kind)
        print("\n".join(lines), flush=True)
        for variant in arguments.networks:
            for cells in measure[kind](variant):
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], flush=True)
        if arguments.write:
            today = time.strftime("%Y-%m-%d")
            replace_section(TITLES[kind], "\n".join([f"{today}, {said[kind]}", "", *lines]))
    if arguments.write:
        draw(RESULTS.read_text())


def head(kind: str) -> list[str]:
    """Return the first two lines of a table."""
    if kind == CORES:
        titles = ["network", "cores", "million instructions", "of the longest parts", "speed-up"]
    else:
        sides = [_SHOWN.get(side, side) for side in (TIMED if kind == TIME else COUNTED)]
        shares = ["depthwise", "weights, bytes"] if kind == TIME else []
        titles = [*_NETWORK, *shares, *sides, *(f"/ {one}" for one in sides[1:])]
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def _said_of_time(turns: int) -> str:
    versions = (f"{name} {version(name)}" for name in ("onnxruntime", "ai-edge-litert"))
    return f"""\
{processor_name()}; {", ".join(versions)}.
`python -m benchmarks.growth --only time --write`: MobileNetV3, fp32, random weights, one thread.
Picoseconds of processor time per multiply-add, medians of {turns} turns, and medians of the turns'
ratios, on a machine with other work. *depthwise* is the share of multiply-adds in depthwise
convolutions; *weights, bytes* is what is read of weights per multiply-add."""


_COUNTED_SO = """\
qemu-user emulating cortex-a76.
`python -m benchmarks.growth --only instructions --write`: the networks of the table above.
Instructions executed per multiply-add, one thread. **Counted, not timed.** ncnn computes one image
at a time."""

_SPLIT_SO = """\
qemu-user emulating cortex-a76.
`python -m benchmarks.growth --only cores --write`: 224 px, compiled with `--cores`.
Instructions of the kernels, of all cores, and the sum over the kernels of what the core with the
most work executes, for which the others wait. The speed-up is what that sum alone allows: waiting,
memory and waking threads are not in it. Others give parts to whichever thread is free, which the
emulator does not tell. **Counted, not timed.**"""


def _cells(network: Network, madds: int) -> list[str]:
    cells = [network.variant, f"{network.width:g}", f"{network.resolution}", f"{network.batch}"]
    return [*cells, f"{madds / 1e6:.1f}"]


def time_of(network: Network, turns: int) -> list[str]:
    """Return the row of a network in the table of times."""
    built = build_model(network.spec)
    counted = count(built)
    with scratch_folder("growth") as folder:
        graph = build(network)
        bundle = compile_for(graph, "host_cpu", 1, folder, lambda _: None, verify=False)
        write_file(graph.model, bundle)
        x, wanted = np.load(bundle / GOLDEN_INPUT), np.load(bundle / GOLDEN_OUTPUT)
        runs = [CONTENDERS[side].open(bundle, x, 1, "cpu") for side in TIMED]
        _check(arrays(runs[0]())[0], wanted)
        times = np.array([[_time(run) for run in runs] for _ in range(turns)])
    cells = [*_cells(network, counted.madds), f"{_depthwise(built) / counted.madds:.1%}"]
    cells.append(f"{4 * counted.params / counted.madds:.3f}")
    cells += [f"{one * 1e12 / counted.madds:.1f}" for one in np.median(times, axis=0)]
    return cells + [f"{np.median(times[:, 0] / times[:, at]):.2f}" for at in (1, 2)]


def _depthwise(model: onnx.ModelProto) -> int:
    """Return the multiply-adds of depthwise convolutions."""
    layers = layers_with_weights(model, tensor_shapes(model))
    return sum(
        madds
        for node, madds in layers
        for one in node.attribute
        if one.name == "group" and one.i > 1
    )


def _check(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    error = error_of_range(found, wanted)
    if not error <= _LARGEST_ERROR:
        raise ToolError(f"mbv3c is {error:.1e} of the range off; at most {_LARGEST_ERROR:.0e}")


def _time(run: Callable[[], object]) -> float:
    """Return the processor time of an inference, the second of two."""
    run()
    begun = time.thread_time()
    run()
    return time.thread_time() - begun


def instructions_of(network: Network) -> list[str]:
    """Return the row of a network in the table of instructions."""
    graph = build(network)
    machine = aarch64.provide(toolbox.fetch(_quiet), _quiet)
    with scratch_folder("growth") as folder:
        bundle = compile_for(graph, _TARGET, 1, folder, _quiet, verify=False)
        model = folder / "model.onnx"
        onnx.save(onnx.load(open_bundle(bundle).model), model)
        write_file(graph.model, bundle)
        counts: dict[str, int] = {BUNDLE: count_bundle(machine.kit, _CPU, bundle).instructions}
        if network.batch == 1:
            aarch64.to_ncnn(machine, model)
        for runtime in COUNTED[1:]:
            if runtime == "ncnn" and network.batch > 1:
                continue
            executed = aarch64.count_runtime(
                machine, _CPU, runtime, "fp32", model, bundle, _INFERENCES
            )
            if executed.error > _LARGEST_ERROR:
                raise ToolError(f"{runtime} is {executed.error:.1e} of the range off")
            counts[runtime] = executed.instructions
    cells = _cells(network, graph.madds)
    cells += [f"{counts[one] / graph.madds:.3f}" if one in counts else "" for one in COUNTED]
    return cells + [
        f"{counts[BUNDLE] / counts[one]:.3f}" if one in counts else "" for one in COUNTED[1:]
    ]


def split_of(variant: str) -> Iterable[list[str]]:
    """Yield the rows of a network in the table of cores."""
    kit, network = toolbox.fetch(_quiet), Network(variant, 1.0, 224)
    graph, alone = build(network), 0
    for cores in NUMBERS_OF_CORES:
        with scratch_folder("growth") as folder:
            bundle = compile_for(graph, _TARGET, cores, folder, _quiet, verify=False)
            found = split(kit, _CPU, bundle, cores)
        alone = alone or found.longest
        cells = [f"{one / 1e6:.2f}" for one in (found.total, found.longest)]
        yield [variant, f"{cores}", *cells, f"{alone / found.longest:.2f}"]


def _quiet(_: str) -> None:
    """Say nothing."""


def draw(results: str, path: Path = PICTURE) -> None:
    """Draw what RESULTS.md says: a panel for each axis and kind, and one for the cores."""
    tables = {kind: _table(results, kind) for kind in TITLES}

    def panels(axes: "Sequence[Axes]") -> None:
        left = iter(axes)
        for kind, unit in ((TIME, "ps"), (INSTRUCTIONS, "instructions")):
            for name in AXES:
                axis = next(left)
                _panel(axis, name, tables[kind])
                axis.set_ylabel(unit)
                if name == next(iter(AXES)):
                    where = "this machine" if kind == TIME else "emulated Cortex-A76"
                    axis.set_title(f"{kind} per multiply-add, {where}, fp32", loc="left")
                    axis.legend(fontsize=8, ncols=3)
        _cores(next(left), tables[CORES])

    write_panels(path, [2.4] * (2 * len(AXES) + 1), panels, force=True)


Table = list[dict[str, str]]


def _table(results: str, kind: str) -> Table:
    head, *body = rows(section(results, TITLES[kind]))
    return [dict(zip(head, row, strict=True)) for row in body]


def _panel(axis: "Axes", name: str, table: Table) -> None:
    for side, colour in _COLOURS.items():
        if side not in table[0]:
            continue
        for variant, line in (("large", "-"), ("small", "--")):
            found = {tuple(row[key] for key in _NETWORK[:4]): row[side] for row in table}
            keys = [tuple(_cells(one, 0)[:4]) for one in along(variant, name)]
            points = [(at, float(found[key])) for at, key in enumerate(keys) if found.get(key)]
            if len(points) > 1:
                label = f"{side}, {variant.capitalize()}"
                axis.plot(
                    *zip(*points, strict=True), line, color=colour, marker="o", ms=3, label=label
                )
    axis.set_xticks(range(len(AXES[name])), [f"{value:g}" for value in AXES[name]])
    axis.set_xlabel(name)
    axis.set_ylim(bottom=0)
    axis.grid(visible=True, alpha=0.3)


def _cores(axis: "Axes", table: Table) -> None:
    axis.plot(NUMBERS_OF_CORES, NUMBERS_OF_CORES, ":", color="tab:gray", label="ideal")
    for variant, line in (("large", "-"), ("small", "--")):
        points = [
            (int(row["cores"]), float(row["speed-up"]))
            for row in table
            if row["network"] == variant
        ]
        if points:
            axis.plot(
                *zip(*points, strict=True),
                line,
                color="tab:blue",
                marker="o",
                ms=3,
                label=f"mbv3c, {variant.capitalize()}",
            )
    axis.set_title("speed-up that the split of instructions allows", loc="left")
    axis.set_xticks(NUMBERS_OF_CORES)
    axis.set_xlabel("cores")
    axis.set_ylim(bottom=0)
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    main()
