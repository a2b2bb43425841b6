"""Every constant of a library against what the bundle's model gives, byte for byte.

A weight that is wrong may show in no output: the gate behind it is saturated, or a thousand other
products hide it. So the weights, biases, factors and tables are read from the file and compared
with those that the model gives when it is lowered once more, which packs them by the same rules.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.bundle import LIBRARY
from mbv3c.execution.executable import Constant, LinkedCall
from mbv3c.lowering.describe import KernelRecord


@dataclass(frozen=True)
class ConstantFault:
    """A constant that is not what the model gives.

    Attributes:
        kernel: name of the kernel that reads it.
        nodes: names of the ONNX nodes that the kernel covers.
        argument: its position among the kernel's arguments.
        values: number of elements that the model gives.
        differing: number of elements that differ; all of them where type or shape differ.
        said: what is wrong, in words.
    """

    kernel: str
    nodes: tuple[str, ...]
    argument: int
    values: int
    differing: int
    said: str


@dataclass(frozen=True)
class ConstantsParity:
    """What the constants of a library have shown.

    Attributes:
        count: number of constants that were compared, each once for every call that reads it.
        bytes: their size.
        faults: those that differ, and calls that are not what the bundle's manifest says.
    """

    count: int
    bytes: int
    faults: tuple[ConstantFault, ...]

    @property
    def passed(self) -> bool:
        return not self.faults

    @property
    def missed(self) -> list[str]:
        """The constants that differ, in words."""
        return [fault.said for fault in self.faults]

    @property
    def finding(self) -> str:
        """What was compared, and what is wrong, in words."""
        return "; ".join(self.missed) or f"{self.count} constants of {self.bytes:,} bytes"

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "passed": self.passed,
            "missed": self.missed,
            "count": self.count,
            "bytes": self.bytes,
            "faults": [asdict(fault) for fault in self.faults],
        }


# Of one call: the constants among its arguments, by position.
Packed = dict[int, NDArray[Any]]


def check_constants(
    kernels: Sequence[KernelRecord], packed: Sequence[Packed], linked: Sequence[LinkedCall]
) -> ConstantsParity:
    """Compare the constants of a library with those that its model gives.

    Args:
        kernels: the calls of kernels, as the bundle's manifest has them.
        packed: for every call the constants that the model gives, by position.
        linked: the calls that the library makes.
    """
    count = size = 0
    faults: list[ConstantFault] = []
    names = [kernel.kernel for kernel in kernels]
    if names != [call.kernel for call in linked] or len(packed) != len(linked):
        text = f"{LIBRARY} calls other kernels than its manifest says, or than its model gives"
        return ConstantsParity(0, 0, (ConstantFault("", (), 0, 0, 0, text),))
    for kernel, wanted, call in zip(kernels, packed, linked, strict=True):
        found = {place: one for place, one in enumerate(call.arguments) if one is not None}
        for place in sorted(wanted.keys() | found.keys()):
            array, constant = wanted.get(place), found.get(place)
            count += 1
            size += 0 if array is None else array.nbytes
            fault = _fault(kernel, place, array, constant)
            if fault is not None:
                faults.append(fault)
    return ConstantsParity(count, size, tuple(faults))


def _fault(
    kernel: KernelRecord, place: int, wanted: NDArray[Any] | None, found: Constant | None
) -> ConstantFault | None:
    """Say what is wrong with a constant; None for nothing."""
    where = f"{kernel.kernel} ({', '.join(kernel.nodes)}): constant {place}"
    if wanted is None or found is None:
        size = 0 if wanted is None else wanted.size
        text = f"{where} is {'missing' if found is None else 'one too many'}"
        return ConstantFault(kernel.kernel, kernel.nodes, place, size, size, text)
    values = found.values
    if (values.dtype, values.shape) != (wanted.dtype, wanted.shape):
        text = (
            f"{where} is {values.dtype} {values.shape}, and the model gives {wanted.dtype} "
            f"{wanted.shape}"
        )
        return ConstantFault(kernel.kernel, kernel.nodes, place, wanted.size, wanted.size, text)
    wrong = _bits(values) != _bits(wanted)
    if not wrong.any():
        return None
    first = np.unravel_index(int(wrong.argmax()), wanted.shape)
    differing = int(wrong.sum())
    text = (
        f"{where} differs in {differing} of {wanted.size} elements, first at "
        f"{[int(index) for index in first]}: {values[first]:.6g}, and the model gives "
        f"{wanted[first]:.6g}"
    )
    return ConstantFault(kernel.kernel, kernel.nodes, place, wanted.size, differing, text)


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    """Return the bits of every element, flat: NaN equals itself, and 0 is not -0."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(f"u{values.dtype.itemsize}")
