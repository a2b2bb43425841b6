"""Errors of command streams, and limits of the interpreter."""

from typing import Self

from mbv3c.errors import Mbv3cError


class InterpreterError(Mbv3cError):
    """A command stream was not executed to its end; nothing of its output is to be trusted.

    Attributes:
        operation: name of the command that was being executed; None outside of commands.
        word: position of that command, in 32-bit words from the start of the stream.
    """

    kind = "npu"

    def __init__(
        self, message: str, operation: str | None = None, word: int | None = None
    ) -> None:
        where = "" if operation is None else f"{operation} at word {word}: "
        super().__init__(where + message)
        self.reason = message
        self.operation = operation
        self.word = word

    def at(self, operation: str, word: int) -> Self:
        """Return the error with a place, unless it has one."""
        if self.operation is not None:
            return self
        return type(self)(self.reason, operation, word)


class StreamError(InterpreterError):
    """The program contradicts itself: broken words, weights, addresses or sums."""


class UnsupportedError(InterpreterError):
    """The program may be right, but the interpreter does not know what it means."""
