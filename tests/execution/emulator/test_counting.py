"""The instruction counter on programs whose counts are known."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mbv3c.errors import ToolError
from mbv3c.execution.emulator.counting import (
    Count,
    Functions,
    by_function,
    by_thread,
    count_bundle,
    functions,
    is_settled,
    read_counts,
)
from mbv3c.execution.emulator.kit import EmulatorKit

Counter = Callable[[str], Count]

# Each region: a branch ends the block of the start marker, the loop is three instructions, the
# block of the end marker two.
REGION = """
    mov x1, #{times}
    hint #100
    b 1f
1:  fmla v0.4s, v1.4s, v2.4s
    subs x1, x1, #1
    b.ne 1b
    hint #101
    b 2f
2:
"""


def test_counts_a_loop_exactly(counted: Counter) -> None:
    found = counted(REGION.format(times=100))
    assert found.regions == (3 * 100 + 2,)
    assert found.classes() == {
        "vector_fmla": 100,
        "other_simd": 0,
        "loads_stores": 0,
        "branches": 100 + 2,
        "integer": 100,
    }


def test_regions_are_apart_and_repeat_exactly(counted: Counter) -> None:
    body = REGION.format(times=10) + "    nop\n" * 5 + REGION.format(times=1000)
    found = counted(body)
    assert found.regions == (32, 3002)
    assert found.instructions == sum(found.classes().values()) == 3002
    assert counted(body) == found


def test_instructions_go_to_their_function(counted: Counter, tmp_path: Path) -> None:
    call = "    mov x1, #7\n    hint #100\n    bl twice\n    hint #101\n    b 3f\n"
    twice = (
        ".type twice, %function\ntwice:\n    b 4f\n4:  subs x1, x1, #1\n    b.ne 4b\n    ret\n3:\n"
    )
    found = counted(call + twice)
    sums = by_function(found, functions(tmp_path / "model.so"))
    assert sums == {"twice": 1 + 7 * 2 + 1, "_start": 2}


def test_program_without_markers_is_an_error(counted: Counter) -> None:
    with pytest.raises(ToolError, match="the program marked no region"):
        counted("    nop\n")


def test_emulator_without_plugins_is_named(emulator_kit: EmulatorKit, tmp_path: Path) -> None:
    """As that of Debian 13; a static program that prints nothing stands in for it."""
    qemu, source = tmp_path / "usr" / "bin" / "qemu-aarch64", tmp_path / "exit.s"
    qemu.parent.mkdir(parents=True)
    source.write_text(".globl _start\n_start: mov $60, %eax\n xor %edi, %edi\n syscall\n")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu"]
    subprocess.run([*command, "-nostdlib", "-static", "-o", qemu, source], check=True)
    with pytest.raises(ToolError, match="built without plugins"):
        count_bundle(replace(emulator_kit, system=tmp_path), "cortex-a76", tmp_path)


def test_what_the_plugin_writes_is_read() -> None:
    text = (
        "region 5\nregion 6\nblock 7f0010 3 4e20cc00 d65f03c0\nblock 99 1 d503201f\n"
        "map 7f0000-7f1000 r-xp 00002000 08:01 42   /a b/model.so\n"
        "map 7f2000-7f3000 rw-p 00000000 00:00 0 \n"
    )
    found = read_counts(text)
    assert found.regions == (5, 6)
    assert [(b.file, b.offset, b.executed) for b in found.blocks] == [
        ("/a b/model.so", 0x2010, 6),
        ("", 0, 1),
    ]
    assert by_function(found, Functions((0x1000, 0x2010), ("f", "g"))) == {"g": 6, "": 1}
    assert by_function(found, Functions((0x2011,), ("h",))) == {"": 7}


def test_what_threads_ran_is_told_apart() -> None:
    text = (
        "region 9\nblock 7f0010 3,0,2 4e20cc00 d65f03c0\nblock 7f0020 0,1 d503201f\n"
        "block 99 1,5 d503201f\nmap 7f0000-7f1000 r-xp 00002000 08:01 42   /a/model.so\n"
    )
    found = read_counts(text)
    assert [block.times for block in found.blocks] == [5, 1, 6]
    one = Functions((0x2000,), ("f",))
    assert by_thread(found, one) == {"f": (6, 1, 4)}
    assert by_function(found, one) == {"f": 11, "": 6}


def test_stripped_library_has_no_functions(emulator_kit: EmulatorKit, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="was stripped"):
        functions(emulator_kit.runner)
    (tmp_path / "x").write_text("no library")
    with pytest.raises(ToolError, match="not a 64-bit ELF library"):
        functions(tmp_path / "x")


def test_inferences_are_settled_where_the_last_are_equal() -> None:
    """The numbers are those of Large in int8, in a folder whose path has 36 characters."""
    counted = (33139266, 33127160, 33126403, 33126531, 33126199)
    assert not is_settled(counted)
    assert not is_settled((*counted, 33126199))
    assert is_settled((*counted, 33126199, 33126199))
