"""What the code must look like, beside what ruff, mypy and import-linter check."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import mbv3c

PACKAGE = Path(mbv3c.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_PARAMETERS = 400, 8
# Signs of a method that a backend lacks.
DOORS = re.compile(
    r"\"npu\" in|is_npu|isinstance\([a-z_]+, Gpu\)|target\.family ==|precision == \""
)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    return (
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
    )


def test_no_module_is_longer_than_a_reader_takes() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_function_has_more_parameters_than_one_remembers() -> None:
    found = {
        f"{path}: {function.name}": count
        for path in MODULES
        if path.parent.name != "commands"  # click gives one for every option
        for function in functions(path)
        if (count := len([*function.args.args, *function.args.kwonlyargs])) > MOST_PARAMETERS + 1
    }
    assert found == {}


def test_nothing_outside_the_wings_asks_which_device_it_is() -> None:
    found = [
        f"{path.name}: {line.strip()}"
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0] != "targets" or path.name == "wing.py"
        for line in path.read_text().splitlines()
        if DOORS.search(line)
    ]
    assert found == []
