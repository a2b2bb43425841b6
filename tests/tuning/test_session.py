"""What `tune` says in the end."""

from dataclasses import replace
from pathlib import Path

from mbv3c.lowering.plan import DEFAULT, TUNED
from mbv3c.tuning.confirm import Network
from mbv3c.tuning.database import Record
from mbv3c.tuning.session import TunedNetwork, summary_lines
from mbv3c.tuning.tuner import SearchResult

COUNTED = Network(20_018_170, 19_530_000, 0.976, "instructions", 19_694_632, 0.992)
TUNED_NETWORK = TunedNetwork(
    Path("tune_logs/arm_cpu/cortex-a76"),
    "arm_cpu:cortex-a76",
    "emulated cortex-a76",
    SearchResult([]),
    [Record(f"key {number}", {}, "ok", 1.0, 2.0) for number in range(4)],
    COUNTED,
    compiled={TUNED: 3, DEFAULT: 31},
    unused=1,
)


def test_all_figures_are_named_and_agree_with_what_compile_says() -> None:
    lines = summary_lines(TUNED_NETWORK)
    assert max(map(len, lines[:1] + lines[2:7])) <= 80
    assert lines[1].startswith("measured: of all choices of a kernel; best: what the best one ")
    assert lines[3:] == [
        "whole network, in instructions:",
        "  with the default choices     20,018,170",
        "  as compile made it before    19,694,632",
        "  now                          19,530,000  0.976 of the default, 0.992 of before",
        "4 choices kept in tune_logs/arm_cpu/cortex-a76; 1 for shapes that other choices changed",
        "compile takes them from this folder: 3 kernels tuned, 0 transferred, 31 by default rules",
    ]


def test_ratios_of_times_are_not_those_of_the_least_medians() -> None:
    timed = replace(COUNTED, before=2194, after=1760, ratio=0.871, unit="us")
    lines = summary_lines(replace(TUNED_NETWORK, network=timed, database=Path("a/b/c")))
    assert lines[3] == (
        "whole network, in us, the least median of all turns; ratios are medians over turns:"
    )
    assert lines[-1].startswith("compile takes them with --tune-logs a: ")


def test_nothing_won() -> None:
    nothing = replace(TUNED_NETWORK, network=None)
    assert summary_lines(nothing)[-1] == "nothing was better than the default choices"
    assert summary_lines(replace(TUNED_NETWORK, kept=[]))[-1] == "nothing new was kept"
