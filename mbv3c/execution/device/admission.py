"""Who may have a served device: a client that knows the server's secret, and shows it.

TVM's protocol knows a name that both sides say aloud, and no secret. So a client first opens a
connection of its own, on which both show that they know the secret, without saying it; then it
has a ticket, with which TVM's client may connect once:

    client → server   MAGIC, 32 random bytes
    server → client   32 random bytes, HMAC(secret, "server", both)
    client → server   HMAC(secret, "client", both)
    server → client   GRANTED
    TVM's client      "client:NAME -ticket=TICKET", where TICKET is HMAC(secret, "ticket", both)

HMAC is that of SHA-256. This says who connects. What follows is TVM's, neither encrypted nor
protected from those who can change it on its way: for that there is SSH.
"""

import hmac
import secrets
import socket
from pathlib import Path

from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.place import Address
from mbv3c.execution.device.tracker import receive

MAGIC = b"mbv3"
GRANTED = b"\x01"
NONCE = PROOF = 32  # bytes
TICKET_OPTION = "-ticket="
_SHORTEST = 32  # characters
_LONGEST = 4096
_SECONDS = 10.0


def read_secret(path: Path) -> bytes:
    """Read a secret from its file: one line of 32 characters or more.

    Raises:
        UsageError: there is no such file, or the secret is too short to be one.
    """
    try:
        with path.open("rb") as file:
            secret = file.read(_LONGEST).strip()
    except OSError as error:
        raise UsageError(f"the secret {path} cannot be read: {error.strerror}") from error
    if len(secret) < _SHORTEST:
        raise UsageError(
            f"the secret in {path} has {len(secret)} characters, and {_SHORTEST} are the least: "
            f"`openssl rand -hex 32 > {path}` makes one"
        )
    return secret


def prove(secret: bytes, who: str, nonces: bytes) -> bytes:
    """Return what only those who know a secret can answer.

    Args:
        secret: the secret.
        who: `client`, `server` or `ticket`, so that no answer can be sent back as another.
        nonces: the client's random bytes, and the server's.
    """
    return hmac.digest(secret, who.encode() + b"\0" + nonces, "sha256")


def ticket_for(address: Address, secret: bytes) -> str:
    """Show a server that we know its secret, see that it does, and return a ticket.

    Raises:
        ToolError: the server has another secret, or none.
        OSError: the server does not answer.
    """
    ours = secrets.token_bytes(NONCE)
    with socket.create_connection((address.host, address.port), _SECONDS) as connection:
        try:
            connection.sendall(MAGIC + ours)
            answer = receive(connection, NONCE + PROOF, "the server")
            nonces = ours + answer[:NONCE]
            if not hmac.compare_digest(answer[NONCE:], prove(secret, "server", nonces)):
                raise ToolError(
                    f"the server at {address} does not know the secret; nothing was sent to it: "
                    "give both sides the same --secret"
                )
            connection.sendall(prove(secret, "client", nonces))
            receive(connection, len(GRANTED), "the server")
        except ConnectionError as error:
            raise ToolError(
                f"the server at {address} takes no secret ({error}); start it with --secret, or "
                "leave --secret out here"
            ) from error
    return prove(secret, "ticket", nonces).hex()


def named(address: Address, name: str, secret: Path | None) -> str:
    """Return what TVM's client says to a server: a name, and a ticket if there is a secret.

    Raises:
        ToolError: the server has another secret, or none.
        UsageError: the secret cannot be read.
        OSError: the server does not answer.
    """
    if secret is None:
        return name
    return f"{name} {TICKET_OPTION}{ticket_for(address, read_secret(secret))}"
