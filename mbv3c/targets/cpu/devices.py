"""The table of CPUs.

Cores are those of the board or phone named beside each.
"""

from dataclasses import dataclass, replace
from typing import Self

from mbv3c.precision import FP16, FP32, INT8
from mbv3c.targets.library.target import NATIVE, LibraryTarget, library_table
from mbv3c.targets.wing import PREFIX, Option, Wing


@dataclass(frozen=True)
class CpuTarget(LibraryTarget):
    """A CPU.

    Attributes:
        emulated_as: the name of the processor in QEMU; empty where QEMU has none.
        isa: the row of `ISAS` that every processor of a portable target has; empty for a target
            that is one processor.
    """

    emulated_as: str = ""
    isa: str = ""

    def on_cores(self, cores: int) -> Self:
        return self if cores >= self.cores else replace(self, cores=cores)


_LINUX = "aarch64-linux-gnu"
_ANDROID = "aarch64-linux-android"
_X86 = "x86_64-linux-gnu"

HOST_CPU = CpuTarget("host_cpu", NATIVE, NATIVE, NATIVE, NATIVE, 1, "the machine that compiles")

# QEMU 7.2, which Debian 12 has, knows no Cortex-A55; a Cortex-A76 has all of its instructions.
# fmt: off
CPUS: tuple[CpuTarget, ...] = (
    CpuTarget("arm_cpu", "cortex-a76", _LINUX, "cortex-a76", "aarch64", 4, "Raspberry Pi 5", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a72", _LINUX, "cortex-a72", "aarch64", 4, "Raspberry Pi 4", "cortex-a72"),
    CpuTarget("arm_cpu", "cortex-a55", _LINUX, "cortex-a55", "aarch64", 4, "Rockchip RK3566", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a53", _LINUX, "cortex-a53", "aarch64", 4, "Raspberry Pi 3", "cortex-a53"),
    CpuTarget("arm_cpu", "neoverse-n1", _LINUX, "neoverse-n1", "aarch64", 4, "Ampere Altra", "neoverse-n1"),
    CpuTarget("arm_cpu", "cortex-a76-android", _ANDROID, "cortex-a76", "aarch64", 4, "Snapdragon 855", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a72-android", _ANDROID, "cortex-a72", "aarch64", 4, "Snapdragon 650", "cortex-a72"),
    CpuTarget("arm_cpu", "cortex-a55-android", _ANDROID, "cortex-a55", "aarch64", 4, "Snapdragon 845", "cortex-a76"),
    CpuTarget("arm_cpu", "cortex-a53-android", _ANDROID, "cortex-a53", "aarch64", 4, "Snapdragon 450", "cortex-a53"),
    CpuTarget("arm_cpu", "neoverse-n1-android", _ANDROID, "neoverse-n1", "aarch64", 4, "Android in the cloud", "neoverse-n1"),
    HOST_CPU,
    CpuTarget("host_cpu", "avx2", _X86, "x86-64-v3", "x86_64", 1, "PCs and servers since Haswell and Zen", isa="AVX2"),
    CpuTarget("host_cpu", "avx512", _X86, "x86-64-v4", "x86_64", 1, "servers since Skylake, Zen 4", isa="AVX-512"),
)
# fmt: on

MOST_CORES = 64


def _verified_on(target: CpuTarget) -> str:
    if target.isa:
        return f"a machine with {target.isa}"
    return f"emulated {target.emulated_as}" if target.emulated_as else "this machine"


WING = Wing(
    module="mbv3c.targets.cpu.backend",
    targets=CPUS,
    defaults={"arm_cpu": "cortex-a76", "host_cpu": NATIVE},
    precisions=(FP32, FP16, INT8),
    table=library_table(_verified_on),
    options=(
        Option("cores", int, "Cores that one inference may use.  [default: the target's]"),
        Option(
            "artifact",
            str,
            "c: also a C library, without a runtime; c-source: that in C11; app: sources that run "
            "model.so.",
        ),
        PREFIX,
    ),
    refusals={"emit_source": "--emit-source is for GPUs; the kernels of {target} have no source"},
    doctor_module="mbv3c.targets.cpu.doctor",
)
