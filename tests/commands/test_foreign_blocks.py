"""Every operator of foreign networks compiles and verifies, or is refused in words.

    pytest -m long tests/commands/test_foreign_blocks.py --update-docs

writes the page's table of operators anew.
"""

from pathlib import Path

import onnx
import pytest

from mbv3c.errors import EXIT_PARITY
from tests import networks_page
from tests.command_line import mbv3c
from tests.foreign_blocks import BLOCKS, with_block
from tests.variations import variation

IN_CI = (
    *("AveragePool, odd window", "GroupNormalization", "LpNormalization"),
    *("spatial attention (CBAM)", "LSTM in both directions", "TopK"),
)
FP32 = ("host_cpu", "fp32")
INT8 = ("host_cpu", "int8")


@pytest.mark.parametrize("name", IN_CI)
def test_some_operators(name: str, tmp_path: Path) -> None:
    result = networks_page.tried(with_block(name), tmp_path, *FP32)
    assert f"| {name} | {result} |" in networks_page.PAGE.read_text()


def test_all_operators(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rows = []
    for number, name in enumerate(BLOCKS):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows.append((name, networks_page.tried(with_block(name), folder, *FP32)))
    networks_page.check("operators", {"Operators, on `host_cpu` in fp32": rows}, request)


@pytest.mark.parametrize("options", [FP32, INT8], ids=["fp32", "int8"])
def test_no_variation_ends_in_a_traceback(
    options: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What is refused is refused in words; a miss of parity is a fault, unless in int8."""
    target, precision = options
    given = ("--target", target, "--precision", precision, "--force", "-o", tmp_path / "bundle")
    for seed in range(max(40, request.config.getoption("--variations"))):
        onnx.save(variation(seed), tmp_path / "model.onnx")
        done = mbv3c("compile", tmp_path / "model.onnx", *given)
        allowed = (0, 1, EXIT_PARITY) if options == INT8 else (0, 1)
        assert done.returncode in allowed, (seed, done.stderr)
        assert "Traceback" not in done.stderr, seed
