"""Unpack Debian packages without root."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import FETCH_COMMAND
from mbv3c.execution.processes import finish, require
from mbv3c.progress import Progress

APT_REMEDY = f"check the network and this system's apt sources, then run `{FETCH_COMMAND}` again"


def require_apt(what: str, otherwise: str) -> None:
    """Make sure that Debian packages can be fetched and unpacked here.

    Args:
        what: what is fetched, for the message.
        otherwise: what the user can do instead.

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
        place: an empty folder that becomes their root.
        architecture: as Debian writes it; the system's apt sources must have it.
        packages: names of packages.
        progress: told what is done.
        size: what is downloaded, about, for people.
        keep: folders of usr/share that are no documentation.
        optional: further packages, left out where the system's release has them not.

    Raises:
        ToolError: apt or dpkg-deb fails.
    """
    apt = place / "apt"
    archives = apt / "cache" / "archives"
    for folder in (apt / "lists" / "partial", archives / "partial", apt / "dpkg"):
        folder.mkdir(parents=True)
    (apt / "dpkg" / "status").touch()
    (apt / "apt.conf").write_text(_apt_configuration(apt, architecture))
    apt_get = ["apt-get", "-c", str(apt / "apt.conf"), "-q", "-y"]

    progress("reading the package lists of this system's apt sources")
    require([*apt_get, "update"], doing="reading package lists", remedy=APT_REMEDY, timeout=600)
    for extra in optional:
        found = finish(["apt-cache", "-c", str(apt / "apt.conf"), "show", extra], timeout=60)
        if found.returncode == 0:
            packages = [*packages, extra]
        else:
            progress(f"this system's apt sources have no {extra}: going on without")
    progress(f"downloading {', '.join(packages)} for {architecture} (about {size})")
    install = [*apt_get, "install", "--download-only", "--no-install-recommends", *packages]
    doing = f"downloading {', '.join(packages)}"
    require(install, doing=doing, remedy=APT_REMEDY, timeout=1800)
    for package in sorted(archives.glob("*.deb")):
        unpack = ["dpkg-deb", "-x", str(package), str(place)]
        require(unpack, doing=f"unpacking {package.name}", remedy=APT_REMEDY, timeout=300)
    shutil.rmtree(apt)
    share = place / "usr" / "share"
    for folder in list(share.iterdir()) if share.is_dir() else ():
        if folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


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
