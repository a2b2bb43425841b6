"""The processor cores of the targets, as the kernels see them.

Caches and pipes are those of Arm's technical reference manuals and software optimization guides;
where a maker may choose a size, it is that of the board or phone named in the table of targets,
or, where its maker does not say, the least that the manual allows.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tvm
from tvm.target import codegen

from mbv3c.targets.library.target import LibraryTarget, tvm_target

# How a processor multiplies integers: as LLVM compiles plain products, by NEON's widening products
# (`smlal`), by NEON's dot products of four int8 (`sdot`, an option of Armv8.2), by these and
# products of matrices of int8 (`smmla`, which Armv8.6 requires), by pairs of int16 of AVX2 or
# AVX-512BW (`vpmaddwd`), by the dot products of AVX-512 VNNI or AVX-VNNI (`vpdpbusd`), on Cortex-M
# by pairs of int16 (`smlad`) or by Helium (`vmladava`), as LLVM compiles plain products on 32-bit
# ARM (`vmlal`), and wherever a sum rounds to integers better than an instruction (`adding`).
INTEGERS = (
    *("portable", "neon", "dotprod", "i8mm", "pairs", "vnni", "smlad", "helium"),
    *("vmlal", "adding"),
)


@dataclass(frozen=True)
class Processor:
    """The part of a processor's description that decides how a kernel is best written.

    Attributes:
        vector_bytes: width of a vector register.
        registers: number of vector registers.
        lane_operands: whether a multiply-add can take one lane of a vector as the operand of all
            lanes (NEON `fmla v, v, v.s[i]`); otherwise a scalar is broadcast from memory.
        paired_loads: whether two vectors that lie side by side are loaded at once, as by AArch64's
            `ldp`.
        partial_cost: cost of an operation on half a vector or less, relative to a full vector.
        l1_bytes: level-1 data cache of a core.
        l2_bytes: level-2 cache that a core may fill.
        fma_chains: multiply-adds that must be under way to hide their latency.
        cores: number of cores that an inference may use.
        fp16: whether the processor multiplies and adds half precision.
        bf16: whether the processor multiplies matrices of bfloat16 (`bfmmla`).
        integers: way to multiply int8, one of `INTEGERS`.
        parallel_madds: multiply-adds below which waking other cores costs more than it saves.
    """

    vector_bytes: int
    registers: int
    lane_operands: bool
    partial_cost: float
    l1_bytes: int
    l2_bytes: int
    fma_chains: int
    cores: int
    fp16: bool = False
    bf16: bool = False
    integers: str = "portable"
    parallel_madds: int = 200_000
    paired_loads: bool = False

    def lanes(self, dtype: str) -> int:
        """Return how many values of `dtype` a vector holds."""
        return self.vector_bytes // np.dtype(dtype).itemsize

    def worthwhile(self, madds: int) -> bool:
        """Say whether a kernel of this size should use several cores."""
        return self.cores > 1 and madds >= self.parallel_madds


_KIB = 1024
_NEON = Processor(
    vector_bytes=16,
    registers=32,
    lane_operands=True,
    partial_cost=1.0,
    l1_bytes=32 * _KIB,
    l2_bytes=512 * _KIB,
    fma_chains=8,
    cores=1,
    integers="neon",
    paired_loads=True,
)
_DOT = replace(_NEON, fp16=True, integers="dotprod")  # Armv8.2 with both of its options
_X86 = replace(_NEON, registers=16, lane_operands=False, paired_loads=False, integers="portable")
_AVX2 = replace(_X86, vector_bytes=32, integers="pairs")
_AVX512 = replace(_AVX2, vector_bytes=64, registers=32)

# 32 bits: half of the registers, and `vmla` takes a lane, which `vfma` does not.
_ARMV7 = replace(_NEON, registers=16, paired_loads=False, fma_chains=4, integers="vmlal")
# Vectors of 256 bits; `vfmacc.vf` takes a scalar from a register of its own.
_RVV256 = replace(
    _NEON, vector_bytes=32, lane_operands=False, paired_loads=False, integers="adding"
)
# Both options of Armv8.6 that multiply matrices.
_MATRIX = replace(_DOT, integers="i8mm", bf16=True)
# Four pipes that multiply vectors instead of two.
_WIDE = replace(_DOT, fma_chains=16, l1_bytes=64 * _KIB)
_WIDE_MATRIX = replace(_WIDE, integers="i8mm", bf16=True)


def _caches(core: Processor, l1_kib: int, l2_kib: int) -> Processor:
    return replace(core, l1_bytes=l1_kib * _KIB, l2_bytes=l2_kib * _KIB)


# Behind each core of Arm's is the number of its technical reference manual. Multiply-adds take
# four cycles from Cortex-A75 on, in the software optimization guide of each; the M1's figures are
# those of dougallj.github.io/applecpu/firestorm.html, and of arch/arm64/boot/dts/apple/t8103.dtsi
# in Linux. Of x86 the first with its instructions: Haswell and Skylake-SP, by Intel's optimization
# manual.
CORES = {
    "cortex-a35": replace(_NEON, fma_chains=4),  # 100236; NXP's data sheet of the i.MX 8X
    "cortex-a53": replace(_NEON, fma_chains=4),
    "cortex-a55": replace(_DOT, fma_chains=4, l2_bytes=128 * _KIB),
    "cortex-a57": _caches(_NEON, 32, 2048),  # DDI 0488; NVIDIA's data sheet of the Jetson Nano
    "cortex-a72": replace(_NEON, l2_bytes=1024 * _KIB),
    "cortex-a73": _caches(_NEON, 32, 1024),  # 100048; Amlogic's data sheet of the S922X
    "cortex-a75": _caches(_DOT, 64, 256),  # 100403
    "cortex-a76": replace(_DOT, l1_bytes=64 * _KIB),
    "cortex-a77": _caches(_DOT, 64, 256),  # 101111; Linux: dts/qcom/sm8250.dtsi
    "cortex-a78": _caches(_DOT, 64, 256),  # 101430; Linux: dts/mediatek/mt8195.dtsi
    "cortex-x1": _caches(_WIDE, 64, 512),  # 101433
    "cortex-a510": _caches(_MATRIX, 32, 128),  # 101604
    "cortex-a710": _caches(_MATRIX, 32, 256),  # 101800
    "cortex-a715": _caches(_MATRIX, 32, 128),  # 101590
    "cortex-x3": _caches(_WIDE_MATRIX, 64, 512),  # 101593
    "cortex-a520": _caches(_MATRIX, 32, 128),  # 102517
    "cortex-a720": _caches(_MATRIX, 32, 128),  # 102530
    "cortex-x4": _caches(_WIDE_MATRIX, 64, 512),  # 102484
    "neoverse-n1": replace(_DOT, l1_bytes=64 * _KIB, l2_bytes=1024 * _KIB),
    "neoverse-v1": _caches(_WIDE_MATRIX, 64, 1024),  # 101427; Graviton3 has the larger of two
    "neoverse-n2": _caches(_MATRIX, 64, 512),  # 102099
    "neoverse-v2": _caches(_WIDE_MATRIX, 64, 1024),  # 102375
    "apple-m1": _caches(_WIDE, 128, 12 * 1024),
    "cortex-a7": _caches(_ARMV7, 32, 512),  # DDI 0464; NXP's data sheet of the i.MX 7Dual
    "cortex-a9": _caches(_ARMV7, 32, 1024),  # DDI 0388; NXP's data sheet of the i.MX 6Quad
    "spacemit-x60": _caches(_RVV256, 32, 512),  # SpacemiT's data sheet of the K1
    "x86-64-v3": replace(_AVX2, l2_bytes=256 * _KIB, fma_chains=10),
    "x86-64-v4": replace(_AVX512, l2_bytes=1024 * _KIB),
}

# The processor whose scheduling model is taken for a core: the one that LLVM 19 has for it, but
# where that is of another core. For Cortex-A76 to A78 and X1 it is that of a Cortex-A57; a
# Neoverse N1 has the pipes of the first three, and a Neoverse V1 those of an X1. For X3 and X4 it
# is that of a Neoverse N2, which has half of their pipes; a Neoverse V2 has as many. An M1 has the
# cores of an A14.
SCHEDULING_MODELS = {
    "cortex-a35": "cortex-a53",
    "cortex-a53": "cortex-a53",
    "cortex-a55": "cortex-a55",
    "cortex-a57": "cortex-a57",
    "cortex-a72": "cortex-a72",
    "cortex-a73": "cortex-a73",
    "cortex-a75": "cortex-a75",
    "cortex-a76": "neoverse-n1",
    "cortex-a77": "neoverse-n1",
    "cortex-a78": "neoverse-n1",
    "cortex-x1": "neoverse-v1",
    "cortex-a510": "cortex-a510",
    "cortex-a710": "cortex-a710",
    "cortex-a715": "cortex-a715",
    "cortex-x3": "neoverse-v2",
    "cortex-a520": "cortex-a520",
    "cortex-a720": "cortex-a720",
    "cortex-x4": "neoverse-v2",
    "neoverse-n1": "neoverse-n1",
    "neoverse-v1": "neoverse-v1",
    "neoverse-n2": "neoverse-n2",
    "neoverse-v2": "neoverse-v2",
    "apple-m1": "apple-a14",
}

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def processor_of(target: LibraryTarget) -> Processor:
    """Describe the processor of a resolved target: known by its name, or asked of LLVM."""
    known = CORES.get(target.cpu) or _detected(target, tvm_target(target))
    integers = known.integers
    if integers in ("dotprod", "i8mm") and not {"dotprod", "i8mm"}.isdisjoint(target.without):
        integers = "neon" if "dotprod" in target.without else "dotprod"
    return replace(
        known,
        cores=target.cores,
        fp16=known.fp16 and "fullfp16" not in target.without,
        integers=integers,
    )


def _detected(target: LibraryTarget, triple_target: tvm.target.Target) -> Processor:
    """Describe this machine: LLVM knows its vectors, and the system its caches."""
    has = codegen.llvm_cpu_has_features
    able = [way for way in ("i8mm", "dotprod") if has(way, triple_target)]
    here = replace(
        _NEON,
        fp16=has("fullfp16", triple_target),
        bf16=has("bf16", triple_target),
        integers=[*able, "neon"][0],
        l1_bytes=_cache("1", "Data") or _NEON.l1_bytes,
        l2_bytes=_cache("2", "Unified") or _NEON.l2_bytes,
    )
    if target.arch == "aarch64":
        return here
    x86 = replace(
        _X86,
        fp16=has("avx512fp16", triple_target),
        l1_bytes=here.l1_bytes,
        l2_bytes=here.l2_bytes,
    )
    if has("avx512f", triple_target):
        pairs = "pairs" if has("avx512bw", triple_target) else "portable"
        vnni = has("avx512vnni", triple_target) and has("avx512vl", triple_target)
        wide = replace(x86, vector_bytes=64, registers=32, integers="vnni" if vnni else pairs)
        # Zen computes a 512-bit vector as two halves: half of one costs half, and fewer are
        # under way.
        halves = target.cpu.startswith("znver")
        return replace(wide, partial_cost=0.5, fma_chains=4) if halves else wide
    if has("avx2", triple_target):
        vnni = has("avxvnni", triple_target)
        return replace(x86, vector_bytes=32, integers="vnni" if vnni else "pairs")
    return replace(x86, vector_bytes=16)


def _cache(level: str, kind: str) -> int | None:
    """Return the bytes of a cache of the first core, where the system tells."""
    if not _CACHES.is_dir() or os.name != "posix":
        return None
    for index in sorted(_CACHES.glob("index*")):
        try:
            cache = [(index / name).read_text().strip() for name in ("level", "type", "size")]
        except OSError:
            continue
        if cache[:2] == [level, kind] and cache[2].endswith("K"):
            return int(cache[2][:-1]) * _KIB
    return None
