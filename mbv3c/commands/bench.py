"""The command `mbv3c bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import Progress, echo, json_option, print_json
from mbv3c.commands.places import BUNDLE
from mbv3c.commands.trusting import place_and_trust, running_options
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from mbv3c.execution.device.place import Place
    from mbv3c.speed.measure import Instructions, Latency
    from mbv3c.trust import Trust


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--against",
    help="Compare with onnxruntime or openvino; on a device with onnxruntime or none.  "
    "[default: onnxruntime]",
)
@click.option(
    "--threads",
    type=int,
    help="Give both sides so many threads.  [default: the bundle's cores; on a device 1, 2, 4 …]",
)
@click.option("--runs", type=int, help="Time so many inferences of each side.  [default: 200]")
@click.option("--profile", is_flag=True, help="List every kernel, too.")
@click.option(
    "--pin",
    help="Stay on a device's big or little cores, or on processors such as 4-7.  [default: "
    "each cluster in turn]",
)
@click.option("--minutes", type=float, help="Run what was quickest on a device for so long, too.")
@running_options
@json_option
def bench(bundle: Path, as_json: bool, **given: Any) -> None:
    """Time a bundle beside another runtime; count its instructions where it runs emulated.

    With --device or --tracker it is timed there: how times are spread, by threads and clusters,
    with memory, temperature, clock and energy as far as the board tells.
    """
    place, trust = place_and_trust(given)
    if place is not None:
        _bench_there(bundle, given, place, trust, as_json=as_json)
        return
    refused = [f"--{name}" for name in ("pin", "minutes") if given.pop(name) is not None]
    if refused:
        belong = "belongs" if len(refused) == 1 else "belong"
        raise UsageError(f"{' and '.join(refused)} {belong} to --device or --tracker")
    if given["against"] is not None:
        from mbv3c.execution.timing.beside import check_other

        check_other(given["against"])
    from mbv3c.speed import measure
    from mbv3c.targets import open_bundle

    request = measure.BenchRequest(**given)
    opened = open_bundle(bundle, trust)
    shapes = measure.measure_shapes(opened, request, Progress())
    several = len(shapes) > 1
    if as_json:
        documents = {shape: measure.to_json(measured) for shape, measured in shapes.items()}
        _print_shapes(bundle, documents)
        return
    for shape, measured in shapes.items():
        if several:
            echo(f"for inputs of {shape}:")
        versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
        if isinstance(measured, measure.Latency):
            _print_latency(bundle, measured, versions)
        else:
            _print_instructions(bundle, measured, versions)


def _bench_there(
    bundle: Path, given: dict[str, Any], place: "Place", trust: "Trust", *, as_json: bool
) -> None:
    """Measure on a device, and print what that gave."""
    from mbv3c.commands.bench_device import device_lines
    from mbv3c.speed.device_request import DeviceBenchRequest

    if given.pop("profile"):
        raise UsageError(
            "--profile lists kernels here; on a device `mbv3c inspect MODEL --cost TARGET "
            "--device HOST:PORT` does"
        )
    request = DeviceBenchRequest(**given)
    request.check()
    from mbv3c.speed import on_device
    from mbv3c.targets import open_bundle

    opened = open_bundle(bundle, trust)
    shapes = on_device.measure_shapes_on_device(opened, request, place, Progress())
    if as_json:
        _print_shapes(bundle, {shape: found.to_json() for shape, found in shapes.items()})
        return
    for shape, found in shapes.items():
        if len(shapes) > 1:
            echo(f"for inputs of {shape}:")
        echo("\n".join(device_lines(found)))


def _print_shapes(bundle: Path, documents: dict[str, dict[str, Any]]) -> None:
    """Print what was measured as JSON: the first shape, and all where there are several."""
    from mbv3c.manifest import manifest_digest

    rows = [{"shape": shape, **document} for shape, document in documents.items()]
    first = next(iter(documents.values()))
    named = {"bundle": str(bundle), "bundle_sha256": manifest_digest(bundle)}
    print_json({**named, **first, **({"shapes": rows} if len(rows) > 1 else {})})


def _print_latency(bundle: Path, measured: "Latency", versions: str) -> None:
    wide = max(len(str(bundle)), len(measured.against)) + 2
    for name, times in ((str(bundle), measured.ours), (measured.against, measured.theirs)):
        echo(f"{name:<{wide}}median {times.median_ms:8.3f} ms, min {times.min_ms:8.3f} ms")
    lower, upper = measured.ratio.quartiles
    echo(
        f"ratio {measured.ratio.median:.3f} (quartiles {lower:.3f} to {upper:.3f}; below 1 is "
        f"faster than {measured.against}), {measured.runs} runs each, threads {measured.threads}"
    )
    if not measured.undisturbed:
        echo(
            f"the machine was busy ({measured.interruptions} interruptions): times and ratio are "
            "uncertain, measure again when it is idle"
        )
    echo(f"{measured.cpu}; {versions}")
    if measured.kernels is None:
        return
    echo(f"\n{'kernel':<20}{'us':>9}{'share':>7}{'GFLOP/s':>9}  nodes")
    for call in measured.kernels:
        echo(
            f"{call.kernel:<20}{call.us:>9.1f}{call.share:>7.1%}{call.gflops:>9.1f}  "
            f"{_first_of(call.nodes)}"
        )
    echo(f"{'sum':<20}{sum(call.us for call in measured.kernels):>9.1f}")


def _print_instructions(bundle: Path, measured: "Instructions", versions: str) -> None:
    echo(
        f"{bundle}: {measured.executed:,} instructions executed per inference, on one core of an "
        f"emulated {measured.cpu}"
    )
    for name, executed in (measured.classes or {}).items():
        echo(f"{name:<16}{executed:>14,}{executed / measured.executed:>8.1%}")
    echo(f"counted, not timed: emulation says nothing about time; {versions}")
    if measured.kernels is None:
        return
    cycles = measured.cycles
    heads = f"{'calls':>7}{'instructions':>14}{'share':>7}{'madds/instr':>12}"
    estimated = f"{'est. cycles':>13}{'share':>7}" if cycles else ""
    echo(f"\n{'kernel':<20}{heads}{estimated}  nodes")
    for kernel in measured.kernels:
        if cycles:
            of = kernel.estimated_cycles or 0
            estimated = f"{of:>13,}{of / cycles.total:>7.1%}"
        echo(
            f"{kernel.kernel:<20}{kernel.calls:>7}{kernel.instructions:>14,}{kernel.share:>7.1%}"
            f"{kernel.madds_per_instruction:>12.2f}{estimated}  {_first_of(kernel.nodes)}"
        )
    if measured.classes is None:
        echo("no cycles are estimated for this processor")
        return
    if cycles is None:
        from mbv3c.execution.emulator.llvm import LLVM_REMEDY

        echo(f"no cycles estimated: llvm-mca is not here; {LLVM_REMEDY}")
        return
    echo(
        f"estimated, not measured: {cycles.total:,} cycles per inference, by {cycles.model}; "
        "caches are not modelled"
        + (f"; {cycles.left_out:,} instructions left out" if cycles.left_out else "")
    )


def _first_of(nodes: tuple[str, ...]) -> str:
    return f"{nodes[0]} and {len(nodes) - 1} more" if len(nodes) > 1 else "".join(nodes)
