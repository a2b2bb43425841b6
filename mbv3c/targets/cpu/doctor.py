"""What emulated processors need on this machine."""

import platform

from mbv3c.execution.cache import FETCH_COMMAND
from mbv3c.execution.emulator.cores import CORES_FETCH, fetch_cores, kit_in_place
from mbv3c.execution.emulator.kit import fetch, kit_folder, kit_in, native_arch
from mbv3c.execution.emulator.llvm import LLVM_REMEDY, fetch_llvm, find_llvm
from mbv3c.progress import Progress
from mbv3c.targets.wing import Doctor, Requirement


def diagnose() -> list[Requirement]:
    """Look for the emulator and what it runs, and for what estimates cycles."""
    return [*_diagnose_kit(), *_diagnose_cores(), _diagnose_llvm()]


def _diagnose_kit() -> list[Requirement]:
    names = ("emulator", "aarch64 runtime", "runner", "counter")
    if (platform.system(), native_arch()) == ("Linux", "aarch64"):
        detail = "not needed: this machine is aarch64 and runs arm_cpu bundles itself"
        return [Requirement(name, True, detail) for name in names]
    folder = kit_folder()
    if folder is None:
        return [Requirement(name, False, "missing", "install apache-tvm first") for name in names]
    kit = kit_in(folder)
    emulator = kit.system / "usr" / "bin" / "qemu-aarch64"
    places = (emulator, kit.runtime / "libtvm_runtime.so", kit.runner, kit.counter)
    return [
        Requirement(name, True, str(place))
        if place.exists()
        else Requirement(name, False, "not fetched", FETCH_COMMAND)
        for name, place in zip(names, places, strict=True)
    ]


def _diagnose_cores() -> list[Requirement]:
    kit = kit_in_place()
    places = {"other emulators": kit.system, "other counter": kit.counter}
    remedy = f"for 32-bit ARM and RISC-V: {CORES_FETCH}"
    return [
        Requirement(name, True, str(place), optional=True)
        if place.exists()
        else Requirement(name, False, "not fetched", remedy, optional=True)
        for name, place in places.items()
    ]


def _diagnose_llvm() -> Requirement:
    llvm = find_llvm()
    if llvm is None:
        return Requirement(
            "llvm-mca", False, "missing", f"for estimated cycles: {LLVM_REMEDY}", True
        )
    program = next(part for part in llvm.mca[::-1] if not part.startswith("-"))
    return Requirement("llvm-mca", True, f"{program} {llvm.version}", optional=True)


def _fetch_emulators(progress: Progress) -> None:
    fetch(progress)
    fetch_cores(progress)


DOCTOR = Doctor(diagnose, {"emulator": _fetch_emulators, "cycles": fetch_llvm})
