"""Tools that are fetched or built, the folder that keeps them, and the packages of this Python."""

import hashlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.processes import finish, require
from mbv3c.progress import Progress
from mbv3c.records import open_locked
from mbv3c.scratch import named_folder, remove_abandoned

FETCH_COMMAND = "mbv3c doctor --fetch"
ZIG_CACHES = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")


def cache_root() -> Path:
    """Return the folder under which fetched tools are kept: $MBV3C_CACHE or the user's cache.

    Raises:
        ToolError: this user has no home, or $MBV3C_CACHE names that of an unknown user.
    """
    if own := os.environ.get("MBV3C_CACHE"):
        try:
            return Path(own).expanduser().absolute()
        except RuntimeError as error:
            raise ToolError(
                f"MBV3C_CACHE is {own!r}, and there is no such user: write the path of a folder "
                "that you may write to"
            ) from error
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser().absolute() / "mbv3c"
    except RuntimeError as error:
        raise ToolError(
            "this user has no home folder to keep fetched tools in: set HOME, or MBV3C_CACHE to a "
            "folder that you may write to"
        ) from error


def digest_of(recipe: bytes) -> str:
    """Return a short name for what a recipe makes; another recipe has another name."""
    return hashlib.sha256(recipe).hexdigest()[:12]


@contextmanager
def only_one(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold a folder's lock, so that fetches of several processes follow one another."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open_locked(
            folder / "lock",
            lambda: progress("waiting for another mbv3c that is fetching the same parts"),
        )
    except OSError as error:
        raise ToolError(
            f"cannot write to the cache folder {folder}: {error.strerror}; "
            "set MBV3C_CACHE to a folder that you may write to"
        ) from error
    with lock:
        yield


def provide_once(
    place: Path, make: Callable[[Path], None], progress: Progress = lambda _: None
) -> None:
    """Have `make` fill a folder that is not there yet; other processes wait meanwhile."""
    if not place.is_dir():
        with only_one(place.parent, progress):
            provide(place, make)


def provide(place: Path, make: Callable[[Path], None]) -> None:
    """Have `make` fill a folder beside `place`, and rename it to `place` when it is whole.

    The caller holds the lock of `only_one`.
    """
    if place.is_dir():
        return
    remove_abandoned(place.parent, f"*{_PARTIAL}")  # also those of other versions
    try:
        # The lock makes this name ours.
        with named_folder(place.with_name(place.name + _PARTIAL)) as partial:
            make(partial)
            partial.rename(place)
    except OSError as error:
        raise ToolError(
            f"cannot prepare {place}: {error}; see to free space and permissions there, "
            f"then run `{FETCH_COMMAND}` again"
        ) from error


_PARTIAL = ".partial"


def build_with_zig(what: str, arguments: Sequence[str], *, part: str, timeout: float) -> None:
    """Compile with zig, which keeps the C library that it builds the first time in the cache.

    `what` is what is built and `part` what zig is for it, for the error message.

    Raises:
        ToolError: zig is missing, or fails.
    """
    require(
        [sys.executable, "-m", "ziglang", *arguments],
        doing=f"building {what}",
        remedy=f"install the {part} with `pip install ziglang`, or report the lines below",
        timeout=timeout,
        environment=dict.fromkeys(ZIG_CACHES, str(cache_root() / "zig")),
    )


def package_version(package: str) -> str | None:
    """Return the version of an installed package; None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def package_folder(module: str) -> Path:
    """Return the folder of an installed module.

    Raises:
        ToolError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ToolError(f"{module} is not installed in this Python; install mbv3c with pip")
    return Path(spec.origin).parent


APT_REMEDY = f"check the network and this system's apt sources, then run `{FETCH_COMMAND}` again"


