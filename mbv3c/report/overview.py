"""Several bundles side by side: what each is, and its figures, each with its kind."""

from collections.abc import Callable, Sequence

from mbv3c.execution.timing.beside import ONNXRUNTIME
from mbv3c.feeds import shape_text
from mbv3c.page import (
    COMPUTED,
    EMULATED,
    ESTIMATED,
    KINDS,
    MEASURED,
    Html,
    Table,
    badge,
    element,
    joined,
    line_of,
    table,
)
from mbv3c.report.device import configuration
from mbv3c.report.subject import Subject, kind_of

Cell = Callable[[Subject], str]


def overview(subjects: Sequence[Subject]) -> Html:
    """Return a table with a column for each bundle, and the command that repeats each row."""
    estimated = all(one.evidence.layers for one in subjects)
    speed = ("inspect", "BUNDLE") if estimated else ("bench", "BUNDLE", "--profile")
    rows: list[tuple[str, Cell, tuple[str, ...]]] = [
        ("model", lambda one: one.bundle.manifest.model.name, ("inspect", "BUNDLE")),
        ("target", lambda one: one.bundle.manifest.target.name, ("inspect", "BUNDLE")),
        ("precision", lambda one: one.bundle.precision.name, ("inspect", "BUNDLE")),
        ("input", _input, ("inspect", "BUNDLE")),
        ("parity", _parity, ("verify", "BUNDLE")),
        ("largest error of range", _error, ("verify", "BUNDLE")),
        ("speed", _speed, speed),
        ("beside", _beside, ("bench", "BUNDLE")),
        ("weights, bytes", _size("weight_bytes", "constant_bytes"), ("inspect", "BUNDLE")),
        ("working memory, bytes", _size("arena_bytes", "sram_bytes"), ("inspect", "BUNDLE")),
        ("files, bytes", _files, ("inspect", "BUNDLE")),
        ("accuracy, top-1", _accuracy, ("verify", "BUNDLE", "--images", "FOLDER")),
        ("agreement, top-1", _agreement, ("verify", "BUNDLE", "--images", "FOLDER")),
    ]
    shown = [
        (name, *(cell(one) for one in subjects), line_of(*command)) for name, cell, command in rows
    ]
    head = ("", *(one.name for one in subjects), "again")
    return table(Table("At a glance; - is what was not given to this report", head, shown))


def legend() -> Html:
    """Return what the kinds of figures mean."""
    items = [element("li", badge(kind), f" {said}.") for kind, said in KINDS.items()]
    return element("ul", *items, class_="how")


def _with(text: str, kind: str) -> Html:
    return joined([text, " ", badge(kind)])


def _input(one: Subject) -> str:
    taken = one.bundle.manifest.taken
    dtypes = ", ".join(dict.fromkeys(record.dtype for record in taken))
    return f"{shape_text(record.shape for record in taken)} {dtypes}"


def _parity(one: Subject) -> str:
    if one.parity is None:
        return "not checked"
    passed = one.parity.get("passed") is True
    text = f"{'✓ passed' if passed else '✗ MISSED'} on {one.parity.get('ran_on')}"
    return element("span", text, class_="good" if passed else "bad")


def _error(one: Subject) -> str:
    error = (one.parity or {}).get("max_error_of_range")
    if not isinstance(error, int | float):
        return "-"
    allowed = (one.parity or {}).get("tolerance")
    said = f" (allowed {allowed:.1e})" if isinstance(allowed, int | float) else ""
    return _with(f"{error:.1e}{said}", kind_of(str((one.parity or {}).get("ran_on"))))


def _speed(one: Subject) -> str:
    said = []
    for bench in one.benches[:1]:
        if bench.median_ms is not None:
            said.append(_with(f"{bench.median_ms:.3f} ms", MEASURED))
        if bench.instructions is not None:
            said.append(_with(f"{bench.instructions:,} instructions", EMULATED))
        if bench.estimated_cycles is not None:
            said.append(_with(f"{bench.estimated_cycles.total:,.0f} cycles", ESTIMATED))
    for there in one.on_devices:
        kind, best = kind_of(there.ran_on), there.best
        said.append(_with(f"{best.ours.spread.median_ms:.3f} ms ({configuration(best)})", kind))
    if one.evidence.layers:
        said.append(_with(f"{one.evidence.cycles:,.0f} cycles", ESTIMATED))
    return joined(element("div", each) for each in said) if said else "-"


def _beside(one: Subject) -> str:
    said = [
        _with(
            f"{bench.against} {bench.against_median_ms:.3f} ms: {bench.ratio:.3f} of it", MEASURED
        )
        for bench in one.benches
        if bench.against and bench.against_median_ms is not None and bench.ratio is not None
    ]
    for there in one.on_devices:
        theirs, compared = there.best.theirs, there.best.ratio
        if theirs is not None and compared is not None:
            text = f"{ONNXRUNTIME} {theirs.spread.median_ms:.3f} ms: {compared.median:.3f} of it"
            said.append(_with(text, kind_of(there.ran_on)))
    return joined(element("div", each) for each in said) if said else "-"


def _size(*names: str) -> Cell:
    def cell(one: Subject) -> str:
        found = next((one.sizes[name] for name in names if name in one.sizes), None)
        return "-" if found is None else _with(f"{found:,}", COMPUTED)

    return cell


def _files(one: Subject) -> str:
    sizes = ((one.bundle.path / name).stat().st_size for name in one.bundle.files)
    return _with(f"{sum(sizes):,}", COMPUTED)


def _accuracy(one: Subject) -> str:
    found = one.accuracy
    tops = (found.accuracy or {}).get("bundle", {}) if found is not None else {}
    if found is None or "top1" not in tops:
        return "-"
    top = tops["top1"]
    return _with(f"{top.share:.2%} ({top.low:.2%} to {top.high:.2%})", kind_of(found.ran_on))


def _agreement(one: Subject) -> str:
    found = one.accuracy
    tops = found.agreement.get("given", {}) if found is not None else {}
    if found is None or "top1" not in tops:
        return "-"
    top = tops["top1"]
    return _with(f"{top.share:.2%} ({top.low:.2%} to {top.high:.2%})", kind_of(found.ran_on))
