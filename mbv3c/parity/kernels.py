"""Every kernel of a library by itself, in the library that is to be checked.

The outputs of a network say little about a single kernel: the effect of one rounding grows on its
way to the output, and so does the allowed error. So every kernel gets the tensors that onnxruntime
computes for its inputs, within an inference of the library, and its results are compared with
onnxruntime's. A kernel whose activation is flat on them for some channels gets others, too, which
are drawn so that it answers. Kernels that hand over memory of no name get drawn tensors together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.errors import BundleError
from mbv3c.execution.runners import KernelCall, KernelRunner
from mbv3c.feeds import Feed
from mbv3c.lowering.describe import ArgumentRecord, KernelRecord
from mbv3c.manifest import MANIFEST
from mbv3c.parity.apart import Alive, Apart, Graph, Part, Tensors, may_be_drawn, rounds_of_drawn
from mbv3c.parity.halves import rounding_of_sums, share_of_range
from mbv3c.parity.kernel_tensors import HALF, INT8, ReferenceTensors, arguments_of
from mbv3c.parity.kernel_verdict import KernelParity, KernelsParity
from mbv3c.parity.reference import error_of_range
from mbv3c.parity.tolerance import KERNEL_TOLERANCE, KernelTolerance

Array = NDArray[Any]

# The results of these are defined to the last bit: division, rounding, one product, or a copy.
_EXACT = ("quantize", "dequantize", "transpose", "copy", "cast")
_BY_TVM = "fallback"
_IN_BFLOATS = "bfloat_pointwise"
_IMAGE = 4  # rank of [N, C, H, W]
_MOST_FILLED = 64  # more than the elements of any vector
_TYPES = {np.dtype(code).name for code in np.typecodes["AllInteger"] + "efd?"}
_TIMES_SPREAD = 4.0  # as of whole networks
_OF_EQUAL = 1e-4  # of their size
_LAST_BITS = 8  # bias first or last, a sum in parts: each rounds at the size of the result
# What makes a step of a last bit, so that a few values may be others.
_JUMPING = {
    *("ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less"),
    *("LessOrEqual", "Mod", "NonMaxSuppression", "QuantizeLinear", "Round", "Sign", "TopK"),
    *("Cast", "Resize", "Where", "Unique", "NonZero", "GatherND", "GridSample", "RoiAlign"),
}
_FEW = 1e-3  # of the values


def check_kernels(
    model: onnx.ModelProto,
    kernels: Sequence[KernelRecord],
    x: Feed,
    runner: KernelRunner,
    bundle: Path,
) -> KernelsParity:
    """Run every kernel of a bundle's library on the tensors that onnxruntime computes.

    Args:
        model: what the library was made of: rewritten, or quantized.
        kernels: the library's kernels, as in the bundle's manifest.
        x: input of the model.
        runner: runner of the library.
        bundle: folder of the library.

    Raises:
        BundleError: no kernel writes a tensor of the model, or arguments do not fit the model.
        Mbv3cError: the library fails, or is not the one that `kernels` describes.
    """
    graph = Graph(model)
    parts = {part.kernel: part for part in graph.parts(kernels)}
    bends = {bend.tensor for part in parts.values() for bend in part.bends}
    reference = ReferenceTensors(model, kernels, x, bends)
    for kernel in kernels:
        for _, argument in arguments_of(kernel):
            _check_argument(argument, reference, bundle)
    check = _Check(kernels, graph, parts, reference)
    compared = list(check.run(check.own(), x, runner, bundle))
    if kernels and not compared and not graph.only_constants:
        raise _no_description(bundle, "no kernel writes a tensor of the model")
    seen = {row.kernel for row in compared}
    for tensors in check.drawn():
        compared += check.run(tensors, x, runner, bundle, drawn=True)
    return KernelsParity(
        tuple(compared),
        check.alive.channels,
        check.alive.alive,
        tuple(dict.fromkeys(one.kernel for one in kernels if one.kernel not in seen)),
    )


class _Check:
    """Kernels, the tensors that they get, and what they must make of them.

    Attributes:
        alive: which channels have answered so far.
    """

    def __init__(
        self,
        kernels: Sequence[KernelRecord],
        graph: Graph,
        parts: Mapping[int, Part],
        reference: ReferenceTensors,
    ) -> None:
        self._kernels, self._graph, self._reference = kernels, graph, reference
        known = reference.tensors.keys()
        self._parts = {at: part for at, part in parts.items() if known >= {*part.reads}}
        self.alive = Alive()

    def own(self) -> Tensors:
        """Return the network's own tensors for every kernel, and what it must make of them.

        Kernels in half precision get them rounded, and must make of them what onnxruntime does.
        """
        tensors: Tensors = {at: {} for at in range(len(self._kernels))}
        halves = [part for part in self._parts.values() if part.half and len(part.kernels) == 1]
        if halves:
            given = {
                part.kernel: self._rounded(part.kernel, self._reference.tensors) for part in halves
            }
            tensors |= self._apart(halves).run(given)
        for at, part in self._parts.items():
            self.alive.note(part, self._reference.tensors | tensors[at])
        return tensors

    def drawn(self) -> Iterator[Tensors]:
        """Yield other tensors for those kernels whose activations are flat on all so far."""
        values = self._reference.tensors
        dead = [
            part
            for part in self._parts.values()
            if may_be_drawn(part, values) and not self.alive.whole(part)
        ]
        alone = [part for part in dead if len(part.kernels) == 1]
        for parts in (alone, _apart_from_each_other(part for part in dead if part not in alone)):
            if parts:
                yield from rounds_of_drawn(self._apart(parts), values, self.alive, self._rounded)

    def run(
        self, tensors: Tensors, x: Feed, runner: KernelRunner, bundle: Path, *, drawn: bool = False
    ) -> Iterator[KernelParity]:
        """Run the library once and compare what those kernels make that are given tensors."""
        calls = [KernelCall(kernel.kernel) for kernel in self._kernels]
        known = self._reference.tensors.keys()
        for at, own in tensors.items():
            reference, part = self._reference.of(own), self._parts[at] if drawn else None
            given, wanted = (part.reads, part.writes) if part else (known, known)
            for place in part.kernels if part else (at,):
                asked = wanted if place == at else ()
                calls[place] = reference.call(self._kernels[place], given, asked)
        made = runner.run_kernels(bundle, x, calls)
        for at, (kernel, arrays) in enumerate(zip(self._kernels, made, strict=True)):
            reference = self._reference.of(tensors.get(at, {}))
            for place, argument in arguments_of(kernel):
                if place not in calls[at].wanted:
                    continue
                if arrays[place].size != prod(argument.shape):
                    raise _no_description(bundle, f"{kernel.kernel} writes another size")
                row = _compare(
                    kernel, argument, arrays[place], reference, self._tolerance(at, kernel)
                )
                if row is not None:
                    row = self._excused(at, argument, row, reference, arrays[place])
                    yield replace(row, drawn=drawn)

    def _excused(
        self,
        at: int,
        argument: ArgumentRecord,
        row: KernelParity,
        reference: ReferenceTensors,
        ours: Array,
    ) -> KernelParity:
        """Judge a kernel of floats that missed by what its own rounding does.

        That is what a last bit of its inputs changes, and some last bits of the result itself,
        which are large beside the range of numbers that are all far from 0; and in fp16 what the
        last bits of parts of a sum are, where these are larger than the sum.
        """
        part = self._parts.get(at)
        if row.passed or row.allowed_of_range is None or part is None:
            return row
        apart, own = self._apart([part]), reference.tensors
        right = reference.in_memory(row.tensor, argument).astype(np.float64)
        spread = 0.0
        for seed in range(2):
            moved = {at: {name: _moved(own[name], part, seed) for name in part.reads}}
            other = reference.of(apart.run(moved)[at]).in_memory(row.tensor, argument)
            spread = max(spread, _of_range(other.astype(np.float64), right))
        computes_in = np.float16 if part.half else np.float32
        rounding = _rounding(right, float(np.finfo(computes_in).eps))
        if part.half and np.ptp(right) > 0:
            graph, opsets = self._graph, self._graph.model.opset_import
            sums = rounding_of_sums(part.nodes, graph.stored, own, opsets)
            rounding = max(rounding, share_of_range(sums, right))
        allowed = max(row.allowed_of_range, _TIMES_SPREAD * spread, rounding)
        passed = row.max_error_of_range <= allowed < np.inf
        wrong = 0 if passed else row.wrong
        return replace(row, allowed_of_range=allowed, passed=passed, wrong=wrong)

    def _tolerance(self, at: int, kernel: KernelRecord) -> "_Limits":
        part = self._parts.get(at)
        half = any(argument.dtype == HALF for _, argument in arguments_of(kernel))
        by_tvm, limits = kernel.kind == _BY_TVM, KERNEL_TOLERANCE
        of_range = limits.of_range_by_tvm if by_tvm else limits.of_range
        jumps = part is not None and any(node.op_type in _JUMPING for node in part.nodes)
        if kernel.kind == _IN_BFLOATS:
            of_range = limits.of_range_in_bfloat
        return _Limits(limits.of_range_in_half if half else of_range, half, jumps, limits)

    def _rounded(self, at: int, tensors: Mapping[str, Array]) -> dict[str, Array]:
        part = self._parts[at]
        given = {name: tensors[name] for name in part.reads}
        for place in part.kernels:
            kernel = self._kernels[place]
            given = {name: self._reference.rounded(name, y, kernel) for name, y in given.items()}
        return given

    def _apart(self, parts: Sequence[Part]) -> Apart:
        wanted = {*self._reference.steps, *self._reference.between_steps}
        return Apart(self._graph, parts, self._reference.tensors, wanted)


def _apart_from_each_other(parts: Iterable[Part]) -> list[Part]:
    """Return parts of several kernels that have none in common."""
    chosen: list[Part] = []
    for part in sorted(parts, key=lambda part: part.kernel):
        if not chosen or part.first > chosen[-1].kernel:
            chosen.append(part)
    return chosen


def _moved(values: Array, part: Part, seed: int) -> Array:
    """Return a tensor whose floats are moved by a last bit of what the kernel computes in."""
    if not np.issubdtype(values.dtype, np.floating):
        return values
    dtype = np.dtype(np.float16) if part.half else values.dtype
    ends = np.array([-np.inf, np.inf], dtype)
    towards = np.random.default_rng(seed).choice(ends, values.shape)
    with np.errstate(over="ignore"):
        moved: Array = np.nextafter(values.astype(dtype), towards).astype(values.dtype)
    return moved


@dataclass(frozen=True)
class _Limits:
    """What a kernel may do.

    Attributes:
        of_range: allowed error of floats as a fraction of the tensor's range.
        half: whether it computes in half precision.
        jumps: whether a last bit may become a step of its results.
        standing: the limits of all kernels.
    """

    of_range: float
    half: bool
    jumps: bool
    standing: KernelTolerance


def _check_argument(argument: ArgumentRecord, reference: "ReferenceTensors", bundle: Path) -> None:
    """Make sure that the tensors of an argument have the type and size that the bundle says.

    Raises:
        BundleError: they have not.
    """
    if argument.dtype not in _TYPES:
        raise _no_description(bundle, f"{argument.dtype!r} is no type of an argument")
    for name in (argument.reads, argument.writes):
        values = reference.tensors.get(name or "")
        if values is None:
            continue
        size, shape, fits = values.size, argument.shape, True
        if argument.channels_last and values.ndim == _IMAGE:
            channels = values.shape[1]  # vectors of them are whole in memory
            fits = bool(shape) and channels <= shape[-1] < channels + _MOST_FILLED
            size = size // max(1, channels) * shape[-1] if fits else 0
        if not fits or size != prod(shape):
            raise _no_description(bundle, f"{name} is not of the shape {shape}")


def _no_description(bundle: Path, reason: str) -> BundleError:
    return BundleError(
        f"{bundle / MANIFEST} does not describe the kernels of its library: {reason}; compile it "
        "again"
    )


def _compare(
    kernel: KernelRecord,
    argument: ArgumentRecord,
    ours: Array,
    reference: ReferenceTensors,
    limits: _Limits,
) -> KernelParity | None:
    """Compare a tensor that a kernel wrote; None where nothing can be said of it."""
    name = argument.writes
    assert name is not None
    theirs = reference.in_memory(name, argument).ravel()
    read = {other.reads for _, other in arguments_of(kernel) if other.reads is not None}
    defined = kernel.kind in _EXACT
    exact = defined and bool(read) and read <= reference.tensors.keys()
    if exact and limits.half:
        theirs = theirs.astype(HALF).astype(argument.dtype)
    if limits.jumps and limits.half and not exact:
        return None
    error = _error(ours, theirs, limits)
    wrong, apart, allowed, of_range = ours != theirs, None, None, None
    differing = int(wrong.sum())
    if argument.dtype == INT8 and name in reference.steps:
        apart, allowed = int(np.abs(ours.astype(np.int32) - theirs).max()), int(not exact)
        between = None if defined else reference.between(name, read)
        for rounded in () if exact else filter(None, (name, between)):
            near = reference.near_tie(rounded, argument, limits.standing.of_step)
            wrong &= ~near.ravel()
        if between is not None:
            allowed = reference.largest_jump(between, name)
    elif not exact and np.issubdtype(theirs.dtype, np.floating):
        of_range = limits.of_range
        wrong &= not error <= of_range
    if limits.jumps and apart is None and wrong.mean() <= _FEW:
        wrong[:] = False
    return KernelParity(
        kernel=kernel.kernel,
        nodes=tuple(kernel.nodes),
        tensor=name,
        values=ours.size,
        differing=differing,
        wrong=int(wrong.sum()),
        steps=apart,
        allowed_steps=allowed,
        max_error_of_range=error,
        passed=not wrong.any() and (apart is None or allowed is None or apart <= allowed),
        allowed_of_range=of_range,
    )


def _error(ours: Array, theirs: Array, limits: _Limits) -> float:
    """Return the largest error over the range; what is not finite must be so on both sides.

    Numbers that are all equal, as a single one is, have no range: their size stands for it. Half
    precision has no numbers above 65504, so there it may be anything.
    """
    known = np.isfinite(theirs.astype(np.float64))
    same = (ours == theirs) | ((ours != ours) & (theirs != theirs))  # NaN is not itself
    if not limits.half and not same[~known].all():
        return float("inf")
    a, b = ours[known].astype(np.float64), theirs[known].astype(np.float64)
    if limits.half:
        a = np.where(np.abs(b) > np.finfo(np.float16).max, b, a)
    return _of_range(a, b)


def _of_range(ours: Array, theirs: Array) -> float:
    """Return the largest error over the range; numbers that are all equal have their size."""
    size = np.abs(theirs).max(initial=0) or 1.0
    spreads = bool(theirs.size and np.ptp(theirs))
    return error_of_range(ours, theirs, None if spreads else np.asarray(size))


def _rounding(right: Array, last_bit: float) -> float:
    """Return some last bits of the largest number, as a fraction of the range.

    Of numbers that are all equal nobody knows what they were added up from.
    """
    if not right.size or not np.isfinite(right).all():
        return 0.0
    if not np.ptp(right):
        return _OF_EQUAL
    largest = float(np.abs(right).max())
    return _LAST_BITS * last_bit * largest / float(np.ptp(right))
