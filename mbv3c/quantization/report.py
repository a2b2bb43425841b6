"""What it cost to quantize a model, and where."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

_LISTED = 10
_WIDEST_NAME = 35


@dataclass(frozen=True)
class OutputError:
    """An output of the quantized model beside that of the model as given.

    Attributes:
        name: name of the output.
        snr_db: signal-to-noise ratio in dB; infinite if nothing differs.
        cosine: cosine similarity over all inputs.
        max_error_of_range: largest absolute error over the output's range, on the worst input.
        top1_agreement: share of images (pixels, anchors) whose best class agrees; None without
            class scores.
        top5_agreement: share of the reference's five best classes that are among ours; None
            without class scores.
    """

    name: str
    snr_db: float
    cosine: float
    max_error_of_range: float
    top1_agreement: float | None
    top5_agreement: float | None


@dataclass(frozen=True)
class LayerError:
    """A layer by itself: the worst output when nothing else is quantized.

    Attributes:
        name: name of the layer's first node.
        operators: operators of the layer's nodes.
        alone_snr_db: signal-to-noise ratio of the worst output; None if layers were not measured.
        alone_cosine: cosine similarity of the worst output; None if layers were not measured.
        kept_float: why the layer stays fp32; None if it is quantized.
    """

    name: str
    operators: tuple[str, ...]
    alone_snr_db: float | None
    alone_cosine: float | None
    kept_float: str | None


@dataclass(frozen=True)
class TensorError:
    """A tensor of the quantized model beside that of the fp32 graph.

    Attributes:
        name: name of the tensor.
        layer: name of the layer that makes the tensor, or of the model's input itself.
        low: the least value that the quantized tensor can hold.
        high: the largest value that the quantized tensor can hold.
        snr_db: signal-to-noise ratio with everything before the tensor quantized, too.
        cosine: cosine similarity with everything before the tensor quantized, too.
        own_snr_db: signal-to-noise ratio with nothing else quantized: the cost of its own steps.
    """

    name: str
    layer: str
    low: float
    high: float
    snr_db: float
    cosine: float
    own_snr_db: float


@dataclass(frozen=True)
class QuantizationReport:
    """How a model was quantized, and what it cost on inputs that ranges were not taken from.

    Attributes:
        calibration: origin of the inputs, in words.
        random_inputs: whether the inputs are random numbers, which say nothing of real images.
        calibrated_on: number of batches that ranges were taken from; 0 if ranges were given.
        measured_on: number of batches that errors were measured on.
        held_out: whether errors were measured on other batches than ranges were taken from.
        method: how ranges follow from values.
        activations: integer type of the activations.
        outputs: errors of the model's outputs.
        layers: errors of the layers, the most sensitive first, or in graph order if not measured.
        tensors: errors of the tensors, the largest own error first.
        left_float: nodes that are never quantized, with the reason.
    """

    calibration: str
    random_inputs: bool
    calibrated_on: int
    measured_on: int
    held_out: bool
    method: str
    activations: str
    outputs: tuple[OutputError, ...]
    layers: tuple[LayerError, ...]
    tensors: tuple[TensorError, ...]
    left_float: dict[str, str]

    @property
    def snr_db(self) -> float:
        """The signal-to-noise ratio of the worst output."""
        return min(output.snr_db for output in self.outputs)

    @property
    def cosine(self) -> float:
        """The cosine similarity of the worst output."""
        return min(output.cosine for output in self.outputs)

    @property
    def kept_float(self) -> tuple[LayerError, ...]:
        """The layers that stay fp32."""
        return tuple(layer for layer in self.layers if layer.kept_float is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; a number that is not finite becomes null."""
        document = {
            "snr_db": self.snr_db,
            "cosine": self.cosine,
            **asdict(self),
            "left_float": [
                {"node": node, "reason": reason} for node, reason in self.left_float.items()
            ],
        }
        return {key: _plain(value) for key, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def report_lines(report: QuantizationReport, *, every: bool) -> Iterator[str]:
    """Yield the tables that a terminal shows: the worst ten of each kind, or everything."""
    count = len(report.layers) - len(report.kept_float)
    others = "others, held out" if report.held_out else "of them: too few to hold any out"
    left = len(report.kept_float)
    yield (
        f"{count} of {len(report.layers)} layers quantized{f', {left} stay fp32' * bool(left)}: "
        f"{report.activations} activations, int8 weights per channel"
    )
    yield (
        f"{report.calibration}: ranges from {report.calibrated_on} ({report.method}), measured on "
        f"{report.measured_on} {others}"
    )
    if report.random_inputs:
        yield "RANDOM inputs: nothing here speaks of real images"
    heads = f"{'SNR dB':>8}{'cosine':>10}{'max error of range':>20}{'top-1':>7}{'top-5':>7}"
    yield f"\n{'output':<16}{heads}"
    for output in report.outputs:
        yield (
            f"{output.name:<16}{output.snr_db:>8.1f}{output.cosine:>10.6f}"
            f"{output.max_error_of_range:>20.1e}"
            f"{_share(output.top1_agreement)}{_share(output.top5_agreement)}"
        )
    limit = None if every else _LISTED
    yield from _layer_lines(report, limit)
    heads = f"{'own dB':>8}{'SNR dB':>8}{'cosine':>10}  range"
    yield f"\n{'tensor, worst first':<{_WIDEST_NAME}}{heads}"
    for tensor in report.tensors[:limit]:
        yield (
            f"{tensor.name:<{_WIDEST_NAME}}{tensor.own_snr_db:>8.1f}{tensor.snr_db:>8.1f}"
            f"{tensor.cosine:>10.6f}  {tensor.low:.4g} to {tensor.high:.4g}"
        )
    yield from _float_lines(report, limit)


def _layer_lines(report: QuantizationReport, limit: int | None) -> Iterator[str]:
    measured = [layer for layer in report.layers if layer.alone_snr_db is not None]
    if not measured:
        return
    heads = f"{'SNR dB':>8}{'cosine':>10}  operators"
    yield f"\n{'layer quantized alone, worst first':<{_WIDEST_NAME}}{heads}"
    for layer in measured[:limit]:
        yield (
            f"{layer.name:<{_WIDEST_NAME}}{layer.alone_snr_db:>8.1f}{layer.alone_cosine:>10.6f}  "
            f"{' → '.join(layer.operators)}"
        )


def _float_lines(report: QuantizationReport, limit: int | None) -> Iterator[str]:
    kept = {layer.name: str(layer.kept_float) for layer in report.kept_float}
    for what, reasons in (("layers", kept), ("nodes", report.left_float)):
        if not reasons:
            continue
        yield f"\n{len(reasons)} {what} stay fp32"
        yield from (f"{name}: {reason}" for name, reason in list(reasons.items())[:limit])
        if limit is not None and len(reasons) > limit:
            yield f"and {len(reasons) - limit} more"


def _share(share: float | None) -> str:
    return f"{'' if share is None else f'{share:.0%}':>7}"
