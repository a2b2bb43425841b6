"""Whose native code runs: of bundles made here, and of those that a key or the user vouches for.

A bundle made here is noted in a folder of the user's, by the sha256 of its manifest, which holds
that of every other file: a copy is known, too, and a changed one is not. A signature is Ed25519's,
of the bytes of manifest.json, in a file of its own.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mbv3c.door.files import Refused, read_plain
from mbv3c.errors import BundleError, UsageError
from mbv3c.manifest import MANIFEST, SIGNATURE, ManifestFile

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MADE = "made"
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class TrustError(UsageError):
    """A bundle's native code is asked to run, and nothing says that it may."""

    kind = "trust"


@dataclass(frozen=True)
class Trust:
    """What the user says of a bundle that this machine may not have made.

    Attributes:
        anyway: whether to run it whoever made it.
        key: the file of the public key that must have signed it, PEM; None to ask for none.
    """

    anyway: bool = False
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.anyway and self.key is not None:
            raise UsageError(
                "--trust and --key exclude each other: a signed bundle needs no trust"
            )


MADE_HERE = Trust()


def check_trust(read: ManifestFile, trust: Trust, *, native: bool) -> None:
    """Make sure that the program of a bundle may run here.

    Args:
        read: the manifest of a bundle whose files are as it lists them.
        trust: what the user says of the bundle.
        native: whether the program is native code; what is only interpreted always may.

    Raises:
        UsageError: the key cannot be used.
        BundleError: a key is given, and the bundle is not signed by it.
        TrustError: nothing is given, and the bundle was not made here.
    """
    folder = read.path.parent
    if trust.key is not None:
        check_signature(read, trust.key)
    elif native and not trust.anyway and not _made_here(read.content):
        raise TrustError(
            f"{folder} was not made on this machine, and its native code would run as you: add "
            "--trust if you trust whoever made it, or --key PUBLIC.pem if they signed it "
            "(`mbv3c compile --sign`)"
        )


def note_made(folder: Path) -> str | None:
    """Note that this machine made a bundle; return why it cannot, where it cannot."""
    try:
        made = state_root() / _MADE
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_own(made):
            return f"others may write to {made}"
        (made / _digest((folder / MANIFEST).read_bytes())).touch(mode=0o600)
    except (OSError, RuntimeError) as error:  # no HOME is a RuntimeError
        return getattr(error, "strerror", None) or str(error)
    return None


def state_root() -> Path:
    """Return the folder in which mbv3c notes what it has made: $MBV3C_STATE or the user's.

    Raises:
        RuntimeError: the user has no home.
    """
    if own := os.environ.get("MBV3C_STATE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser().absolute() / "mbv3c"


def _made_here(content: bytes) -> bool:
    try:
        made = state_root() / _MADE
        return is_own(made) and (made / _digest(content)).is_file()
    except (OSError, RuntimeError):
        return False


def is_own(folder: Path) -> bool:
    """Say whether a folder is this user's, and nobody else may write to it."""
    state = folder.stat()
    return state.st_uid == os.getuid() and not state.st_mode & _OTHERS


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- signatures ----


@dataclass(frozen=True)
class Signer:
    """A private key that signs bundles.

    Attributes:
        key: the key; its repr shows nothing of it.
    """

    key: "Ed25519PrivateKey"

    def sign(self, folder: Path) -> None:
        """Write the signature of a bundle's manifest: 64 bytes, as OpenSSL reads them."""
        (folder / SIGNATURE).write_bytes(self.key.sign((folder / MANIFEST).read_bytes()))


def read_signer(path: Path) -> Signer:
    """Read a private key of Ed25519, PEM, without a passphrase.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read_key(path)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise UsageError(
            f"the key {path} has a passphrase, which mbv3c does not ask for; write one without to "
            "a place that only you can read: `openssl pkey -in KEY.pem -out PLAIN.pem`"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        what = "a public key" if b"PUBLIC KEY" in data else "no private key in PEM"
        raise UsageError(
            f"{path} is {what}; `openssl genpkey -algorithm ed25519 -out KEY.pem` makes one to "
            "sign with"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"the key {path} is not Ed25519's; `openssl genpkey -algorithm ed25519 -out KEY.pem` "
            "makes one"
        )
    return Signer(key)


def check_signature(read: ManifestFile, path: Path) -> None:
    """Make sure that a bundle is signed by a key.

    Args:
        read: the manifest of a bundle whose files are as it lists them.
        path: the file of the public key, PEM.

    Raises:
        UsageError: the key cannot be used.
        BundleError: the bundle has no signature, or another one.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read_key(path)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        what = "a private key" if b"PRIVATE KEY" in data else "no public key in PEM"
        raise UsageError(
            f"{path} is {what}; `openssl pkey -in KEY.pem -pubout -out PUBLIC.pem` writes the "
            "public one"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"the key {path} is not Ed25519's, and bundles are signed by such a key")
    folder = read.path.parent
    try:
        key.verify(_signature(folder), read.content)
    except InvalidSignature as error:
        raise BundleError(
            f"{folder} is not signed by {path}: another key signed it, or its {MANIFEST} was "
            "changed after; get it again from whoever signed it"
        ) from error


_LONGEST = 1 << 16  # bytes of a key or a signature; a device may never end


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}") from error


def _signature(folder: Path) -> bytes:
    try:
        return read_plain(folder / SIGNATURE, _LONGEST)
    except OSError as error:
        raise BundleError(
            f"{folder} is not signed: it has no {SIGNATURE}; `mbv3c compile --sign KEY.pem` signs"
        ) from error
    except Refused as error:
        raise BundleError(f"{folder / SIGNATURE} is no signature: {error}") from error
