"""Models that people bring compile and verify, or are refused in words, as docs/networks.md says.

    pytest -m long tests/commands/test_foreign_models.py --update-docs

writes the page's tables for CPUs anew.
"""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests import networks_page
from tests.foreign_models import MODELS, QUANTIZED

IN_INT8 = (
    "NHWC pixels, normalised in the graph (Keras)",
    "one number out",
    "one tensor as two outputs",
    "maps of several strides as outputs",
)
CASES = [
    *(("fp32", name, build) for name, build in MODELS.items()),
    *(("int8", name, MODELS[name]) for name in IN_INT8),
    *(("quantized", name, build) for name, build in QUANTIZED.items()),
]
seen: dict[tuple[str, str], str] = {}


@pytest.mark.parametrize(("kind", "name", "build"), CASES, ids=[f"{a}-{b}" for a, b, _ in CASES])
def test_it_is_right_or_refused_in_words(
    kind: str,
    name: str,
    build: Callable[[], onnx.ModelProto],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    precision = "fp32" if kind == "fp32" else "int8"
    seen[kind, name] = networks_page.tried(build(), tmp_path, "host_cpu", precision)
    if not request.config.getoption("--update-docs"):
        assert f"| {name} | {seen[kind, name]} |" in networks_page.PAGE.read_text()


def test_the_page_is_all_of_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for number, (kind, name, build) in enumerate(CASES):
        if (kind, name) not in seen:  # as where CI tries it
            precision = "fp32" if kind == "fp32" else "int8"
            made = networks_page.tried(build(), tmp_path / str(number), "host_cpu", precision)
            seen[kind, name] = made
    tables = {
        "`host_cpu`, in fp32": [(name, seen["fp32", name]) for name in MODELS],
        "`host_cpu`, in int8": [(name, seen["int8", name]) for name in IN_INT8],
        "`host_cpu`, quantized when they come": [
            (name, seen["quantized", name]) for name in QUANTIZED
        ],
    }
    networks_page.check("cpu", tables, request)