def require_apt(what: str, otherwise: str) -> None:
    """Make sure that Debian packages can be fetched and unpacked here.

    Args:
        what: name of what is fetched, for the message.
        otherwise: advice for a system without apt, for the message.

    Raises:
        ToolError: this system has no apt-get, or no dpkg-deb.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise ToolError(
            f"apt-get and dpkg-deb are needed to fetch {what}, and this system has them not; "
            f"{otherwise}"
        )


def unpack_packages(
    place: Path,
    architecture: str,
    packages: Sequence[str],
    progress: Progress,
    *,
    size: str = "25 MB",
    keep: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Unpack Debian packages and all that they depend on, without their documentation.

    Args:
        place: empty folder that becomes the root of the packages.
        architecture: Debian's name of an architecture that the system's apt sources have.
        packages: names of packages.
        progress: function that is told each step.
        size: rough size of the download, for people.
        keep: folders of usr/share that are no documentation.
        optional: names of further packages, left out where the system's release lacks them.

    apt checks the archive's signature by this system's keys, the lists of packages by what is
    signed, and every package by these lists; no setting of this system turns that off.

    Raises:
        ToolError: apt or dpkg-deb fails, or something is not signed.
    """
    apt = place / "apt"
    archives = apt / "cache" / "archives"
    for folder in (apt / "lists" / "partial", archives / "partial", apt / "dpkg"):
        folder.mkdir(parents=True)
    (apt / "dpkg" / "status").touch()
    (apt / "apt.conf").write_text(_apt_configuration(apt, architecture))
    apt_get = ["apt-get", "-c", str(apt / "apt.conf"), "-q", "-y"]

    progress("reading the package lists of this system's apt sources")
    room = {"TMPDIR": str(apt)}  # what a killed apt leaves goes with the folder
    require(
        [*apt_get, "update"],
        doing="reading package lists",
        remedy=APT_REMEDY,
        timeout=600,
        environment=room,
    )
    _refuse_unsigned(apt_get)
    for extra in optional:
        shown = finish(["apt-cache", "-c", str(apt / "apt.conf"), "show", extra], timeout=60)
        if shown.returncode == 0:
            packages = [*packages, extra]
        else:
            progress(f"this system's apt sources have no {extra}: going on without")
    progress(f"downloading {', '.join(packages)} for {architecture} (about {size})")
    install = [*apt_get, "install", "--download-only", "--no-install-recommends", *packages]
    doing = f"downloading {', '.join(packages)}"
    require(install, doing=doing, remedy=APT_REMEDY, timeout=1800, environment=room)
    unpack_archives(sorted(archives.glob("*.deb")), place)
    shutil.rmtree(apt)
    share = place / "usr" / "share"
    for folder in list(share.iterdir()) if share.is_dir() else ():
        if folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def unpack_archives(archives: Sequence[Path], place: Path) -> None:
    """Unpack Debian packages over one another.

    A link to a folder outside of `place` is removed before the next package could write through
    it, or anything be deleted behind it.

    Raises:
        ToolError: dpkg-deb fails.
    """
    root = place.resolve()
    for archive in archives:
        unpack = ["dpkg-deb", "-x", str(archive), str(place)]
        require(unpack, doing=f"unpacking {archive.name}", remedy=APT_REMEDY, timeout=300)
        for folder, names, _ in os.walk(place):  # names of folders, and of links to such
            for path in (Path(folder, name) for name in names):
                if path.is_symlink() and not path.resolve().is_relative_to(root):
                    path.unlink()


# An option of a line in sources.list, or a field in a .sources file.
_TRUSTED = re.compile(
    r"^([^#\n]*\[[^]\n]*\btrusted\s*=|trusted\s*:)(?!\s*no\b)", re.IGNORECASE | re.MULTILINE
)


def _refuse_unsigned(apt_get: Sequence[str]) -> None:
    """Refuse sources whose entry says that they are to be trusted without a signature.

    Raises:
        ToolError: there is such an entry.
    """
    command = [*apt_get, "indextargets", "--format", "$(SOURCESENTRY)"]
    listed = require(command, doing="listing apt's sources", remedy=APT_REMEDY, timeout=600)
    files = dict.fromkeys(line.rpartition(":")[0] for line in listed.stdout.splitlines())
    for name in files:
        if _TRUSTED.search(Path(name).read_text(errors="replace")):
            raise ToolError(
                f"{name} has apt trust an archive without its signature (`trusted`), and what "
                "comes from there would run here; name the archive's key with Signed-By instead"
            )


def _apt_configuration(apt: Path, architecture: str) -> str:
    """Return an apt configuration that keeps all of apt's state in one folder.

    The empty list of installed packages makes apt fetch every library that is needed, whatever
    this system has. Hooks of the system are cleared: some delete the system's own archives.
    """
    return f"""\
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
APT::Get::AllowUnauthenticated "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{apt}";
Dir::State::lists "{apt}/lists";
Dir::State::status "{apt}/dpkg/status";
Dir::Cache "{apt}/cache";
Dir::Cache::archives "{apt}/cache/archives";
Dir::Log "{apt}";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
"""
