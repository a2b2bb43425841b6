"""The table of CPUs.

Cores are those of the board or phone named beside each.
"""

from dataclasses import dataclass, field, replace
from typing import Self

from mbv3c.precision import BF16, FP16, FP32, INT8
from mbv3c.target import Limits
from mbv3c.targets.cpu import peaks
from mbv3c.targets.library.target import NATIVE, LibraryTarget, library_table
from mbv3c.targets.wing import PREFIX, Option, Wing


@dataclass(frozen=True)
class CpuTarget(LibraryTarget):
    """A CPU.

    Attributes:
        emulated_as: the name of the processor in QEMU; empty where QEMU has none.
        emulated_with: what QEMU is to change of that processor, as its option -cpu takes it.
        has_runtime: whether TVM has a runtime for it; without one it gets C libraries alone.
        isa: the row of `ISAS` that every processor of a portable target has; empty for a target
            that is one processor.
    """

    emulated_as: str = ""
    isa: str = ""
    emulated_with: str = field(default="", kw_only=True)
    has_runtime: bool = field(default=True, kw_only=True)

    def on_cores(self, cores: int) -> Self:
        return replace(self, cores=min(cores, FEW_CORES))

    def limits(self, precision: str) -> Limits | None:
        return peaks.limits(self.cpu, self.example, precision)


_LINUX = "aarch64-linux-gnu"
_ANDROID = "aarch64-linux-android"
_X86 = "x86_64-linux-gnu"
_ARMV7 = "armv7-linux-gnueabihf"
_RISCV = "riscv64-linux-gnu"

HOST_CPU = CpuTarget("host_cpu", NATIVE, NATIVE, NATIVE, NATIVE, 1, "the machine that compiles")

# What libraries do without. Snapdragons hide scalable vectors, the Pixel 8 bfloat16
# (github.com/hrw/arm-socs-table, issues 88, 98 and 99). Kernels in bfloat16 are written where
# --precision bf16 asks for them.
_NARROW = ("sve", "sve2", "bf16")

# LLVM splits products from their sums on these cores, where they follow one another closely. Tiles
# have enough sums for them not to. Its other scheduler leaves values in registers.
_PRODUCTS_AND_SUMS = ("-vmlx-hazards", "-expand-fp-mlx", "+use-misched")
_RVV256 = "v=true,vext_spec=v1.0,vlen=256"

