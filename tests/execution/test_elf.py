"""Libraries that are cut short: to load one would end the process by SIGBUS."""

from pathlib import Path

import pytest

from mbv3c.errors import ToolError
from mbv3c.execution.elf import needed, read_elf
from mbv3c.execution.host import load_library
from mbv3c.execution.link import run_zig

SHARED = ("cc", "-target", "x86_64-linux-gnu", "-nostdlib", "-shared", "-s")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library; its folder has a name that lld would change if it wrote there."""
    folder = tmp_path_factory.mktemp("half of 100%") / "%s%20"
    folder.mkdir()
    (folder / "x.c").write_text("int numbers[4096] = {1}; int f(int x) { return numbers[x]; }")
    run_zig([*SHARED, "-o", "x.so", "x.c"], "linking", folder)
    return folder / "x.so"


def test_whole_ones_are_read(library: Path) -> None:
    assert read_elf(library, "library").segments
    assert needed(library) == []


def test_without_a_home_it_is_linked_all_the_same(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    run_zig([*SHARED, "-o", "y.so", "x.c"], "linking", library.parent)
    assert (library.parent / "y.so").read_bytes() == library.read_bytes()


def test_cut_ones_are_refused(library: Path, tmp_path: Path) -> None:
    whole, cut = library.read_bytes(), tmp_path / "model.so"
    for kept in (*range(0, 300, 7), *range(300, len(whole), 997), len(whole) - 1):
        cut.write_bytes(whole[:kept])
        for read in (load_library, needed):
            with pytest.raises(ToolError, match=r"cut short|not a 64-bit ELF"):
                read(cut)
