"""How a network's cost grows: one small network, its split among cores, and the picture."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.cores import split
from benchmarks.growth import CORES, INSTRUCTIONS, TIME, TITLES, networks, time_of
from benchmarks.networks import Network, build, compile_for
from mbv3c.execution.emulator.kit import EmulatorKit


def titles(kind: str) -> list[str]:
    return [cell.strip() for cell in growth.head(kind)[0].strip("|").split("|")]


def test_a_network_of_two_images_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    cells = time_of(Network("small", 0.35, 64, 2), 3)
    found = dict(zip(titles(TIME), cells, strict=True))
    assert cells[:4] == ["small", "0.35", "64", "2"]
    times = [float(found[side]) for side in ("mbv3c", "onnxruntime", "LiteRT")]
    assert all(1 < one < 10_000 for one in times)
    assert 0.05 < float(found["depthwise"].rstrip("%")) / 100 < 0.5
    # All 558,744 parameters, of four bytes each.
    assert float(found["million multiply-adds"]) * float(found["weights, bytes"]) == pytest.approx(
        4 * 0.558744, rel=0.02
    )


def test_three_cores_share_the_instructions_of_one(
    emulator_kit: EmulatorKit, tmp_path: Path
) -> None:
    """The machine may have fewer cores; one computes parts of what is so small."""
    graph = build(Network("small", 0.35, 64))
    found = {}
    for cores in (1, 3):
        bundle = compile_for(
            graph, "arm_cpu:cortex-a76", cores, tmp_path, lambda _: None, verify=False
        )
        found[cores] = split(emulator_kit, "cortex-a76", bundle, cores)
    assert found[1].longest == found[1].total
    assert found[3].total == pytest.approx(found[1].total, rel=0.05)
    assert found[3].total / 3 < found[3].longest < 0.9 * found[1].longest


Results = Callable[[float, float], str]


@pytest.fixture
def results() -> Results:
    """From our time and our instructions at 512 pixels to what RESULTS.md says."""

    def write(ours: float, large: float) -> str:
        lines = ["# Results", ""]
        for kind in (TIME, INSTRUCTIONS, CORES):
            lines += [f"## {TITLES[kind]}", "", *growth.head(kind)]
            for variant in growth.VARIANTS:
                for cells in _rows(kind, variant, ours, large):
                    lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
        return "\n".join(lines)

    return write


def _rows(kind: str, variant: str, ours: float, large: float) -> list[list[str]]:
    if kind == CORES:
        return [[variant, f"{n}", "20", f"{20 / n}", f"{n}"] for n in growth.NUMBERS_OF_CORES]
    width = len(titles(kind))
    rows = []
    for one in networks(variant):
        first = large if kind == INSTRUCTIONS and one.resolution == 512 else ours
        cells = [variant, f"{one.width:g}", f"{one.resolution}", f"{one.batch}"]
        cells += ["1"] * (width - len(cells))
        cells[titles(kind).index("mbv3c")] = f"{first}"
        if "ncnn" in titles(kind) and one.batch > 1:
            cells[titles(kind).index("ncnn")] = ""
        rows.append(cells)
    return rows


def test_the_picture_shows_the_tables(results: Results, tmp_path: Path) -> None:
    written = []
    for name, values in (("flat", (20.0, 20.0)), ("again", (20.0, 20.0)), ("other", (20.0, 30.0))):
        growth.draw(results(*values), tmp_path / f"{name}.svg")
        written.append((tmp_path / f"{name}.svg").read_text())
    assert written[0] == written[1] != written[2]


def test_each_axis_passes_through_the_network_of_all_results() -> None:
    assert all(Network("large", 1.0, 224) in growth.along("large", axis) for axis in growth.AXES)
    assert len(networks("large")) == 14
