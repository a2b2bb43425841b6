"""What `make bench` writes, from made-up measurements."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import emulated, host
from benchmarks.aarch64 import Executed
from benchmarks.networks import NETWORKS, QUICK, Network
from benchmarks.results import replace_section
from mbv3c.bench.statistics import Ratio, Times


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nIntroduction.\n\n## First\n\nold\n\n## Second\n\nkept\n")
    return path


def test_a_section_is_replaced_in_its_place(results: Path) -> None:
    replace_section("First", "new\n\nlines\n", results)
    text = "# Results\n\nIntroduction.\n\n## First\n\nnew\n\nlines\n\n## Second\n\nkept\n"
    assert results.read_text() == text
    replace_section("First", "new\n\nlines\n", results)
    assert results.read_text() == text


def test_a_new_section_comes_last(results: Path) -> None:
    replace_section("Third", "more", results)
    assert results.read_text().endswith("## Second\n\nkept\n\n## Third\n\nmore\n")


def test_uncertain_ratios_are_marked() -> None:
    timed = dict.fromkeys(("bundle", "onnxruntime", "openvino"), Times(1.234, 1.0))
    ratios = {"onnxruntime": Ratio(0.8, (0.79, 0.82)), "openvino": Ratio(0.8, (0.5, 0.9))}
    row = host.Row(Network("small", 0.75, 160), 2, timed, ratios, undisturbed=True)
    assert host.table([row]).splitlines()[-1] == (
        "| Small 0.75, 160 px | 2 | 1.23 ms | 1.23 ms | 1.23 ms | 0.80 (0.79–0.82) "
        "| 0.80 (0.50–0.90) ? |"
    )
    assert host.table([replace(row, undisturbed=False)]).count(" ?") == 2


def test_counts_are_in_millions_with_the_multiply_adds_among_them() -> None:
    counts = {
        "mbv3c": Executed(1_500_000, 1_000_000),
        "onnxruntime": Executed(5_000_000, 1_000_000),
        "ncnn": Executed(2_000_000, 1_000_000),
    }
    text = emulated.table([emulated.Row(Network("large", 1.0, 224), 4_000_000, counts)])
    assert text.splitlines() == [
        "| network | multiply-adds / 4 | mbv3c | onnxruntime | ncnn | / onnxruntime | / ncnn |",
        "|---|---|---|---|---|---|---|",
        "| Large 1, 224 px | 1.00 | 1.50 (1.00) | 5.00 (1.00) | 2.00 (1.00) | 0.300 | 0.750 |",
    ]


def test_quick_is_one_of_the_networks() -> None:
    assert set(QUICK) <= set(NETWORKS)
    assert len(set(NETWORKS)) == 8
