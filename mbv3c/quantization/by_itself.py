"""Quantize a model for compilation, with nobody saying how.

minmax → other ranges → layers in fp32, or the end of the network; each only if outputs would miss
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import onnx

from mbv3c.errors import UsageError
from mbv3c.graphs.count import layers_with_weights, tensor_shapes
from mbv3c.lowering.qdq import has_pairs
from mbv3c.parity.reference import run_reference
from mbv3c.progress import Progress
from mbv3c.quantization.calibration import Calibration, random_inputs, random_with_warning
from mbv3c.quantization.layers import Layer, layers
from mbv3c.quantization.options import KeepFloat, QuantizeOptions
from mbv3c.quantization.qdq import insert_qdq
from mbv3c.quantization.quantize import BudgetError, Trial, quantize, rewritten
from mbv3c.quantization.ranges import Observed, known_ranges, observe, pixel_ranges
from mbv3c.quantization.report import QuantizationReport

# On all calibration inputs together; what decides whether a bundle passes are others than these,
# one by one, and those may be further off: PP-OCR's reader v4 at 0.971 has an input at 0.864.
_SAFE_COSINE = 0.98
_NEAR_COSINE = 0.95  # for which a device gives up no more of a network
_SOUND_DB = 20  # of outputs, where all layers in int8 are less than that; a cosine of 0.995
_LEAST_SHARE = 0.5  # of the multiply-adds, for a part that is worth a device
_UNMEASURED = 2  # random inputs, where nobody asks how far outputs are from fp32
_OTHER_RANGES = (
    QuantizeOptions(method="percentile"),
    QuantizeOptions(method="percentile", percentile=99.9),
    QuantizeOptions(method="entropy"),
)

# Names the nodes that the device computes in integers; None if it is all. It takes the fp32 graph
# where the device computes the others, too, and a model with pairs where a CPU behind it does.
OnDevice = Callable[[onnx.ModelProto], Collection[str] | None]
Made = tuple[onnx.ModelProto, QuantizationReport]


def quantize_once(
    model: onnx.ModelProto,
    calibration: Calibration | None,
    options: QuantizeOptions | None,
    progress: Progress,
    on_device: OnDevice | None = None,
    *,
    may_keep_float: bool = False,
) -> tuple[onnx.ModelProto, QuantizationReport | None]:
    """Quantize a model for compilation; a quantized one is returned as it is, without a report.

    Without `calibration` the inputs are random, and `progress` is told so. With it, and without
    `options`, a model whose outputs would be too far from fp32 gets the best of several ranges. If
    it is still too far, the most sensitive layers stay in fp32 where the device `may_keep_float`.
    What such a device has no integer kernels for, as `on_device` says, stays in fp32, too, unless
    `options` keep nothing. Of a device with a CPU behind it `on_device` says what it computes: the
    rest stays in fp32, and more of the network's end, if it must.

    Raises:
        UsageError: the model is quantized already, and `calibration` or `options` are given.
        Mbv3cError: as `quantize` says.
    """
    if has_pairs(model):
        if calibration is not None or options is not None:
            raise UsageError(
                "the model has QDQ pairs already, so there is nothing to calibrate; leave "
                "--calibration and --keep-float out, or give the fp32 model"
            )
        return model, None
    source = calibration or random_with_warning(model, progress)
    plain = options or QuantizeOptions()
    progress("rewriting the graph")
    graph = rewritten(model, plain)
    if may_keep_float and on_device and options != QuantizeOptions():
        plain = _with_kernels(graph, plain, on_device, progress)

    def by(way: QuantizeOptions, known: Observed | None = None) -> Made:
        return quantize(
            *(model, source, way),
            observed=known,
            graph=graph,
            rank_layers=False,
            progress=progress,
        )

    made = by(plain)
    if options is not None or source.random or made[1].cosine >= _SAFE_COSINE:
        return made
    progress(
        f"in int8, by minmax, outputs are at a cosine of {made[1].cosine:.3f} from fp32: trying "
        "other ranges"
    )
    in_front = on_device if on_device and not may_keep_float else None
    search = _Search.of(model, graph, source, plain, in_front(made[0]) if in_front else None)
    best = search.best(made[1].cosine, progress)
    if in_front is not None:
        best = search.shortened(best, progress)

    if best.options != plain:
        made = by(best.options, search.observed)
    if not may_keep_float or made[1].cosine >= _SAFE_COSINE:
        return made
    progress(f"layers stay in fp32 until {_SOUND_DB} dB (--keep-float)")
    keep = replace(best.options.keep_float, budget_db=_SOUND_DB)
    try:
        return by(replace(best.options, keep_float=keep), search.observed)
    except BudgetError:  # which nobody asked for; the verdict is that of `verify`
        return made


def _with_kernels(
    graph: onnx.ModelProto, options: QuantizeOptions, on_device: OnDevice, progress: Progress
) -> QuantizeOptions:
    """Leave layers in fp32 that the device computes in fp32 anyway, or between such layers."""
    computed, every = frozenset(on_device(graph) or ()), layers(graph)
    floats = frozenset(part.name for part in every if part.nodes[0] not in computed)
    if not floats or len(floats) == len(every):
        return options
    progress(f"{len(floats)} of {len(every)} layers stay in fp32: no integer kernel is for them")
    return replace(options, keep_float=replace(options.keep_float, without_kernel=floats))


def quantize_unmeasured(
    graph: onnx.ModelProto, on_device: OnDevice | None, *, may_keep_float: bool
) -> onnx.ModelProto:
    """Quantize a graph on random inputs as `quantize_once` does, and measure nothing.

    Args:
        graph: the fp32 graph, as `quantize.rewritten` returns it.
        on_device: names the nodes that the device computes in integers; None for all.
        may_keep_float: whether the device computes the others in fp32.

    Raises:
        ModelError: the graph cannot be quantized.
    """
    options = QuantizeOptions()
    if may_keep_float and on_device:
        options = _with_kernels(graph, options, on_device, lambda step: None)
    kept = options.keep_float.in_any_case
    parts = [part for part in layers(graph) if part.name not in kept]
    observed = observe(graph, random_inputs(graph, _UNMEASURED).calibrating, spread=False)
    ranges = known_ranges(graph, observed.ranges(options)) | pixel_ranges(graph)
    return insert_qdq(graph, ranges, parts, options)


@dataclass(frozen=True)
class _Found:
    """A way to quantize, and how far outputs then are from fp32."""

    options: QuantizeOptions
    cosine: float


@dataclass(frozen=True)
class _Search:
    """What the ways to quantize a model are tried with.

    Attributes:
        trials: for each way what is needed to measure it, with all layers.
        inside: the layers that the device computes, in order.
        observed: what the inputs have shown.
    """

    trials: Sequence[Trial]
    inside: Sequence[Layer]
    observed: Observed

    @staticmethod
    def of(
        model: onnx.ModelProto,
        graph: onnx.ModelProto,
        source: Calibration,
        plain: QuantizeOptions,
        computed: Collection[str] | None,
    ) -> "_Search":
        """Run the inputs of a calibration; `computed` names the nodes that the device computes."""
        keep = plain.keep_float
        every = tuple(part for part in layers(graph) if part.name not in keep.without_kernel)
        observed = observe(graph, source.calibrating, spread=True)
        inputs = source.evaluating()
        references = list(run_reference(model, inputs))
        trials = [
            Trial(graph, known_ranges(graph, observed.ranges(way)), every, way, inputs, references)
            for way in (plain, *(replace(way, keep_float=keep) for way in _OTHER_RANGES))
        ]
        inside = [part for part in every if computed is None or {*part.nodes} & {*computed}]
        return _Search(trials, inside, observed)

    def best(self, by_minmax: float, progress: Progress) -> _Found:
        """Return the ranges with which outputs are nearest to fp32."""
        plain, *others = self.trials
        whole = len(self.inside) == len(plain.parts)
        found = [_Found(plain.options, by_minmax if whole else self._cosine(plain, self.inside))]
        found += [_Found(trial.options, self._cosine(trial, self.inside)) for trial in others]
        said = (f"{way.options.ranges_by} {way.cosine:.3f}" for way in found)
        progress(f"cosines by ranges{'' if whole else self._cost(self.inside)}: {', '.join(said)}")
        best = max(found, key=lambda way: way.cosine)
        return best if whole else self._up_to(len(self.inside), best)

    def shortened(self, best: _Found, progress: Progress) -> _Found:
        """Leave more of the network's end in fp32, if outputs are too far from fp32.

        The result need not get better with every layer in fp32, so the bisection may miss the
        least number; but what it returns was measured.
        """
        if best.cosine >= _NEAR_COSINE:
            return best
        (trial,) = (one for one in self.trials if one.options.ranges_by == best.options.ranges_by)
        seen: dict[int, float] = {}

        def is_near(left: int) -> bool:
            front = self.inside[: len(self.inside) - left]
            seen[left] = self._cosine(trial, front)
            return seen[left] >= _NEAR_COSINE

        left = bisect_left(range(1, len(self.inside)), True, key=is_near) + 1
        count = len(self.inside) - left
        if not seen.get(left, 0.0) >= _NEAR_COSINE or self._share(count) < _LEAST_SHARE:
            progress(
                f"no end of the network in fp32 that leaves the device {_LEAST_SHARE:.0%} of the "
                f"multiply-adds brings outputs to a cosine of {_NEAR_COSINE}"
            )
            return best
        progress(f"cosine{self._cost(self.inside[:count])}: {seen[left]:.3f}")
        return self._up_to(count, replace(best, cosine=seen[left]))

    def _cosine(self, trial: Trial, parts: Sequence[Layer]) -> float:
        return trial.error(trial.only(parts)).cosine

    def _up_to(self, count: int, found: _Found) -> _Found:
        """Keep all but the first layers of the device in fp32."""
        front = {part.name for part in self.inside[:count]}
        others = frozenset(part.name for part in self.trials[0].parts if part.name not in front)
        keep = KeepFloat(elsewhere=others)
        return replace(found, options=replace(found.options, keep_float=keep))

    def _cost(self, front: Sequence[Layer]) -> str:
        """Say what stays in fp32 behind the first layers."""
        every = len(self.trials[0].parts)
        return (
            f" with {every - len(front)} of {every} layers in fp32 on the CPU, "
            f"{1 - self._share(len(front)):.1%} of the multiply-adds"
        )

    def _share(self, count: int) -> float:
        """Return the share of the multiply-adds that the first layers of the device do."""
        graph = self.trials[0].graph
        front = {name for part in self.inside[:count] for name in part.nodes}
        inside = every = 0
        for node, done in layers_with_weights(graph, tensor_shapes(graph)):
            every += done
            inside += done if node.name in front else 0
        return inside / every if every else 0.0
