"""The table of boards, and its page.

    pytest tests/test_boards.py --update-docs

writes the page anew.
"""

from pathlib import Path

import pytest

from mbv3c.boards import BOARDS, Part, boards_like, every_part, find_board
from mbv3c.errors import UsageError
from mbv3c.targets import every_wing, find_target, stands_for, target_of

PAGE = Path(__file__).parents[1] / "docs" / "boards.md"
BEGIN = "<!-- Written by `pytest tests/test_boards.py --update-docs`. -->\n"
TARGETS = {target.name for wing in every_wing() for target in wing.targets}


def test_every_part_has_a_target_and_a_source() -> None:
    names = [board.spelled(part) for board, part in every_part()]
    assert len(set(names)) == len(names) > 30
    for board, part in every_part():
        assert part.targets[-1] in TARGETS, board.name
        assert find_target(board.spelled(part)).name in part.targets
        assert find_target(f"{board.name}:{part.name}") == find_target(board.spelled(part))
        assert part.source
        assert board.source
        assert board.memory_kib == tuple(sorted(board.memory_kib))


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("rpi5", "arm_cpu:cortex-a76", "rpi5 = arm_cpu:cortex-a76, 4 cores"),
        ("rpi2", "arm_cpu:cortex-a7", "rpi2 = arm_cpu:cortex-a7, 4 cores"),
        ("imx7", "arm_cpu:cortex-a7", "imx7 = arm_cpu:cortex-a7, 2 cores"),
        ("imx6", "arm_cpu:cortex-a9", "imx6 = arm_cpu:cortex-a9, 4 cores"),
        ("bpi-f3", "riscv_cpu:spacemit-k1", "bpi-f3 = riscv_cpu:spacemit-k1, 4 cores"),
        ("imx93", "arm_cpu:cortex-a55", "imx93 = arm_cpu:cortex-a55, 2 cores"),
        ("imx93:npu", "npu:ethos-u65-256", "imx93:npu = npu:ethos-u65-256 (vela's estimate is"),
        ("rock5b:gpu", "mobile_gpu:mali", "rock5b:gpu = mobile_gpu:mali"),
        ("pixel8", "arm_cpu:cortex-a715-android", "pixel8 = arm_cpu:cortex-a715-android, 4 cores"),
        ("graviton2", "arm_cpu:neoverse-n1", "graviton2 = arm_cpu:neoverse-n1, 4 cores"),
        ("corstone-300:cpu", "mcu:cortex-m55", "corstone-300:cpu = mcu:cortex-m55"),
    ],
)
def test_a_board_is_a_target(name: str, target: str, said: str) -> None:
    assert find_target(name).name == target
    assert stands_for(name).startswith(said)


def test_a_target_stands_for_itself() -> None:
    assert stands_for("arm_cpu") == stands_for("arm_cpu:cortex-a76") == ""


def test_the_first_target_that_exists_is_taken() -> None:
    found = find_board("pixel8:big")
    assert found is not None
    part = found[1]
    assert part is not None
    assert part.targets[0] == "arm_cpu:cortex-x3-android"
    later = Part("cpu", "a core of tomorrow", ("arm_cpu:cortex-z9", "arm_cpu:cortex-a76"), "none")
    assert target_of(later).name == "arm_cpu:cortex-a76"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imx93:gpu", "imx93 has no part 'gpu'; known: imx93, imx93:npu"),
        ("rpi6", "'rpi6'; nearest: rpi5, rpi4, rpi3; known: arm_cpu, .* `mbv3c targets --board`"),
        ("rk3588", "nearest: rock5b"),
        ("arm_cpu:rpi5", "unknown device 'rpi5' of arm_cpu; nearest: rpi5, "),
        ("arm_cpu:cortex-a70", "nearest: arm_cpu:cortex-a7"),
        ("Ethos-U65", "nearest: npu:ethos-u65-"),
        ("npu:ethos-u99", "nearest: npu:ethos-u55-32, .*; all: `mbv3c targets`$"),
        ("arm_cpu:m99", "nearest: arm_cpu:apple-m1, mcu:cortex-m4, mcu:cortex-m7; all: "),
        ("mobile_gpu:mally", "nearest: mobile_gpu:mali, mobile_gpu:metal; known: mali, "),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_target(name)


@pytest.mark.parametrize(
    ("model", "cores", "count", "rows"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", {"cortex-a76"}, 4, ["rpi5"]),
        ("Xunlong Orange Pi 5", {"cortex-a55", "cortex-a76"}, 8, ["orangepi5"]),
        ("", {"cortex-a55", "cortex-a76"}, 8, ["rock5b", "orangepi5"]),
        ("Some Board", {"cortex-a72"}, 4, ["rpi4"]),
        ("Some Board", {"cortex-a72"}, 2, []),
        ("", {"AMD EPYC"}, 4, []),
        ("", set(), 0, []),
    ],
)
def test_a_machine_is_found_in_the_table(
    model: str, cores: set[str], count: int, rows: list[str]
) -> None:
    assert [board.name for board in boards_like(model, cores, count)] == rows


def test_the_page_has_the_table(request: pytest.FixtureRequest) -> None:
    lines = ["| board | product, chip | part | memory | from |", "|---|---|---|---|---|"]
    for board, part in every_part():
        first = part is board.parts[0]
        what = f"{part.cores} x {part.what}" if part.cores else part.what
        clock = f", {part.mhz} MHz" if part.mhz else ""
        sizes = [_size(size) for size in board.memory_kib]
        cells = (
            f"`{board.spelled(part)}`",
            f"{board.product}, {board.chip}" if first else "",
            what + clock,
            ", ".join(sizes) if first else "",
            part.source + (f"; memory: {board.source}" if first else ""),
        )
        lines.append(f"| {' | '.join(cells)} |")
    without = [f"{board.name}: {board.unserved}" for board in BOARDS if board.unserved]
    table = "\n".join([*lines, "", f"Without a target: {'; '.join(without)}.", ""])
    kept = PAGE.read_text().partition(BEGIN)[0]
    page = kept + BEGIN + "\n" + table
    if request.config.getoption("--update-docs"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run pytest with --update-docs"


def _size(kib: int) -> str:
    if kib >= 1 << 20:
        return f"{kib >> 20} GiB"
    return f"{kib >> 10} MiB" if kib >= 1 << 18 else f"{kib} KiB"
