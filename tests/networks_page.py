"""docs/networks.md: what becomes of models that people bring, written by tests that try them."""

import json
from pathlib import Path

import onnx
import pytest

from tests.command_line import document, mbv3c

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
Rows = list[tuple[str, str]]


def tried(model: onnx.ModelProto, folder: Path, *options: str) -> str:
    """Compile a model and say what came of it; it must be right, or refused in words."""
    onnx.save(model, folder / "model.onnx")
    bundle = folder / "bundle"
    done = mbv3c("compile", folder / "model.onnx", *options, "-o", bundle, "--json")
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert document(done)["parity"]["passed"]
        return "compiles, verified"
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) == (1, "model"), error
    assert len(error["message"]) < 400
    assert not bundle.exists()
    return f"refused: {' '.join(error['message'].replace(f'{folder}/', '').split())}"


def check(part: str, tables: dict[str, Rows], request: pytest.FixtureRequest) -> None:
    """See that the page has these tables, or write them with `--update-docs`."""
    start, end = f"<!-- {part}: written by tests -->\n", f"<!-- {part}: end -->"
    before, found, rest = PAGE.read_text().partition(start)
    assert found, f"{PAGE} has no part {part}"
    _, _, after = rest.partition(end)
    lines: list[str] = []
    for title, rows in tables.items():
        lines += [f"## {title}", "", "| kind | result |", "|---|---|"]
        lines += [f"| {name} | {result} |" for name, result in rows]
        lines.append("")
    page = before + start + "\n".join(lines) + end + after
    if request.config.getoption("--update-docs"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run pytest with --update-docs"
