"""Who knocks at a server: connections that have not been served yet.

All are listened to at once, so none holds up another. Each has some seconds to say what it wants,
however it spreads its bytes; of too many, the one that has been silent for longest goes. Who has
said what it should waits for its turn.
"""

import hmac
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tvm.rpc.base import RPC_CODE_MISMATCH, RPC_MAGIC

from mbv3c.execution.device.admission import (
    GRANTED,
    MAGIC,
    NONCE,
    PROOF,
    TICKET_OPTION,
    prove,
)
from mbv3c.execution.device.place import Address

HELLO_SECONDS = 5.0  # that a client has to say who it is
TICKET_SECONDS = 30.0  # that it then has to connect
MOST = 64
_LONGEST_NAME = 4096
_HEAD = struct.Struct("<ii")


class RefusedError(Exception):
    """A visitor is not what it should be; the message says why."""


@dataclass(eq=False)
class Visitor:
    """A connection.

    Attributes:
        connection: its socket, which does not block.
        client: its address, for people.
        deadline: time by which it must have said what it wants, by time.monotonic.
        said: what it has said and was not understood yet.
        nonces: both sides' random bytes; empty unless it shows that it knows the secret.
        words: what it wants: a name, and options; None until it has said so.
    """

    connection: socket.socket
    client: str
    deadline: float
    said: bytes = b""
    nonces: bytes = b""
    words: list[str] | None = None

    def option(self, name: str) -> str | None:
        """Return the value of the last option of that name; None without one."""
        given = [word.removeprefix(name) for word in self.words or () if word.startswith(name)]
        return given[-1] if given else None


@dataclass
class Visitors:
    """All visitors of a server.

    Attributes:
        listener: the socket at which they arrive.
        secret: what they must know; None if all are welcome.
        refused: function that is told of those that went, and why.
    """

    listener: socket.socket
    secret: bytes | None
    refused: Callable[[str], None]
    _there: list[Visitor] = field(default_factory=list)
    _tickets: dict[str, float] = field(default_factory=dict)

    def watch(self, poll: select.poll) -> float | None:
        """Have a poll look at all of them; return the time of the next deadline, if any."""
        poll.register(self.listener, select.POLLIN)
        for visitor in self._there:
            poll.register(visitor.connection, select.POLLIN | select.POLLRDHUP)
        return min((one.deadline for one in self._there if one.words is None), default=None)

    def attend(self, events: Mapping[int, int]) -> None:
        """Let in who arrives, hear who speaks, and drop who is late, gone or wrong."""
        now = time.monotonic()
        for visitor in list(self._there):
            try:
                if visitor.connection.fileno() in events:
                    self._hear(visitor)
                if visitor.words is None and now > visitor.deadline:
                    raise RefusedError(f"it said nothing of use in {HELLO_SECONDS:g} s")
            except (RefusedError, OSError, ValueError) as error:
                self._drop(visitor, str(error))
        if self.listener.fileno() in events:
            self._let_in(now)

    def judge(self, welcome: Callable[[Visitor], None]) -> None:
        """Send away who has said the wrong words, of which `welcome` raises `RefusedError`."""
        for visitor in self._waiting():
            try:
                welcome(visitor)
            except (RefusedError, OSError) as error:
                self._drop(visitor, str(error))

    def next(self) -> Visitor | None:
        """Take the one that has waited for longest out, if any waits to be served."""
        waiting = self._waiting()
        if not waiting:
            return None
        self._there.remove(waiting[0])
        return waiting[0]

    def _waiting(self) -> list[Visitor]:
        return [one for one in self._there if one.words is not None]

    def descriptors(self) -> list[int]:
        """Return the file descriptors that a process of a session must not keep."""
        return [self.listener.fileno(), *(one.connection.fileno() for one in self._there)]

    def close(self) -> None:
        """Close the connections of all of them."""
        for visitor in self._there:
            visitor.connection.close()
        self._there.clear()

    def _let_in(self, now: float) -> None:
        try:
            connection, address = self.listener.accept()
        except OSError:  # it is gone already, or there are too many files
            return
        client = str(Address(*address[:2]))
        if len(self._there) >= MOST:
            silent = [one for one in self._there if one.words is None]
            if not silent:
                connection.close()
                self.refused(f"refused {client}: {MOST} clients are waiting")
                return
            self._drop(silent[0], f"more than {MOST} clients, and it was silent for longest")
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A client that lost its power says nothing more: a minute of silence is its end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._there.append(Visitor(connection, client, now + HELLO_SECONDS))

    def _drop(self, visitor: Visitor, reason: str) -> None:
        if visitor not in self._there:
            return
        visitor.connection.close()
        self._there.remove(visitor)
        if reason:
            self.refused(f"refused {visitor.client}: {reason}")

    def _hear(self, visitor: Visitor) -> None:
        """Read what a visitor says.

        Raises:
            RefusedError: it is nothing that it should say, or the visitor is gone.
        """
        try:
            part = visitor.connection.recv(_LONGEST_NAME)
        except BlockingIOError:
            return
        if not part:
            raise RefusedError("it closed the connection")
        visitor.said += part
        if visitor.words is not None:
            raise RefusedError("it does not wait for its answer")
        if visitor.nonces:
            self._check_proof(visitor)
        elif visitor.said.startswith(MAGIC):
            self._answer_proof(visitor)
        elif len(visitor.said) >= _HEAD.size:
            self._read_words(visitor)

    def _read_words(self, visitor: Visitor) -> None:
        magic, length = _HEAD.unpack_from(visitor.said)
        if magic != RPC_MAGIC or not 0 < length <= _LONGEST_NAME:
            raise RefusedError("it does not speak TVM's RPC protocol")
        if len(visitor.said) < _HEAD.size + length:
            return
        words = visitor.said[_HEAD.size : _HEAD.size + length]
        if len(visitor.said) > _HEAD.size + length:
            raise RefusedError("it does not wait for its answer")
        visitor.words = words.decode().split() or [""]
        if self.secret is not None and not self._has_ticket(visitor):
            visitor.connection.send(struct.pack("<i", RPC_CODE_MISMATCH))
            raise RefusedError("it does not know the secret")

    # ---- the secret ----

    def _answer_proof(self, visitor: Visitor) -> None:
        if self.secret is None:
            raise RefusedError("it has a secret, and this server asks for none")
        size = len(MAGIC) + NONCE
        if len(visitor.said) < size:
            return
        ours = secrets.token_bytes(NONCE)
        visitor.nonces, visitor.said = visitor.said[len(MAGIC) : size] + ours, visitor.said[size:]
        visitor.connection.send(ours + prove(self.secret, "server", visitor.nonces))

    def _check_proof(self, visitor: Visitor) -> None:
        if len(visitor.said) < PROOF:
            return
        assert self.secret is not None
        if not hmac.compare_digest(visitor.said, prove(self.secret, "client", visitor.nonces)):
            raise RefusedError("it does not know the secret")
        now = time.monotonic()
        self._tickets = {one: until for one, until in self._tickets.items() if until > now}
        ticket = prove(self.secret, "ticket", visitor.nonces).hex()
        self._tickets[ticket] = now + TICKET_SECONDS
        visitor.connection.send(GRANTED)
        self._drop(visitor, "")

    def _has_ticket(self, visitor: Visitor) -> bool:
        """Say whether a visitor has a ticket, and tear it."""
        ticket = visitor.option(TICKET_OPTION) or ""
        return self._tickets.pop(ticket, 0.0) > time.monotonic()