# QEMU 7.2, which Debian 12 has, knows few cores, and of RISC-V no `czero` (Zicond). Another has
# all instructions of a core that it lacks, and `max` those of Armv8.6 and more. What phones have and lack is in /proc/cpuinfo of each,
# collected in github.com/hrw/arm-socs-table: of the Snapdragon 845 in issue 11, the Snapdragon 685
# in 174, Helio G85 in 44, Unisoc T606 in 119, the Tensor of the Pixel 6 in 60.
# fmt: off
CPUS: tuple[CpuTarget, ...] = (
    CpuTarget("arm_cpu", "cortex-a76", _LINUX, "cortex-a76", "aarch64", 4, "Raspberry Pi 5", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a72", _LINUX, "cortex-a72", "aarch64", 4, "Raspberry Pi 4", "cortex-a72"),
    CpuTarget("arm_cpu", "cortex-a55", _LINUX, "cortex-a55", "aarch64", 4, "Rockchip RK3566", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a53", _LINUX, "cortex-a53", "aarch64", 4, "Raspberry Pi 3", "cortex-a53"),
    CpuTarget("arm_cpu", "neoverse-n1", _LINUX, "neoverse-n1", "aarch64", 4, "Ampere Altra", "neoverse-n1"),
    CpuTarget("arm_cpu", "cortex-a35", _LINUX, "cortex-a35", "aarch64", 4, "NXP i.MX 8X", "cortex-a35"),
    CpuTarget("arm_cpu", "cortex-a57", _LINUX, "cortex-a57", "aarch64", 4, "NVIDIA Jetson Nano", "cortex-a57"),
    CpuTarget("arm_cpu", "cortex-a73", _LINUX, "cortex-a73", "aarch64", 4, "ODROID-N2", "cortex-a72"),
    CpuTarget("arm_cpu", "cortex-a75", _LINUX, "cortex-a75", "aarch64", 2, "Unisoc T606", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a77", _LINUX, "cortex-a77", "aarch64", 4, "Qualcomm RB5", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a78", _LINUX, "cortex-a78", "aarch64", 4, "MediaTek Genio 1200", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-x1", _LINUX, "cortex-x1", "aarch64", 2, "Google Tensor", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a510", _LINUX, "cortex-a510", "aarch64", 4, "Snapdragon 8 Gen 2", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-a710", _LINUX, "cortex-a710", "aarch64", 2, "Snapdragon 8 Gen 2", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-a715", _LINUX, "cortex-a715", "aarch64", 2, "Snapdragon 8 Gen 2", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-x3", _LINUX, "cortex-x3", "aarch64", 1, "Snapdragon 8 Gen 2", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-a520", _LINUX, "cortex-a520", "aarch64", 2, "Snapdragon 8 Gen 3", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-a720", _LINUX, "cortex-a720", "aarch64", 4, "Radxa Orion O6", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-x4", _LINUX, "cortex-x4", "aarch64", 1, "Snapdragon 8 Gen 3", "max", without=_NARROW),
    CpuTarget("arm_cpu", "neoverse-v1", _LINUX, "neoverse-v1", "aarch64", 4, "AWS Graviton3", "max", without=_NARROW),
    CpuTarget("arm_cpu", "neoverse-n2", _LINUX, "neoverse-n2", "aarch64", 4, "Azure Cobalt 100", "max", without=_NARROW),
    CpuTarget("arm_cpu", "neoverse-v2", _LINUX, "neoverse-v2", "aarch64", 4, "AWS Graviton4, NVIDIA Grace", "max", without=_NARROW),
    CpuTarget("arm_cpu", "apple-m1", _LINUX, "apple-m1", "aarch64", 4, "Macs with an M1 and Linux", "max"),
    CpuTarget("arm_cpu", "cortex-a76-android", _ANDROID, "cortex-a76", "aarch64", 4, "Snapdragon 855", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a72-android", _ANDROID, "cortex-a72", "aarch64", 4, "Snapdragon 650", "cortex-a72"),
    CpuTarget("arm_cpu", "cortex-a55-android", _ANDROID, "cortex-a55", "aarch64", 4, "Snapdragon 855, Helio G85", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a53-android", _ANDROID, "cortex-a53", "aarch64", 4, "Snapdragon 450", "cortex-a53"),
    CpuTarget("arm_cpu", "neoverse-n1-android", _ANDROID, "neoverse-n1", "aarch64", 4, "Android in the cloud", "neoverse-n1"),
    CpuTarget("arm_cpu", "cortex-a73-android", _ANDROID, "cortex-a73", "aarch64", 4, "Snapdragon 685", "cortex-a72"),
    CpuTarget("arm_cpu", "cortex-a75-android", _ANDROID, "cortex-a75", "aarch64", 2, "Unisoc T606, Helio G85", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a77-android", _ANDROID, "cortex-a77", "aarch64", 4, "Snapdragon 865", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a78-android", _ANDROID, "cortex-a78", "aarch64", 4, "Snapdragon 6 Gen 1", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-x1-android", _ANDROID, "cortex-x1", "aarch64", 2, "Pixel 6", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a510-android", _ANDROID, "cortex-a510", "aarch64", 4, "Snapdragon 8 Gen 2, Pixel 8", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-a710-android", _ANDROID, "cortex-a710", "aarch64", 2, "Snapdragon 8 Gen 2", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-a715-android", _ANDROID, "cortex-a715", "aarch64", 2, "Snapdragon 8 Gen 2, Pixel 8", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-x3-android", _ANDROID, "cortex-x3", "aarch64", 1, "Snapdragon 8 Gen 2, Pixel 8", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-a520-android", _ANDROID, "cortex-a520", "aarch64", 2, "Snapdragon 8 Gen 3", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-a720-android", _ANDROID, "cortex-a720", "aarch64", 4, "Snapdragon 8 Gen 3", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-x4-android", _ANDROID, "cortex-x4", "aarch64", 1, "Snapdragon 8 Gen 3", "max", without=_NARROW),
    CpuTarget("arm_cpu", "cortex-a75-nodotprod-android", _ANDROID, "cortex-a75", "aarch64", 4, "Snapdragon 845", "cortex-a76", without=("dotprod",)),
    CpuTarget("arm_cpu", "cortex-a55-nodotprod-android", _ANDROID, "cortex-a55", "aarch64", 4, "Snapdragon 845", "cortex-a76", without=("dotprod",)),
    CpuTarget("arm_cpu", "cortex-a7", _ARMV7, "cortex-a7", "armv7", 4, "Raspberry Pi 2, i.MX 7", "cortex-a7", generating=_PRODUCTS_AND_SUMS, has_runtime=False),
    CpuTarget("arm_cpu", "cortex-a9", _ARMV7, "cortex-a9", "armv7", 4, "i.MX 6", "cortex-a9", generating=_PRODUCTS_AND_SUMS, has_runtime=False),
    CpuTarget("riscv_cpu", "spacemit-k1", _RISCV, "spacemit-x60", "riscv64", 4, "Banana Pi BPI-F3", "rv64", emulated_with=_RVV256, without=("zicond",), has_runtime=False),
    HOST_CPU,
    CpuTarget("host_cpu", "avx2", _X86, "x86-64-v3", "x86_64", 1, "PCs and servers since Haswell and Zen", isa="AVX2"),
    CpuTarget("host_cpu", "avx512", _X86, "x86-64-v4", "x86_64", 1, "servers since Skylake, Zen 4", isa="AVX-512"),
)
# fmt: on

_STANDALONE = "mbv3c.targets.cpu.standalone.backend"
MOST_CORES = 64
FEW_CORES = 4  # of a board with more, that an inference takes unless it is told


def _verified_on(target: CpuTarget) -> str:
    if target.isa:
        return f"an {target.isa} machine"
    return f"emulated {target.emulated_as}" if target.emulated_as else "this machine"


CORES = Option(
    "cores", int, "Let one inference use so many cores.  [default: the target's]", (1, MOST_CORES)
)
DENSE_WEIGHTS = Option(
    "dense_weights",
    str,
    "Store the weights of the classifier and of squeeze-and-excitation in bf16 or int8, and "
    "compute in fp32 all the same.",
)
WING = Wing(
    module="mbv3c.targets.cpu.backend",
    targets=CPUS,
    others={cpu.name: _STANDALONE for cpu in CPUS if not cpu.has_runtime},
    defaults={"arm_cpu": "cortex-a76", "host_cpu": NATIVE, "riscv_cpu": "spacemit-k1"},
    precisions=(FP32, FP16, BF16, INT8),
    table=library_table(_verified_on),
    options=(
        CORES,
        Option(
            "artifact",
            str,
            "Add c: a C library, without a runtime; c-source: that in C11; app: sources "
            "that run model.so.",
        ),
        PREFIX,
        DENSE_WEIGHTS,
    ),
    refusals={"emit_source": "--emit-source is for GPUs; the kernels of {target} have no source"},
    doctor_module="mbv3c.targets.cpu.doctor",
)
