"""Plant single faults in the constants of a library and see whether `verify` finds them.

    python -m benchmarks.faults BUNDLE... [--kernels] [--places N] [--write]

The bytes of the library are changed, and the hash in the manifest made to fit, as a fault of the
compiler or of a disk that nobody has noticed would be. `--kernels` also counts which faults show
in the results of the kernels, each by itself, on the tensors of the network and on drawn ones.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.results import replace_section
from mbv3c.bundle import LIBRARY, Bundle, entry_for
from mbv3c.execution.executable import Constant, read_calls
from mbv3c.lowering.describe import KernelRecord
from mbv3c.manifest import MANIFEST
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.kernels import check_kernels
from mbv3c.targets import backend_for, open_bundle
from mbv3c.targets.library.again import Again, constants_of, lowered_again
from mbv3c.targets.library.backend import LibraryBackend
from mbv3c.targets.library.manifest import manifest_of

PLACES = 54
TITLE = "Single faults in the constants of a library"


@dataclass(frozen=True)
class Place:
    """An element of a constant.

    Attributes:
        kernel: the call that reads it.
        constant: the constant.
        index: the element, of the flattened constant.
    """

    kernel: KernelRecord
    constant: Constant
    index: int


# What becomes of an element: weights in floats, weights in integers, and biases of integers.
_FLOATS = {"weight 3 % off": 1.03, "weight 10 % off": 1.1, "weight of the other sign": -1.0}
_STEPS = {"weight 1 step off": 1, "weight 10 steps off": 10}
_BIAS = "bias off by 20"
KINDS = (*_FLOATS, *_STEPS, _BIAS)


def places_of(bundle: Bundle, count: int) -> list[Place]:
    """Return seeded elements, spread over the calls of kernels that have weights."""
    entry = entry_for(bundle.path, inputs_of(onnx.load(bundle.model))[0])
    calls = zip(manifest_of(bundle).kernels, read_calls(bundle.library, entry), strict=True)
    rows = [
        (kernel, constant)
        for kernel, call in calls
        for constant in call.arguments
        if constant is not None and constant.values.size and np.any(constant.values)
    ]
    rng = np.random.default_rng(0)
    order = [rows[int(i * len(rows) / count) % len(rows)] for i in range(count)]
    return [
        Place(kernel, constant, int(rng.choice(np.flatnonzero(constant.values))))
        for kernel, constant in order
    ]


def changed(place: Place, kind: str) -> NDArray[Any] | None:
    """Return the element with a fault; None where a fault of this kind makes no sense."""
    values = place.constant.values
    value = values.reshape(-1)[place.index]
    if kind in _FLOATS and values.dtype.kind == "f":
        wrong = np.asarray(value * _FLOATS[kind]).astype(values.dtype)
    elif kind in _STEPS and values.dtype in (np.int8, np.int16):
        step = -_STEPS[kind] if value > 0 else _STEPS[kind]
        wrong = np.asarray(int(value) + step).astype(values.dtype)
    elif kind == _BIAS and values.dtype == np.int32:
        wrong = np.asarray(int(value) + 20).astype(values.dtype)
    else:
        return None
    return wrong if wrong != value else None


def plant(bundle: Path, place: Place, wrong: NDArray[Any]) -> None:
    """Write an element into a bundle's library, and its new hash into the manifest."""
    library, manifest = bundle / LIBRARY, bundle / MANIFEST
    data = bytearray(library.read_bytes())
    at = place.constant.offset + place.index * wrong.itemsize
    data[at : at + wrong.itemsize] = wrong.tobytes()
    library.write_bytes(data)
    document = json.loads(manifest.read_text())
    document["files"][LIBRARY] = hashlib.sha256(data).hexdigest()
    manifest.write_text(json.dumps(document))


@dataclass
class Row:
    """What became of the faults of one kind in one bundle."""

    bundle: str
    kind: str
    planted: int = 0
    by_constants: int = 0
    by_kernels: int = 0


def measure(path: Path, count: int, *, kernels: bool) -> Iterator[Row]:
    """Plant faults in a bundle, one by one, and count those that are found."""
    bundle = open_bundle(path)
    backend = backend_for(bundle)
    assert isinstance(backend, LibraryBackend)
    again = lowered_again(backend, bundle)
    name = f"{bundle.manifest.model.name}, {bundle.manifest.target.name} {bundle.precision}"
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            row = Row(name, kind)
            for place in places_of(bundle, count):
                wrong = changed(place, kind)
                if wrong is None:
                    continue
                forged = Path(folder) / "forged"
                shutil.copytree(path, forged)
                plant(forged, place, wrong)
                found = open_bundle(forged)  # the hashes fit
                row.planted += 1
                row.by_constants += _by_constants(found, again, place)
                if kernels:
                    row.by_kernels += _by_kernels(backend, found, again)
                shutil.rmtree(forged)
            if row.planted:
                yield row


def _by_constants(bundle: Bundle, again: Again, place: Place) -> bool:
    entry = entry_for(bundle.path, inputs_of(onnx.load(bundle.model))[0])
    faults = constants_of(bundle, again, entry).faults
    return any(
        (fault.kernel, fault.nodes, fault.differing)
        == (place.kernel.kernel, place.kernel.nodes, 1)
        for fault in faults
    )


def _by_kernels(backend: LibraryBackend, bundle: Bundle, again: Again) -> bool:
    x = inputs_of(onnx.load(bundle.model))[-1]
    kernels = manifest_of(bundle).kernels
    with backend.open(bundle, lambda step: None) as opened:
        runner: Any = opened.runner
        return not check_kernels(again.graph, kernels, x, runner, bundle.path).passed


def table(rows: Sequence[Row], *, kernels: bool) -> str:
    """Return the counts as a table."""
    more = " | by a kernel's results" if kernels else ""
    lines = [
        f"| bundle | fault | planted | found by the constants{more} |",
        "|---|---|--:|--:|" + ("--:|" if kernels else ""),
    ]
    for row in rows:
        shown = f" | {row.by_kernels}" if kernels else ""
        lines.append(f"| {row.bundle} | {row.kind} | {row.planted} | {row.by_constants}{shown} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path, help="bundles with a library")
    parser.add_argument("--kernels", action="store_true", help="run the kernels, too")
    parser.add_argument("--places", type=int, default=PLACES, help="places of each bundle")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for path in arguments.bundles:
        rows += measure(path, arguments.places, kernels=arguments.kernels)
    body = table(rows, kernels=arguments.kernels)
    print(body)
    if arguments.write:
        replace_section(TITLE, body)
    return 0 if all(row.planted == row.by_constants for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
