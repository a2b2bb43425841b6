"""A browser without a window, from Debian packages, unpacked into the cache without root.

Tests look at pages in it. It uses this system's C and C++ libraries: its packages are those of the
system's own release.

browser-kit-DIGEST/system/
chromium/   the browser and its data
lib/        the libraries that it needs, but for those of the system
fonts/      DejaVu
fonts.conf  which names that folder only, so that every machine draws letters alike
"""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import (
    FETCH_COMMAND,
    cache_root,
    digest_of,
    provide_once,
    require_apt,
    unpack_packages,
)
from mbv3c.execution.elf import needed
from mbv3c.execution.opencl.kit import closure, find_library
from mbv3c.progress import Progress

BROWSER_FETCH = f"{FETCH_COMMAND}=browser"
_PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
_PROGRAM, _TRIPLE = "chromium-headless-shell", "x86_64-linux-gnu"
_OF_THE_SYSTEM = (
    *("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libresolv.so.2"),
    *("libutil.so.1", "libanl.so.1", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"),
)
_LOADED = ("libsoftokn3.so", "libfreeblpriv3.so")  # by name, by the library of certificates
_PRIVATE = "pulseaudio"  # a folder of libraries that only others in the packages need
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir prefix="relative">fonts</dir><cachedir>/nonexistent</cachedir></fontconfig>
"""
# Without a sandbox, since tests may run as root; pages are our own, and hosts have no addresses.
_OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--force-device-scale-factor=1"),
)


@dataclass(frozen=True)
class BrowserKit:
    """A fetched browser.

    Attributes:
        system: folder that holds all of it.
    """

    system: Path

    def command(self, profile: Path) -> list[str]:
        """Return what starts it; `profile` is a folder for what it writes."""
        program = self.system / "chromium" / _PROGRAM
        return [str(program), *_OPTIONS, f"--user-data-dir={profile}"]

    def environment(self, profile: Path) -> dict[str, str]:
        """Return the environment to start it in."""
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.system / "lib"),
            "FONTCONFIG_FILE": str(self.system / "fonts.conf"),
            "HOME": str(profile),
        }


def browser_kit() -> BrowserKit | None:
    """Return the browser, or None when it is not fetched."""
    kit = BrowserKit(_folder() / "system")
    return kit if kit.system.is_dir() else None


def fetch_browser(progress: Progress) -> BrowserKit:
    """Fetch the browser if it is not there yet.

    Needs apt's programs and its network, 130 MB to download and 330 MB on disk; no root.

    Raises:
        ToolError: this machine cannot use it, or the download failed.
    """
    kit = BrowserKit(_folder() / "system")
    if kit.system.is_dir():
        return kit
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ToolError(
            "the browser that tests use is fetched for Linux on x86_64, and this is "
            f"{platform.system()} on {platform.machine()}; leave out the tests that need it"
        )
    require_apt("a browser", "leave out the tests that need it")
    provide_once(kit.system, lambda place: _fill(place, progress), progress)
    return kit


def _folder() -> Path:
    recipe = " ".join((*_PACKAGES, *_OF_THE_SYSTEM, *_LOADED, _FONTS))
    return cache_root() / f"browser-kit-{digest_of(recipe.encode())}"


def _fill(place: Path, progress: Progress) -> None:
    everything = place / "everything"
    everything.mkdir()
    unpack_packages(everything, "amd64", _PACKAGES, progress, size="130 MB", keep=("fonts",))
    progress("keeping what the browser needs")
    usr = everything / "usr"
    libraries = usr / "lib" / _TRIPLE
    folders = [everything / "lib" / _TRIPLE, libraries, libraries / _PRIVATE]
    shutil.copytree(usr / "lib" / "chromium", place / "chromium")
    shutil.copytree(usr / "share" / "fonts", place / "fonts")
    (place / "fonts.conf").write_text(_FONTS)
    (place / "lib").mkdir()
    names = [*needed(place / "chromium" / _PROGRAM), *_LOADED]
    for name in closure(names, folders, _OF_THE_SYSTEM):
        shutil.copy(find_library(name, folders), place / "lib" / name)
    shutil.rmtree(everything)
