"""Classes of instructions, as an assembler writes them."""

import struct
import subprocess
import sys
from pathlib import Path

from mbv3c.execution.emulator.counting import CLASSES, classify, functions

KNOWN = {
    "vector_fmla": (
        "fmla v0.4s, v1.4s, v2.4s",
        "fmls v31.2d, v30.2d, v29.2d",
        "fmla v0.2s, v1.2s, v2.2s",
        "fmla v0.8h, v1.8h, v2.8h",
        "fmls v0.4h, v1.4h, v2.4h",
        "fmla v20.4s, v15.4s, v8.s[3]",
        "fmls v20.2d, v15.2d, v8.d[1]",
        "fmla v20.8h, v15.8h, v8.h[7]",
    ),
    "other_simd": (
        "fmadd s0, s1, s2, s3",
        "fadd v0.4s, v1.4s, v2.4s",
        "fmul v0.4s, v1.4s, v2.s[0]",
        "fmax v0.4s, v1.4s, v2.4s",
        "fmulx v0.4s, v1.4s, v2.4s",
        "frecps v0.4s, v1.4s, v2.4s",
        "mla v0.4s, v1.4s, v2.4s",
        "sdot v0.4s, v1.16b, v2.16b",
        "movi v0.2d, #0",
        "dup v0.4s, w1",
        "fcvt s0, h1",
        "ext v0.16b, v1.16b, v2.16b, #4",
    ),
    "loads_stores": (
        "ldr q0, [x1]",
        "ldp q0, q1, [x2, #32]",
        "ld1 {v0.4s, v1.4s}, [x0]",
        "ld1r {v0.4s}, [x0]",
        "stp x29, x30, [sp, #-16]!",
        "str s0, [x1, x2, lsl #2]",
        "ldrb w0, [x1], #1",
        "ldaxr x0, [x1]",
        "prfm pldl1keep, [x0]",
    ),
    "branches": ("ret", "b.ne .", "cbz x0, .", "tbnz x0, #3, .", "blr x3", "hint #100", "nop"),
    "integer": (
        "add x0, x1, #4",
        "madd x0, x1, x2, x3",
        "mov x0, #7",
        "adr x0, .",
        "csel x0, x1, x2, ne",
        "lsl x0, x1, #2",
        "subs x1, x1, x2",
        "udiv w0, w1, w2",
    ),
}


def test_every_class_by_the_assembler(tmp_path: Path) -> None:
    lines = [(text, kind) for kind, texts in KNOWN.items() for text in texts]
    source, library = tmp_path / "code.s", tmp_path / "code.so"
    head = ".arch armv8.2-a+fp16+dotprod\n.globl code\n.type code, %function\ncode:\n"
    source.write_text(head + "".join(f"    {text}\n" for text, _ in lines))
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"]
    flags = ["-mcpu=cortex_a76", "-nostdlib", "-shared", "-o"]
    subprocess.run([*command, *flags, library, source], check=True)
    found = functions(library)
    assert found.names == ("code",)
    words = struct.unpack_from(f"<{len(lines)}I", library.read_bytes(), found.offsets[0])
    wrong = [line for line, word in zip(lines, words, strict=True) if classify(word) != line[1]]
    assert not wrong
    assert set(KNOWN) == set(CLASSES)
