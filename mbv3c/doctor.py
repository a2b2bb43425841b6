"""What is missing on this machine to compile and to verify."""

import platform
import sys

from mbv3c.execution.browser import BROWSER_FETCH, browser_kit, fetch_browser
from mbv3c.execution.cache import package_version
from mbv3c.execution.emulator.kit import FFI_VERSION, TVM_VERSION
from mbv3c.installing import install_extra
from mbv3c.progress import Progress
from mbv3c.targets import every_wing
from mbv3c.targets.wing import Requirement
from mbv3c.training.demo import DEMO_FETCH, demo_folder, fetch_demo
from mbv3c.training.torch_package import TORCH_REMEDY, TORCH_VERSION, torch_package

_DEMO, _BROWSER = "demo", "browser"
# Packages that only some commands need: what for, and the extra that brings them.
_EXTRAS = {"optuna": ("search", "search"), "distributed": ("--cluster", "cluster")}


def diagnose() -> list[Requirement]:
    """Say for every part that mbv3c stands on whether it is there. Imports none of them."""
    parts = [
        _diagnose_python(),
        _diagnose_tvm(),
        _diagnose_package("onnxruntime", "onnxruntime"),
        _diagnose_package("linker", "ziglang"),
    ]
    for wing in every_wing():
        parts += wing.doctor().diagnose()
    parts += [_diagnose_torch(), *map(_diagnose_extra, _EXTRAS)]
    return [*parts, _diagnose_demo(), _diagnose_browser()]


def fetch(name: str, progress: Progress) -> None:
    """Fetch what is missing: all of it, or the parts of that name, or the demonstration's images.

    Raises:
        ToolError: this machine cannot use it, or a download or a build failed.
    """
    for wing in every_wing():
        for what, get in wing.doctor().fetches.items():
            if name in ("all", what):
                get(progress)
    if name == _DEMO:  # nothing stands on it: not with all the rest
        fetch_demo(progress)
    if name == _BROWSER:  # only tests of pages stand on it
        fetch_browser(progress)


def _diagnose_python() -> Requirement:
    ok = sys.version_info >= (3, 11)
    return Requirement(
        "python", ok, platform.python_version(), "" if ok else "use Python 3.11 or newer"
    )


def _diagnose_tvm() -> Requirement:
    tvm, ffi = package_version("apache-tvm"), package_version("apache-tvm-ffi")
    ok = (tvm, ffi) == (TVM_VERSION, FFI_VERSION)
    remedy = f"pip install apache-tvm=={TVM_VERSION} apache-tvm-ffi=={FFI_VERSION}"
    detail = f"apache-tvm {tvm or 'missing'}, apache-tvm-ffi {ffi or 'missing'}"
    return Requirement("tvm", ok, detail, "" if ok else remedy)


def _diagnose_package(name: str, package: str) -> Requirement:
    version = package_version(package)
    if version is None:
        return Requirement(name, False, f"{package} is missing", f"pip install {package}")
    return Requirement(name, True, f"{package} {version}")


def _diagnose_torch() -> Requirement:
    found = torch_package()
    if found is None:
        remedy = f"for train, adapt and search, extra [train]: {TORCH_REMEDY}"
        return Requirement("torch", False, "missing", remedy, optional=True)
    ok = found.version.partition("+")[0] == TORCH_VERSION
    remedy = "" if ok else f"train is tested with torch {TORCH_VERSION}: {TORCH_REMEDY}"
    return Requirement("torch", ok, str(found), remedy, optional=True)


def _diagnose_extra(package: str) -> Requirement:
    version, (purpose, extra) = package_version(package), _EXTRAS[package]
    if version is None:
        remedy = f"for {purpose}: {install_extra(extra)}"
        return Requirement(package, False, "missing", remedy, optional=True)
    return Requirement(package, True, f"{package} {version}", optional=True)


def _diagnose_demo() -> Requirement:
    folder = demo_folder()
    if folder is None:
        return Requirement("demo images", False, "not fetched", DEMO_FETCH, optional=True)
    return Requirement("demo images", True, str(folder), optional=True)


def _diagnose_browser() -> Requirement:
    kit = browser_kit()
    if kit is None:
        remedy = f"for tests of pages: {BROWSER_FETCH}"
        return Requirement("browser", False, "not fetched", remedy, optional=True)
    return Requirement("browser", True, str(kit.system), optional=True)
