"""Have a function called before and after each kernel of an opened library.

A CPU's kernels are called by the library's driver, and a GPU's by TVM's virtual machine; so are
those of libraries that mbv3c made before. An instrument is called with a function or None, the
kernel's name, whether it is before the kernel, what that returned, and its arguments; or it is the
name of what makes one, as over RPC.
"""

from collections.abc import Sequence
from typing import Any

from mbv3c.bundle import WATCHED


def run_watched(machine: Any, entry: str, instrument: Any, given: Sequence[Any]) -> Any:
    """Run a function of a virtual machine with an instrument; return what it returns."""
    watched = _watched(machine, entry)
    if watched is not None:
        return watched(instrument, *given)
    machine.set_instrument(instrument)
    return machine[entry](*given)


def set_input(machine: Any, entry: str, given: Sequence[Any], instrument: Any = None) -> str:
    """Set the input of a function for `invoke_stateful`; return the name to invoke.

    An instrument is called in each inference until the input is set again.
    """
    if instrument is not None and _watched(machine, entry) is not None:
        machine.set_input(WATCHED + entry, instrument, *given)
        return WATCHED + entry
    if instrument is not None:
        machine.set_instrument(instrument)
    machine.set_input(entry, *given)
    return entry


def _watched(machine: Any, entry: str) -> Any:
    """Return the function that takes an instrument first; None of a library without one."""
    try:
        return machine.module[WATCHED + entry]
    except AttributeError:
        return None
