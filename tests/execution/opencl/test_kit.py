"""The kit of PoCL and oclgrind, and how its libraries are found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mbv3c.doctor import Requirement, diagnose
from mbv3c.errors import ToolError
from mbv3c.execution.elf import needed
from mbv3c.execution.opencl import kit
from mbv3c.execution.processes import finish


def test_fetched_kit_is_found_again(opencl_kit: kit.OpenCLKit) -> None:
    assert kit.opencl_kit() == opencl_kit
    lines: list[str] = []
    assert kit.fetch_kit(lines.append) == opencl_kit
    assert lines == []  # nothing was fetched


def test_no_kit_in_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    assert kit.opencl_kit() is None


def test_fetch_needs_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="apt-get and dpkg-deb are needed"):
        kit.fetch_kit(print)


def test_doctor_has_optional_rows(
    opencl: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> list[Requirement]:
        return [part for part in diagnose() if "opencl" in part.name or part.name == "oclgrind"]

    assert [part.name for part in rows()] == ["opencl driver", "opencl runtime", "oclgrind"]
    assert all(part.ok and part.optional for part in rows())
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for part in rows():
        assert not part.ok
        assert part.optional
        assert "for target mobile_gpu: " in part.remedy
        assert "mbv3c doctor --fetch" in part.remedy
    assert "apt install pocl-opencl-icd" in rows()[0].remedy


def test_preload_has_all_that_pocl_needs_in_order(opencl_kit: kit.OpenCLKit) -> None:
    order = [path.name for path in opencl_kit.preload()] + [opencl_kit.pocl.name]
    assert "libOpenCL.so.1" not in order  # the system's goes first
    process = {"libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", kit._loader()}
    for index, name in enumerate(order):
        others = set(needed(opencl_kit.libraries / name)) & set(order)
        assert others <= set(order[:index]), name
    assert not process & set(order)


def test_closure_names_what_is_missing(opencl_kit: kit.OpenCLKit, tmp_path: Path) -> None:
    (tmp_path / "libpocl.so.2").write_bytes(opencl_kit.pocl.read_bytes())
    with pytest.raises(ToolError, match=r"the Debian packages brought no lib"):
        kit.closure(["libpocl.so.2"], [tmp_path])


def test_needed_agrees_with_the_dynamic_loader(opencl_kit: kit.OpenCLKit) -> None:
    program = opencl_kit.system / "usr" / "bin" / "oclgrind-kernel"
    names = needed(program)
    assert any(name.startswith("liboclgrind") for name in names)
    command = opencl_kit.oclgrind()
    assert command is not None
    loader, *options = command
    listed = finish([loader, "--list", *options], timeout=60).stdout
    assert "not found" not in listed
    assert all(name in listed for name in names)


def test_needed_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    with pytest.raises(ToolError, match="not a 64-bit ELF file"):
        needed(tmp_path / "text")


def test_linker_needs_no_compiler(opencl_kit: kit.OpenCLKit, tmp_path: Path) -> None:
    """The kit's ld links an object as PoCL's clang asks for it, with libraries that it skips."""
    (tmp_path / "f.c").write_text("double sin(double); double f(double x) { return sin(x); }")
    compile_ = [sys.executable, "-m", "ziglang", "cc", "-c", "-fPIC", "-O1", "f.c"]
    subprocess.run([*compile_, "-target", f"{kit._triple()}"], cwd=tmp_path, check=True)
    options = ["-shared", "-o", "f.so", "-L/nowhere", "f.o", "-lm", "-lgcc", "-lnot_there"]
    linker = opencl_kit.linker / "ld"
    done = finish(
        [linker, *options], timeout=60, folder=tmp_path, environment={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    check = "import ctypes; f = ctypes.CDLL('./f.so').f; f.restype = ctypes.c_double"
    code = f"{check}; f.argtypes = [ctypes.c_double]; print(f(0.0), f(1.0))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == "0.0 0.8414709848078965\n"
    assert os.access(linker, os.X_OK)
