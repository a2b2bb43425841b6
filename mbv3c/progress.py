"""Who is told what is being done."""

from collections.abc import Callable

Progress = Callable[[str], None]
