"""docs/networks.md: what becomes of models that people bring, written by tests that try them."""

import json
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from tests.command_line import document, mbv3c

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
RIGHT = "compiles, verified"
RESULT = ("result",)
Rows = Sequence[tuple[str, ...]]


def tried(model: onnx.ModelProto, folder: Path, target: str, precision: str | None = None) -> str:
    """Compile a model and say what came of it; it must be right, or refused in words."""
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    bundle = folder / "bundle"
    asked = ("--target", target, *(("--precision", precision) if precision else ()))
    done = mbv3c("compile", folder / "model.onnx", *asked, "-o", bundle, "--json")
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert document(done)["parity"]["passed"]
        return RIGHT
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) in ((1, "model"), (2, "usage")), error
    assert len(error["message"]) < 400
    assert not bundle.exists()
    lines = error["message"].replace(f"{folder}/", "").splitlines()
    return f"refused: {'; '.join(' '.join(line.split()) for line in lines)}"


def check(
    part: str,
    tables: dict[str, Rows],
    request: pytest.FixtureRequest,
    columns: Sequence[str] = RESULT,
) -> None:
    """See that the page has these tables, or write them with `--update-docs`."""
    start, end = f"<!-- {part}: written by tests -->\n", f"<!-- {part}: end -->"
    before, found, rest = PAGE.read_text().partition(start)
    assert found, f"{PAGE} has no part {part}"
    _, _, after = rest.partition(end)
    lines: list[str] = []
    for title, rows in tables.items():
        lines += [f"## {title}", "", row("kind", *columns), f"|{'---|' * (1 + len(columns))}"]
        lines += [row(*cells) for cells in rows]
        lines.append("")
    page = before + start + "\n".join(lines) + end + after
    if request.config.getoption("--update-docs"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run pytest with --update-docs"


def row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"
