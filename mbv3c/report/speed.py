"""How fast a bundle is: latency or instructions, beside others, and kernel by kernel."""

from collections.abc import Iterator, Sequence

from mbv3c.page import (
    EMULATED,
    ESTIMATED,
    MEASURED,
    Html,
    Table,
    element,
    how,
    joined,
    missing,
    picture,
    table,
)
from mbv3c.report.device import device_section
from mbv3c.report.documents import Bench
from mbv3c.report.roofline import Profile, Row, profile_of, roofline_picture
from mbv3c.report.subject import Subject

MOST_ROWS = 150


def speed_section(subject: Subject) -> Iterator[Html]:
    """Yield the latency or the instructions of a bundle, beside what it was measured beside."""
    yield element("h3", "Speed")
    if subject.evidence.layers:
        yield from _estimated(subject)
    for bench in subject.benches:
        if bench.instructions is not None:
            yield from _counted(subject, bench)
        elif bench.median_ms is not None:
            yield from _timed(subject, bench)
    for found in subject.on_devices:
        yield from device_section(subject, found)
    if not (subject.benches or subject.on_devices or subject.evidence.layers):
        yield missing(
            "Not measured. This gives it, for --bench:",
            *("bench", subject.path, "--profile", "--json"),
        )


def _estimated(subject: Subject) -> Iterator[Html]:
    cycles, limits = subject.evidence.cycles, subject.limits
    time = ""
    if limits is not None and limits.clock_mhz:
        milliseconds = cycles / limits.clock_mhz / 1e3
        time = f", {milliseconds:.3f} ms at {limits.clock_mhz:,.0f} MHz"
    yield element("p", f"{cycles:,.0f} cycles in an inference{time}.")
    yield how(ESTIMATED, f"by {subject.evidence.estimator}", "inspect", subject.path)


def _again(subject: Subject, bench: Bench) -> list[str]:
    line = ["bench", subject.path]
    if not bench.emulated:
        if bench.against:
            line += ["--against", bench.against]
        line += ["--threads", str(bench.threads)]
        line += [] if bench.runs is None else ["--runs", str(bench.runs)]
    return [*line, *(["--profile"] if bench.kernels else []), "--json"]


def _timed(subject: Subject, bench: Bench) -> Iterator[Html]:
    rows = [(subject.name, _ms(bench.median_ms), _ms(bench.min_ms))]
    if bench.against is not None:
        rows.append((bench.against, _ms(bench.against_median_ms), _ms(bench.against_min_ms)))
    yield table(Table("Time of an inference, ms", ("", "median", "least"), rows, numbers=True))
    if bench.ratio is not None and bench.against is not None:
        yield element("p", _ratio_text(bench))
    if bench.undisturbed is False:
        yield element("p", "The machine was busy: times and ratio are uncertain.", class_="bad")
    versions = ", ".join(f"{name} {version}" for name, version in bench.versions.items())
    where = f"on {bench.cpu}, {bench.threads} threads; {versions}"
    yield how(MEASURED, where, *_again(subject, bench))


def _ratio_text(bench: Bench) -> str:
    quartiles = ""
    if bench.ratio_quartiles is not None:
        low, high = bench.ratio_quartiles
        quartiles = f" (quartiles {low:.3f} to {high:.3f})"
    faster = "faster" if bench.ratio is not None and bench.ratio < 1 else "slower"
    return f"{bench.ratio:.3f} of the time of {bench.against}{quartiles}: {faster}."


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _counted(subject: Subject, bench: Bench) -> Iterator[Html]:
    yield element("p", f"{bench.instructions:,} executed instructions in an inference, one core.")
    yield how(
        EMULATED,
        f"on an emulated {bench.cpu}, which says nothing about time; beside other runtimes only "
        "a library that runs on the machine is timed",
        *_again(subject, bench),
    )
    if bench.estimated_cycles is not None:
        cycles = bench.estimated_cycles
        yield element("p", f"{cycles.total:,.0f} cycles in an inference, one core.")
        yield how(
            ESTIMATED,
            f"by {cycles.model}, which models no caches, from the counted instructions",
            *_again(subject, bench),
        )


