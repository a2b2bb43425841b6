"""What the linker needs of its surroundings."""

import os
from errno import ENOSPC
from pathlib import Path

import pytest

from mbv3c.errors import ToolError
from mbv3c.execution.cache import ZIG_CACHES, cache_root
from mbv3c.execution.link import link, run_zig


@pytest.mark.parametrize("home", [None, "/dev/null/home"])
def test_it_links_without_a_home(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", *ZIG_CACHES):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    source, library = tmp_path / "f.c", tmp_path / "f.so"
    source.write_text("int f(int x) { return x; }")
    options = ("-target", "x86_64-linux-gnu", "-nostdlib", "-shared", "-o")
    run_zig(["cc", *options, str(library), str(source)], "linking")
    assert library.read_bytes().startswith(b"\x7fELF")
    with pytest.raises(ToolError, match="linking failed with status 1 "):
        run_zig(["cc", *options, os.devnull + "/f.so", str(source)], "linking")


class _Full:
    """What TVM compiled, and has no room to write."""

    def export_library(self, *_: object, **__: object) -> None:
        raise RuntimeError("Check failed: Cannot open file: lib0.o No space left on device")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as raised:
        link(_Full(), "x86_64-linux-gnu", tmp_path / "model.so", name="host_cpu")
    assert raised.value.errno == ENOSPC


def test_no_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "MBV3C_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(ToolError, match=r"no home folder .* set HOME, or MBV3C_CACHE"):
        cache_root()
