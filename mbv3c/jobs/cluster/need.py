"""What must be there for a cluster, and what cannot be used says so."""

import ipaddress
import logging
from importlib import util
from pathlib import Path
from urllib.parse import urlsplit

from mbv3c.errors import Mbv3cError, ToolError, UsageError
from mbv3c.installing import install_extra

PORT = 8786
_LOOPBACK = {"localhost", "ip6-localhost"}


class ClusterError(Mbv3cError):
    """A cluster cannot be used: nobody is there, or its workers do not fit."""

    kind = "cluster"


def need_dask() -> None:
    """Make sure that Dask distributed is there, and have it say nothing by itself.

    Raises:
        ToolError: it is not installed.
    """
    need("distributed", install_extra("cluster"))
    import distributed  # noqa: F401 - it sets the levels of its loggers

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def need(module: str, how: str) -> None:
    """Make sure that a package is there.

    Raises:
        ToolError: it is not installed.
    """
    if util.find_spec(module) is None:
        raise ToolError(f"a cluster needs {module}, which is not installed: {how}")


def full_address(text: str) -> str:
    """Return the address of a scheduler with its protocol and port.

    Raises:
        UsageError: it is no address.
    """
    written = text if "://" in text else f"tcp://{text}"
    try:
        parts = urlsplit(written)
        port = parts.port or PORT
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or parts.path:
        raise UsageError(
            f"{text!r} is no address of a scheduler; write HOST:PORT, tcp://HOST:PORT or "
            "tls://HOST:PORT"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Say whether a name or number of a host leads to this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in _LOOPBACK


def host_of(address: str) -> str:
    """Return the host in the address of a scheduler or a worker."""
    return urlsplit(address).hostname or ""


def check_certificates(address: str, role: str) -> None:
    """Make sure that Dask's settings name certificates where an address needs them.

    Raises:
        UsageError: they do not, or what they name is not there.
    """
    from distributed.security import Security

    security = Security()
    if address.startswith("tls://") and not (
        security.tls_ca_file and getattr(security, f"tls_{role}_cert")
    ):
        raise UsageError(
            f"{address} takes certificates, and Dask's settings name none: set `ca-file`, "
            f"`{role}.cert` and `{role}.key` of distributed.comm.tls (docs/cluster.md)"
        )
    if not address.startswith("tls://"):
        return
    for name, file in (
        ("ca-file", security.tls_ca_file),
        (f"{role}.cert", getattr(security, f"tls_{role}_cert")),
        (f"{role}.key", getattr(security, f"tls_{role}_key")),
    ):
        # Dask also takes the text of a certificate, which has several lines.
        if file and "\n" not in file and not Path(file).is_file():
            raise UsageError(
                f"no certificate at {file}, which Dask's settings name as `{name}` of "
                "distributed.comm.tls: put it there, or correct the path (docs/cluster.md)"
            )
