"""The emulators of 32-bit ARM and RISC-V."""

from pathlib import Path

import pytest

from mbv3c.errors import ToolError
from mbv3c.execution.emulator import cores
from mbv3c.execution.emulator.blocks import read_counts
from mbv3c.execution.emulator.cores import EMULATORS, CoresKit
from mbv3c.execution.processes import finish


def test_a_fetched_kit_is_found_again(cores_kit: CoresKit) -> None:
    assert cores.cores_kit() == cores_kit
    lines = list[str]()
    assert cores.fetch_cores(lines.append) == cores_kit
    assert lines == []  # nothing was fetched
    programs = {path.name for path in (cores_kit.system / "usr" / "bin").iterdir()}
    assert programs == {*EMULATORS.values()}


@pytest.mark.parametrize(
    ("arch", "cpus"), [("armv7", ("cortex-a7", "cortex-a9")), ("riscv64", ("rv64",))]
)
def test_the_emulators_know_the_processors(
    arch: str, cpus: tuple[str, ...], cores_kit: CoresKit
) -> None:
    known = finish(cores_kit.command(arch, "help"), timeout=60).stdout.split()
    assert {*cpus} <= {*known}


def test_without_a_kit_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    with pytest.raises(ToolError, match=r"arm_cpu:cortex-a7 .* `mbv3c doctor --fetch=emulator`"):
        cores.require_cores_kit("arm_cpu:cortex-a7")


def test_another_machine_is_told_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "native_arch", lambda: "aarch64")
    with pytest.raises(ToolError, match=r"on aarch64; compile with --no-verify"):
        cores.fetch_cores(print)


def test_a_program_that_marks_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="the board marked no inference"):
        read_counts(tmp_path / "counts", tmp_path / "program", "the board")