def profile_section(subject: Subject) -> Iterator[Html]:
    """Yield the profile of a bundle, as a picture under the roofs of its device and as a table."""
    yield element("h3", "Layer by layer")
    bench = subject.profile
    if bench is None:
        if subject.evidence.layers:
            yield from _layer_estimates(subject)
            return
        yield missing(
            "No profile. This gives one, for --bench:",
            *("bench", subject.path, "--profile", "--json"),
        )
        return
    profile = profile_of(bench, subject.evidence.kernels, subject.limits)
    kind = (
        MEASURED
        if not bench.emulated
        else (ESTIMATED if bench.estimated_cycles is not None else EMULATED)
    )
    drawn = roofline_picture(profile, f"Roofline of {subject.name}")
    if drawn is not None:
        yield picture(drawn, _caption(profile, subject))
    if profile.roofs is None:
        yield element("p", f"No roofs are drawn: {profile.no_roofs}.", class_="missing")
    yield table(_profile_table(profile, bench))
    where = f"on {bench.cpu}"
    if kind == ESTIMATED and bench.estimated_cycles is not None:
        where = f"cycles by {bench.estimated_cycles.model}; instructions are emulated"
    elif kind == EMULATED:
        where = f"on an emulated {bench.cpu}"
    yield how(kind, where, *_again(subject, bench))


def _caption(profile: Profile, subject: Subject) -> str:
    source = ""
    if profile.roofs is not None and subject.limits is not None:
        source = f" Roofs: {subject.limits.source}."
    return (
        "Each dot is a kernel, the larger the more of the network it takes; bytes are of tensors, "
        f"each counted once.{source}"
    )


def _profile_table(profile: Profile, bench: Bench) -> Table:
    timed = not bench.emulated
    cycles = bench.estimated_cycles is not None
    own = ("us",) if timed else ("calls", "instructions", *(("cycles",) if cycles else ()))
    roofs = ("of the roof",) if profile.roofs is not None else ()
    head = ("kernel", *own, "share", "multiply-adds", "for a byte", profile.unit, *roofs)
    rows, left = _most(profile.rows)
    cells = [
        (
            _named(row),
            *_own(row, timed=timed, cycles=cycles),
            f"{row.kernel.share:.1%}",
            *_rest(row, profile),
        )
        for row in rows
    ]
    more = f"; {left} more kernels are left out, which take least" if left else ""
    return Table(f"The kernels, in the order of the network{more}", head, cells, numbers=True)


def _most(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Return the rows that take most, in the order of the network, and how many are left out."""
    shown = sorted(range(len(rows)), key=lambda at: -rows[at].kernel.share)[:MOST_ROWS]
    return [rows[at] for at in sorted(shown)], len(rows) - len(shown)


def _named(row: Row) -> Html:
    nodes = row.kernel.nodes
    more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
    said = f"{nodes[0]}{more}" if nodes else ""
    return joined([element("span", row.kernel.kernel), element("br"), element("small", said)])


def _own(row: Row, *, timed: bool, cycles: bool) -> list[str]:
    kernel = row.kernel
    if timed:
        return ["-" if kernel.us is None else f"{kernel.us:,.1f}"]
    counts = [kernel.calls, kernel.instructions, *([kernel.estimated_cycles] if cycles else [])]
    return ["-" if count is None else f"{count:,.0f}" for count in counts]


def _rest(row: Row, profile: Profile) -> list[str]:
    intensity, rate = row.intensity, row.rate
    cells = [
        f"{row.kernel.madds:,}",
        "-" if intensity is None else f"{intensity:.2f}",
        "-" if rate is None or not row.kernel.madds else f"{rate:.2f}",
    ]
    if profile.roofs is not None and (intensity is None or rate is None):
        cells.append("-")
    elif profile.roofs is not None and intensity is not None and rate is not None:
        cells.append(f"{rate / profile.roofs.over(intensity):.0%}")
    return cells


def _layer_estimates(subject: Subject) -> Iterator[Html]:
    layers, limits = subject.evidence.layers, subject.limits
    total = sum(layer.cycles for layer in layers) or 1.0
    most = limits.madds_per_cycle if limits is not None else 0.0
    rows = [
        (
            layer.name,
            layer.operation,
            f"{layer.cycles:,.0f}",
            f"{layer.cycles / total:.1%}",
            f"{layer.madds:,}",
            f"{layer.madds / layer.cycles / most:.0%}" if layer.cycles and most else "-",
        )
        for layer in sorted(layers, key=lambda layer: -layer.cycles)[:MOST_ROWS]
    ]
    head = ("layer", "operation", "cycles", "share", "multiply-adds", "of the most")
    caption = "The layers, the dearest first"
    yield table(Table(caption, head, rows, numbers=True, texts=1))
    source = f" The most: {limits.source}." if limits is not None else ""
    yield element(
        "p",
        f"No roofline: the estimate has no bytes of single layers.{source}",
        class_="missing",
    )
    yield how(ESTIMATED, f"by {subject.evidence.estimator}", "inspect", subject.path)
