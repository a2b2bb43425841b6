"""Features of processors: their bits, what LLVM takes from them, and the check in C."""

import ctypes
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tvm

from mbv3c.execution import features
from mbv3c.execution.cache import package_folder
from mbv3c.execution.emulator.kit import native_arch
from mbv3c.execution.features import (
    FEATURES,
    Feature,
    features_of,
    lacking_here,
    lacking_in_c,
    listed,
)
from mbv3c.execution.link import run_zig


def compiled_for(triple: str, cpu: str, *without: str) -> tvm.target.Target:
    absent = {"mattr": [f"-{name}" for name in without]} if without else {}
    return tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu, **absent})


LINUX, ANDROID, X86 = "aarch64-linux-gnu", "aarch64-linux-android", "x86_64-linux-gnu"


def test_bits_are_those_of_linux() -> None:
    header = package_folder("ziglang") / "lib/libc/include/aarch64-linux-any/asm/hwcap.h"
    found = re.findall(r"#define HWCAP(2?)_(\w+)\s+\(1(?:UL)? << (\d+)\)", header.read_text())
    places = {name.lower(): (1 if word else 0, int(bit)) for word, name, bit in found}
    assert len(places) > 40
    for feature in FEATURES["aarch64"]:
        assert (feature.word, feature.bit) == places[feature.flag]


@pytest.mark.parametrize(
    ("triple", "cpus"), [(LINUX, ("neoverse-v2",)), (X86, ("sapphirerapids", "alderlake"))]
)
def test_llvm_knows_every_name(triple: str, cpus: tuple[str, ...]) -> None:
    found = {each for cpu in cpus for each in features_of(compiled_for(triple, cpu))}
    assert found == set(FEATURES[triple.partition("-")[0]])


@pytest.mark.parametrize(
    ("target", "flags"),
    [
        (compiled_for(LINUX, "cortex-a53"), ""),
        (compiled_for(ANDROID, "cortex-a76"), "asimdhp asimddp"),
        (compiled_for(ANDROID, "cortex-a55", "dotprod"), "asimdhp"),
        (compiled_for(LINUX, "cortex-a510", "sve"), "asimdhp fcma asimddp i8mm bf16"),
        (compiled_for(X86, "x86-64"), ""),
        (compiled_for("arm64-apple-macos", "apple-a12"), ""),
        (compiled_for("thumbv7em-none-eabihf", "cortex-m7"), ""),
    ],
    ids=["a53", "a76", "a55 without", "a510", "x86", "macos", "m7"],
)
def test_what_a_library_needs(target: tvm.target.Target, flags: str) -> None:
    assert listed(features_of(target)) == flags


def lacking(needed: list[Feature], folder: Path) -> list[str]:
    """Return what the check in C says that this machine lacks."""
    source, library = folder / "check.c", folder / "check.so"
    source.write_text(
        lacking_in_c(needed) + "const char *next(unsigned *from) { return lacking(from); }\n"
    )
    options = ("-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-nostdlib")
    machine = ("-target", f"{native_arch()}-linux-gnu")
    run_zig(["cc", *options, *machine, "-o", str(library), str(source)], "compiling the check")
    following = ctypes.CDLL(str(library)).next
    following.restype = ctypes.c_char_p
    at, named = ctypes.c_uint(0), []
    while (words := following(ctypes.byref(at))) is not None:
        named.append(words.decode())
    return named


def test_the_check_agrees_with_linux(tmp_path: Path) -> None:
    """A feature that nothing has is named, too: its bit is reserved."""
    known = FEATURES[native_arch()]
    nothing = replace(known[0], flag="nothing", bit=63)
    flags = features._flags(Path("/proc/cpuinfo"))
    assert flags
    wanted = [each.words for each in known if each.flag not in flags]
    assert lacking([*known, nothing], tmp_path) == [*wanted, nothing.words]


def test_what_this_machine_lacks_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = compiled_for(X86, "x86-64-v3")
    flags = [each.flag for each in features_of(target)]
    assert {"avx2", "fma"} < set(flags)
    hidden = tmp_path / "hidden"
    one = " ".join(flag for flag in flags if flag != "avx2")
    hidden.write_text(f"flags\t\t: {' '.join(flags)}\n\nflags\t\t: {one}\n")
    for path, wanted in ((hidden, ("avx2",)), (tmp_path / "none", ())):
        monkeypatch.setattr(features, "_CPUINFO", path)
        assert lacking_here(target) == wanted
