"""What `make bench` writes, from made-up measurements."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import emulated, host, integers
from benchmarks.aarch64 import Executed
from benchmarks.networks import NETWORKS, QUICK, Network, build, compile_for
from benchmarks.results import replace_section
from mbv3c.errors import ToolError
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.timing.latency import Ratio, Times
from mbv3c.precision import FP16 as HALF
from mbv3c.targets import open_bundle


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
    timed = dict.fromkeys(("bundle", *host.PEERS), Times(1.234, 1.0))
    sure, unsure = Ratio(0.8, (0.79, 0.82)), Ratio(0.8, (0.5, 0.9))
    ratios = dict(zip(host.PEERS, (sure, unsure, sure), strict=True))
    row = host.Row(Network("small", 0.75, 160), 2, timed, ratios, True, 1.5e-6)
    assert host.table([row]).splitlines()[-1] == (
        "| Small 0.75, 160 px | 2 | 1.23 ms | 1.23 ms | 1.23 ms | 1.23 ms | 0.80 (0.79–0.82) "
        "| 0.80 (0.50–0.90) ? | 0.80 (0.79–0.82) | 1.5e-06 |"
    )
    assert host.table([replace(row, undisturbed=False)]).count(" ?") == 3


LARGE = Network("large", 1.0, 224)
FP32, FP16 = emulated.PRECISIONS


def test_counts_are_in_millions_with_the_multiply_adds_among_them() -> None:
    counts = {
        "mbv3c": Executed(1_500_000, 1_000_000, 1e-6),
        "onnxruntime": Executed(5_000_000, 1_000_000, 0.0),
        "ncnn": Executed(2_000_000, 1_000_000, 2e-6),
    }
    text = emulated.tables([emulated.Row(LARGE, "fp32", 4_000_000, counts)])
    assert text.splitlines() == [
        "| fp32: network | multiply-adds / 4 | mbv3c | onnxruntime | ncnn "
        "| / onnxruntime | / ncnn | errors |",
        "|---|---|---|---|---|---|---|---|",
        "| Large 1, 224 px | 1.00 | 1.50 (1.00) | 5.00 (1.00) | 2.00 (1.00) "
        "| 0.300 | 0.750 | 1.0e-06, 0.0e+00, 2.0e-06 |",
    ]


def test_half_precision_has_a_table_of_its_own() -> None:
    full = {"mbv3c": Executed(1_500_000, 1_000_000, 1e-6)}
    half = {
        "mbv3c": Executed(750_000, 500_000, 4e-3),
        "ncnn": Executed(1_000_000, 500_000, 6e-3),
        "mbv3c fp32": full["mbv3c"],
    }
    rows = [
        emulated.Row(LARGE, "fp16", 4_000_000, half),
        emulated.Row(LARGE, "fp32", 4_000_000, full),
    ]
    first, second = emulated.tables(rows).split("\n\n")
    assert first == emulated.tables(rows[1:])
    assert second.splitlines() == [
        "| fp16: network | multiply-adds / 8 | mbv3c | ncnn | mbv3c fp32 "
        "| / ncnn | / mbv3c fp32 | errors |",
        "|---|---|---|---|---|---|---|---|",
        "| Large 1, 224 px | 0.50 | 0.75 (0.50) | 1.00 (0.50) | 1.50 (1.00) "
        "| 0.750 | 0.500 | 4.0e-03, 6.0e-03, 1.0e-06 |",
    ]


@pytest.mark.parametrize(("precision", "error"), [(FP32, 0.0), (FP32, 1e-6), (FP16, 4e-3)])
def test_errors_of_the_precision_are_accepted(precision: emulated.Precision, error: float) -> None:
    emulated.check_error("ncnn", precision, error)


@pytest.mark.parametrize(
    ("precision", "error"), [(FP32, 4e-3), (FP16, 1e-6), (FP16, 0.5), (FP16, float("inf"))]
)
def test_errors_of_another_precision_or_network_are_refused(
    precision: emulated.Precision, error: float
) -> None:
    with pytest.raises(ToolError, match=rf"ncnn under emulation is .*; in {precision.name} it"):
        emulated.check_error("ncnn", precision, error)


def test_bundles_are_compiled_in_the_precision(tmp_path: Path, emulator_kit: EmulatorKit) -> None:
    graph = build(Network("small", 0.35, 96))
    bundle = compile_for(graph, emulated.TARGET, 1, tmp_path, lambda _: None, precision=HALF)
    assert open_bundle(bundle).manifest.precision == "fp16"


def test_quick_is_one_of_the_networks() -> None:
    assert set(QUICK) <= set(NETWORKS)
    assert len(set(NETWORKS)) == 8
    assert all(set(precision.networks) <= set(NETWORKS) for precision in emulated.PRECISIONS)


def test_integers_have_a_row_for_each_core() -> None:
    ours, full = Executed(400_000, 0, 5e-2), Executed(1_000_000, 0, 1e-6)
    theirs, litert = Executed(2_000_000, 0, 0.1), Executed(500_000, 0, 0.06)
    row = integers.Row(LARGE, "cortex-a55", 4_000_000, ours, full, theirs, litert)
    assert integers.table([row]).splitlines() == [
        "| network | compiled for | multiply-adds / 16 | mbv3c int8 | mbv3c fp32 "
        "| onnxruntime int8 | LiteRT int8 | / mbv3c fp32 | / onnxruntime | / LiteRT | errors |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        "| Large 1, 224 px | cortex-a55 | 0.25 | 0.40 | 1.00 | 2.00 | 0.50 | 0.400 | 0.200 "
        "| 0.800 | 5.0e-02, 1.0e-06, 1.0e-01, 6.0e-02 |",
    ]


@pytest.mark.parametrize("error", [0.5, float("inf"), float("nan")])
def test_another_network_in_int8_is_refused(error: float) -> None:
    integers.check_error("onnxruntime", 0.1)
    with pytest.raises(ToolError, match=r"onnxruntime in int8 under emulation is .* off"):
        integers.check_error("onnxruntime", error)
