"""llvm-mca: the fetched kit, the programs on the PATH, and neither."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from mbv3c.doctor import diagnose
from mbv3c.errors import ToolError
from mbv3c.execution.emulator.counting import InstructionBlock
from mbv3c.execution.emulator.cycles import Estimator, estimate
from mbv3c.execution.emulator.llvm import LLVM_REMEDY, Llvm, fetch_llvm, find_llvm

ADD = InstructionBlock("", 0, 1, (0x8B010000,))  # add x0, x0, x1


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder of the PATH, with an empty cache beside it."""
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(folder: Path, suffix: str, mc: Sequence[str], mca: Sequence[str]) -> None:
    for name, command in (("llvm-mc", mc), ("llvm-mca", mca)):
        program = folder / f"{name}{suffix}"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        program.chmod(0o755)


def test_fetched_kit_is_found_again(llvm: Llvm) -> None:
    lines: list[str] = []
    assert find_llvm() == fetch_llvm(lines.append) == llvm
    assert lines == []
    assert llvm.mca[-2:] == ("-call-latency=1", "-skip-unsupported-instructions=lack-sched")


def test_newest_on_the_path_is_taken_without_the_kit(llvm: Llvm, path: Path) -> None:
    """The kit's own programs, under the names that Debian gives them; older ones are stood in."""
    bare = [part for part in llvm.mca if not part.startswith(("-call", "-skip"))]
    install(path, "-19", llvm.mc, bare)
    install(path, "", *(["/bin/echo", "LLVM version 17.0.6"],) * 2)
    install(path, "-14", *(["/bin/echo", "LLVM version 14.0.6"],) * 2)
    found = find_llvm()
    assert found is not None
    assert (found.version, found.mc) == (llvm.version, (str(path / "llvm-mc-19"),))
    assert found.mca == (str(path / "llvm-mca-19"), *llvm.mca[-2:])
    estimated = estimate(Estimator(found, "cortex-a55"), [ADD])
    assert estimated == estimate(Estimator(llvm, "cortex-a55"), [ADD])
    assert estimated.total > 0


def test_too_old_or_half_installed_is_none(path: Path) -> None:
    install(path, "-16", *(["/bin/echo", "Debian LLVM version 16.0.6"],) * 2)
    install(path, "-20", *(["/bin/echo", "LLVM version 20.1.0"],) * 2)
    (path / "llvm-mc-20").unlink()
    assert find_llvm() is None
    part = next(part for part in diagnose() if part.name == "llvm-mca")
    assert (part.ok, part.optional, part.remedy) == (
        False,
        True,
        f"for estimated cycles: {LLVM_REMEDY}",
    )


def test_fetch_without_apt_says_what_to_install(path: Path) -> None:
    with pytest.raises(ToolError, match=r"apt-get .* install llvm-mca and llvm-mc of LLVM 17"):
        fetch_llvm(lambda line: None)
    assert not list(path.parent.rglob("system*"))
