"""What processors of one architecture have or lack, and a check in C that a library makes itself.

LLVM's name of a core says what the core can have at most: a maker may leave options out, a system
may not support registers, and a virtual machine may hide instructions. A library that meets an
instruction that is not there ends its process without a word, so it looks first.

Bits are those of Linux for ARM (`asm/hwcap.h`, in the auxiliary vector) and for RISC-V, where they
are letters of extensions (Linux 6.5 and newer know V), and of CPUID (Intel's Software Developer's
Manual, volume 2A, table 3-8; AMD's manual, volume 3, appendix E).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Feature:
    """Instructions that LLVM may write into a library of ours, beyond those of every processor.

    Attributes:
        llvm: LLVM's name.
        flag: Linux's name, in /proc/cpuinfo.
        word: the number of the word that says whether the processor has it, as `_READ` reads them.
        bit: the bit of that word.
        meaning: what it is, where the name does not say so.
    """

    llvm: str
    flag: str
    word: int
    bit: int
    meaning: str = ""

    @property
    def words(self) -> str:
        """What messages call it."""
        return f"{self.meaning} ({self.flag})" if self.meaning else self.flag


# fmt: off
FEATURES: dict[str, tuple[Feature, ...]] = {
    "aarch64": (
        Feature("fullfp16", "asimdhp", 0, 10, "arithmetic in half precision"),
        Feature("complxnum", "fcma", 0, 14, "products of complex numbers"),
        Feature("dotprod", "asimddp", 0, 20, "dot products of int8"),
        Feature("sve", "sve", 0, 22, "scalable vectors"),
        Feature("sve2", "sve2", 1, 1, "scalable vectors"),
        Feature("i8mm", "i8mm", 1, 13, "products of matrices of int8"),
        Feature("bf16", "bf16", 1, 14, "arithmetic in bfloat16"),
    ),
    "armv7": (
        Feature("neon", "neon", 0, 12, "vectors"),
        Feature("vfp4", "vfpv4", 0, 16, "products and sums that are rounded once"),
        Feature("hwdiv-arm", "idiva", 0, 17, "division of integers"),
    ),
    "riscv64": (
        Feature("v", "v", 0, 21, "vectors"),
        Feature("zvl256b", "zvl256b", 1, 0, "vectors of 256 bits"),
    ),
    "x86_64": (
        Feature("sse3", "pni", 0, 0),
        Feature("ssse3", "ssse3", 0, 9),
        Feature("fma", "fma", 0, 12),
        Feature("sse4.1", "sse4_1", 0, 19),
        Feature("sse4.2", "sse4_2", 0, 20),
        Feature("movbe", "movbe", 0, 22),
        Feature("popcnt", "popcnt", 0, 23),
        Feature("avx", "avx", 0, 28),
        Feature("f16c", "f16c", 0, 29),
        Feature("bmi", "bmi1", 1, 3),
        Feature("avx2", "avx2", 1, 5),
        Feature("bmi2", "bmi2", 1, 8),
        Feature("avx512f", "avx512f", 1, 16),
        Feature("avx512dq", "avx512dq", 1, 17),
        Feature("avx512ifma", "avx512ifma", 1, 21),
        Feature("avx512cd", "avx512cd", 1, 28),
        Feature("avx512bw", "avx512bw", 1, 30),
        Feature("avx512vl", "avx512vl", 1, 31),
        Feature("avx512vbmi", "avx512vbmi", 2, 1),
        Feature("avx512vbmi2", "avx512_vbmi2", 2, 6),
        Feature("gfni", "gfni", 2, 8),
        Feature("avx512vnni", "avx512_vnni", 2, 11),
        Feature("avx512bitalg", "avx512_bitalg", 2, 12),
        Feature("avx512vpopcntdq", "avx512_vpopcntdq", 2, 14),
        Feature("avx512fp16", "avx512_fp16", 3, 23),
        Feature("avxvnni", "avx_vnni", 4, 4),
        Feature("avx512bf16", "avx512_bf16", 4, 5),
        Feature("lzcnt", "abm", 5, 5),
    ),
}
# fmt: on

_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = ("flags", "Features")  # what it calls them on x86, and on ARM


def features_of(target: "tvm.target.Target") -> tuple[Feature, ...]:
    """Return what a processor must have to run what LLVM compiles for a target.

    Other systems than Linux, and other processors, are not asked.
    """
    triple = str(target.attrs["mtriple"])
    if "-linux-" not in triple:
        return ()
    known = FEATURES.get(triple.partition("-")[0], ())
    if not known:
        return ()
    from tvm.target import codegen

    taken = {str(name) for name in codegen.llvm_get_cpu_features(target)}
    return tuple(feature for feature in known if feature.llvm in taken)


def lacking_here(target: "tvm.target.Target") -> tuple[str, ...]:
    """Return what this machine lacks of what LLVM takes its processor to have, by LLVM's names.

    Nothing, where the system does not tell.
    """
    flags = _flags(_CPUINFO)
    if not flags:
        return ()
    return tuple(each.llvm for each in features_of(target) if each.flag not in flags)


@cache
def _flags(cpuinfo: Path) -> frozenset[str]:
    """Return what all processors have."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    fields = (line.partition(":") for line in lines)
    sets = [frozenset(flags.split()) for name, _, flags in fields if name.strip() in _FLAGS]
    return frozenset.intersection(*sets) if sets else frozenset()


