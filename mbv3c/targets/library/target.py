"""Targets for which a shared library is linked: a processor, perhaps with a GPU beside it."""

import platform
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from mbv3c.errors import ToolError
from mbv3c.execution.emulator.kit import native_arch
from mbv3c.execution.features import lacking_here
from mbv3c.target import Target
from mbv3c.targets.wing import TargetTable

if TYPE_CHECKING:
    import tvm

NATIVE = "native"


@dataclass(frozen=True)
class LibraryTarget(Target):
    """A device with a processor that loads a shared library.

    Core names and their features are LLVM's (`llc -march=aarch64 -mcpu=help`).

    Attributes:
        triple: LLVM's target triple; `native` is the machine that compiles.
        cpu: LLVM's name of the processor; `native` is that of the machine that compiles.
        arch: the machine of the library, as `uname -m` prints it, or `native`.
        cores: the number of cores that one inference may use, by default those of the example.
        example: a board or phone with this processor.
        without: what the library does without, of what LLVM takes the core to have: the device
            lacks it, or nothing here needs it. By LLVM's names.
        generating: how LLVM is to generate code otherwise than it does for the core by itself:
            its names, each behind + or -.
    """

    triple: str
    cpu: str
    arch: str
    cores: int
    example: str
    without: tuple[str, ...] = field(default=(), kw_only=True)
    generating: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def runs_natively(self) -> bool:
        """Whether this machine has the architecture of the library."""
        return self.arch in (NATIVE, native_arch())


AnyLibraryTarget = TypeVar("AnyLibraryTarget", bound=LibraryTarget)


def resolve(target: AnyLibraryTarget) -> AnyLibraryTarget:
    """Put this machine's names in the place of `native`, and leave out what its processor lacks.

    Raises:
        ToolError: a library for this machine cannot be linked.
    """
    if target.cpu != NATIVE:
        return target
    if platform.system() != "Linux":
        raise ToolError(
            f"target {target.name} links for Linux only and this is {platform.system()}; compile "
            "for arm_cpu, or use a Linux machine"
        )
    from tvm.target import codegen

    arch = platform.machine()
    here = replace(
        target, triple=f"{arch}-linux-gnu", cpu=str(codegen.llvm_get_system_cpu()), arch=arch
    )
    return replace(here, without=lacking_here(tvm_target(here)))


def on_this_machine(target: AnyLibraryTarget) -> AnyLibraryTarget:
    """Return a target whose library is for the machine that compiles."""
    return replace(target, triple=NATIVE, cpu=NATIVE, arch=NATIVE, without=())


def tvm_target(target: LibraryTarget) -> "tvm.target.Target":
    """Say in TVM's terms what to generate the processor's code for; `target` must be resolved."""
    import tvm

    changes = [*(f"-{name}" for name in target.without), *target.generating]
    hard = target.triple.endswith("eabihf")
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": target.triple,
            "mcpu": target.cpu,
            "num-cores": target.cores,
            **({"mattr": changes} if changes else {}),
            **({"mfloat-abi": "hard"} if hard else {}),
        }
    )


def library_table(verified_on: Callable[[Any], str]) -> TargetTable:
    """Return how targets are listed, of which `verified_on` says what runs their bundles."""

    def line(target: LibraryTarget) -> str:
        return f"{verified_on(target):<21}{target.example}"

    def row(target: LibraryTarget) -> dict[str, Any]:
        optional = {name: getattr(target, name, "") for name in ("emulated_as", "gpu", "isa")}
        return {
            "triple": target.triple,
            "cpu": target.cpu,
            "example": target.example,
            **{name: value or None for name, value in optional.items()},
        }

    return TargetTable(line=line, row=row)
