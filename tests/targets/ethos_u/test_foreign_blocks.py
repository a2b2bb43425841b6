"""Every operator of foreign networks compiles for an NPU and verifies, or is refused in words.

    pytest -m long tests/targets/ethos_u/test_foreign_blocks.py --update-docs

writes the page's table of operators on NPUs anew.
"""

from pathlib import Path

import onnx
import pytest

from mbv3c.errors import EXIT_PARITY
from tests import networks_page
from tests.command_line import mbv3c
from tests.foreign_blocks import BLOCKS, with_block
from tests.variations import variation

IN_CI = ("AveragePool, odd window", "ConvTranspose, output padding", "PRelu")
NPU = "npu:ethos-u55-128"


@pytest.mark.parametrize("name", IN_CI)
def test_some_operators(name: str, tmp_path: Path) -> None:
    result = networks_page.tried(with_block(name), tmp_path, NPU)
    _, _, table = networks_page.PAGE.read_text().partition("## Operators, on `npu:ethos-u55-128`")
    assert f"| {name} | {result} |" in table


def test_all_operators(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rows = []
    for number, name in enumerate(BLOCKS):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows.append((name, networks_page.tried(with_block(name), folder, NPU)))
    networks_page.check("npu-operators", {"Operators, on `npu:ethos-u55-128`": rows}, request)


def test_no_variation_ends_in_a_traceback(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What is refused is refused in words; random weights in int8 may miss the model as given."""
    for seed in range(max(10, request.config.getoption("--variations"))):
        onnx.save(variation(seed), tmp_path / "model.onnx")
        done = mbv3c(
            *("compile", tmp_path / "model.onnx", "--target", NPU, "--force"),
            *("-o", tmp_path / "bundle"),
        )
        assert done.returncode in (0, 1, EXIT_PARITY), (seed, done.stderr)
        assert "Traceback" not in done.stderr, seed
