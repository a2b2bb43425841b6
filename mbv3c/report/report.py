"""The report: bundles side by side, each by itself, and what searches and sweeps found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbv3c.atomic import check_place
from mbv3c.errors import UsageError
from mbv3c.page import Html, Table, anchor, element, page, table, write_page
from mbv3c.report import documents
from mbv3c.report.device import devices_side_by_side
from mbv3c.report.exactness import exactness_section
from mbv3c.report.images import accuracy_section
from mbv3c.report.memory import memory_section, size_section
from mbv3c.report.overview import legend, overview
from mbv3c.report.quantization import quantization_section, tuning_section
from mbv3c.report.speed import profile_section, speed_section
from mbv3c.report.subject import Files, Subject, lacking, open_subjects
from mbv3c.search.sections import SearchDocument, SweepDocument, search_section, sweep_section

LARGE = 2_000_000  # bytes from which on a page is slow to hand on
_SEARCH, _DOCUMENT = "mbv3c search --target T --images DATA --budget B", "search.json"
_SWEEP = "mbv3c sweep GRID.yaml --json"


@dataclass(frozen=True)
class ReportRequest:
    """What a report is to be about.

    Attributes:
        bundles: the bundles.
        output: the page.
        title: its title; empty for the names of the bundles.
        files: what other commands found about the bundles.
        database: the folder of tuning databases; None to leave their history out.
        searches: folders of `search`.
        sweeps: files of `sweep --json`.
        force: whether to write over what is there.
    """

    bundles: Sequence[Path]
    output: Path
    title: str = ""
    files: Files = field(default_factory=Files)
    database: Path | None = None
    searches: Sequence[Path] = ()
    sweeps: Sequence[Path] = ()
    force: bool = False


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        path: the page.
        bytes: its size.
        bundles: the names of the bundles.
        missing: what parts a bundle lacks: its name, the part, and the command that gives it.
    """

    path: Path
    bytes: int
    bundles: Sequence[str]
    missing: Sequence[tuple[str, str, list[str]]]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "report": str(self.path),
            "bytes": self.bytes,
            "bundles": list(self.bundles),
            "missing": [
                {"bundle": bundle, "part": part, "command": ["mbv3c", *command]}
                for bundle, part, command in self.missing
            ],
        }


def write_report(request: ReportRequest) -> Report:
    """Write a report as one page, whole or not at all.

    Raises:
        UsageError: there is nothing to report, the page exists and `force` is not set, or nothing
            says which bundle a file is about.
        BundleError: something is no bundle, or damaged, or the place cannot be written.
        SavedFileError: a file is not what its command writes, or is of another bundle.
        DatabaseError: a tuning database is damaged.
    """
    if not (request.bundles or request.searches or request.sweeps):
        raise UsageError("name a bundle to report on, or --search FOLDER, or --sweep FILE")
    check_place(request.output, force=request.force)
    subjects = open_subjects(request.bundles, request.files)
    title = request.title or ", ".join(one.name for one in subjects) or "Networks"
    text = page(title, "report", _body(request, subjects))
    write_page(request.output, text, force=request.force)
    missing = [(one.name, *part) for one in subjects for part in lacking(one)]
    size = len(text.encode(errors="replace"))
    return Report(request.output, size, [one.name for one in subjects], missing)


def _body(request: ReportRequest, subjects: Sequence[Subject]) -> Iterator[Html]:
    searches = [(path, _search(path)) for path in request.searches]
    sweeps = [(path, documents.read(path, SweepDocument, _SWEEP)) for path in request.sweeps]
    heads = [one.name for one in subjects]
    heads += [f"Search {path}" for path, _ in searches] + [f"Sweep {path}" for path, _ in sweeps]
    places = [f"{anchor(head)}-{index}" for index, head in enumerate(heads)]
    if len(heads) > 1:
        links = zip(heads, places, strict=True)
        items = [element("li", element("a", head, href=f"#{place}")) for head, place in links]
        yield element("nav", element("ul", *items), aria_label="Contents")
    if subjects:
        yield overview(subjects)
    yield legend()
    yield from devices_side_by_side(subjects)
    sections = [_bundle(one, request.database) for one in subjects]
    sections += [search_section(found, f"Front of {path}", str(path)) for path, found in searches]
    sections += [sweep_section(found, f"Front of {path}", "h3") for path, found in sweeps]
    for head, place, section in zip(heads, places, sections, strict=True):
        yield element("h2", head, id=place, class_="bundle")
        yield from section


def _bundle(subject: Subject, database: Path | None) -> Iterator[Html]:
    yield table(_identity(subject))
    yield from exactness_section(subject)
    yield from speed_section(subject)
    yield from profile_section(subject)
    yield from memory_section(subject)
    yield from size_section(subject)
    yield from quantization_section(subject)
    yield from tuning_section(subject, database)
    yield from accuracy_section(subject)


def _identity(subject: Subject) -> Table:
    manifest = subject.bundle.manifest
    passes = sum(one.matched for one in manifest.passes)
    rows = [
        ("folder", subject.path),
        ("model", manifest.model.name),
        ("target", manifest.target.name),
        ("precision", manifest.precision),
        *(
            (f"input {one.name}", f"{'x'.join(map(str, one.shape))} {one.dtype}")
            for one in manifest.taken
        ),
        *(
            (f"output {one.name}", f"{'x'.join(map(str, one.shape))} {one.dtype}")
            for one in manifest.outputs
        ),
        ("rewrites made", f"{passes:,} in {len(manifest.passes)} passes"),
        ("made by", f"mbv3c {manifest.mbv3c}, {_tools(manifest.tools)}"),
    ]
    return Table("What it is", ("", ""), rows)


def _tools(tools: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tools.items())


def _search(folder: Path) -> SearchDocument:
    path = folder / _DOCUMENT if folder.is_dir() else folder
    return documents.read(path, SearchDocument, _SEARCH)