# ---- the check, in C ----

_READ = {
    "aarch64": """\
extern unsigned long getauxval(unsigned long);

static void read_processor(unsigned long *has) {
  has[0] = getauxval(16); /* AT_HWCAP */
  has[1] = getauxval(26); /* AT_HWCAP2 */
}
""",
    "armv7": """\
extern unsigned long getauxval(unsigned long);

static void read_processor(unsigned long *has) {
  has[0] = getauxval(16); /* AT_HWCAP */
}
""",
    "riscv64": """\
extern unsigned long getauxval(unsigned long);

static void read_processor(unsigned long *has) {
  has[0] = getauxval(16); /* AT_HWCAP */
  if (has[0] >> 21 & 1) { /* V, so there is vlenb, by its number */
    unsigned long bytes;
    __asm__ volatile("csrr %0, 0xc22" : "=r"(bytes));
    has[1] = bytes >= 32;
  }
}
""",
    "x86_64": """\
static void ask(unsigned leaf, unsigned part, unsigned *of) {
  __asm__ volatile("cpuid"
                   : "=a"(of[0]), "=b"(of[1]), "=c"(of[2]), "=d"(of[3])
                   : "a"(leaf), "c"(part));
}

static void read_processor(unsigned long *has) {
  unsigned of[4], kept = 0, high = 0;
  ask(0, 0, of);
  const unsigned last = of[0];
  ask(1, 0, of);
  has[0] = of[2];
  if (of[2] >> 27 & 1) __asm__ volatile("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));
  if (last >= 7) {
    ask(7, 0, of);
    has[1] = of[1];
    has[2] = of[2];
    has[3] = of[3];
    if (of[0] >= 1) {
      ask(7, 1, of);
      has[4] = of[0];
    }
  }
  ask(0x80000001u, 0, of);
  has[5] = of[2];
  /* The system must keep wide registers, too. */
  if ((kept & 0x6) != 0x6) has[0] &= ~(1ul << 28);
  if ((kept & 0xe6) != 0xe6) has[1] &= ~(1ul << 16);
}
""",
}
_WORDS = 6


def lacking_in_c(features: Sequence[Feature]) -> str:
    """Return the C of `lacking`, which names what the processor lacks.

    It calls `getauxval` of the C library on ARM and RISC-V, and nothing on x86.

    Args:
        features: what is needed, of one architecture; at least one.
    """
    arch = next(name for name, known in FEATURES.items() if features[0] in known)
    longest = max(len(feature.words) for feature in features) + 1
    rows = ", ".join(f'{{{each.word}, {each.bit}, "{each.words}"}}' for each in features)
    zeros = ", ".join("0" * _WORDS)
    return f"""\
{_READ[arch]}
/* Returns a feature that is needed and not there, of those from number *from on; NULL: none. */
static const char *lacking(unsigned *from) {{
  static const struct {{
    unsigned char word, bit;
    char words[{longest}];
  }} needed[] = {{{rows}}};
  unsigned long has[] = {{{zeros}}};
  read_processor(has);
  while (*from < sizeof needed / sizeof *needed) {{
    const unsigned at = (*from)++;
    if (!(has[needed[at].word] >> needed[at].bit & 1)) return needed[at].words;
  }}
  return 0;
}}
"""


def listed(features: Iterable[Feature]) -> str:
    """Return Linux's names of features, in one line."""
    return " ".join(feature.flag for feature in features)
