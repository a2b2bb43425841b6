"""How far a quantized model is from fp32 on calibration inputs that were held out, and where."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mbv3c.quantization.report import QuantizationReport

LEAST_COSINE = 0.98
LEAST_AGREEMENT = 0.98
_SHOWN = 3


@dataclass(frozen=True)
class Place:
    """Where much is lost.

    Attributes:
        layer: name of the layer.
        tensor: the tensor that it makes; empty where the layer was measured, and not a tensor.
        snr_db: signal-to-noise ratio of the tensor's own steps, or of the worst output where this
            layer alone is quantized.
    """

    layer: str
    tensor: str
    snr_db: float


@dataclass(frozen=True)
class Loss:
    """A quantized model beside the model as given; of several outputs the worst.

    Attributes:
        cosine: cosine similarity over all inputs.
        agreement: share of images (pixels, anchors) with an equal best class; None without class
            scores.
        inputs: number of batches that were compared.
        held_out: whether ranges were taken from other batches.
        places: where most is lost, the worst first.
    """

    cosine: float
    agreement: float | None
    inputs: int
    held_out: bool
    places: tuple[Place, ...]

    @property
    def is_large(self) -> bool:
        too_few = self.agreement is not None and self.agreement < LEAST_AGREEMENT
        return too_few or not self.cosine >= LEAST_COSINE

    def lines(self) -> list[str]:
        """Say how far it is, and of what is too far where it comes from."""
        of = "held-out calibration inputs" if self.held_out else "of the calibration inputs"
        agreement = "" if self.agreement is None else f", {self.agreement:.1%} of classes agree"
        line = f"int8 beside fp32 on {self.inputs} {of}: cosine {self.cosine:.4f}{agreement}"
        return [f"WARNING: {line}{self._advice()}"] if self.is_large else [line]

    def _advice(self) -> str:
        places = "; ".join(
            f"{place.tensor or place.layer} {place.snr_db:.1f} dB"
            + (f" (of {place.layer})" if place.tensor not in ("", place.layer) else "")
            for place in self.places
        )
        return (
            f" (wanted: {LEAST_COSINE} and {LEAST_AGREEMENT:.0%}); most is lost in: {places}; "
            "more calibration images, `quantize --method percentile` or --keep-float may help"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "cosine": self.cosine,
            "agreement": self.agreement,
            "inputs": self.inputs,
            "held_out": self.held_out,
            "too_far": self.is_large,
            "where": [vars(place) for place in self.places],
        }


def loss_of(report: QuantizationReport | None) -> Loss | None:
    """Return what quantizing cost on real inputs; None if it was not done, or on random ones."""
    if report is None or report.random_inputs:
        return None
    shares = [output.top1_agreement for output in report.outputs]
    return Loss(
        report.cosine,
        min((share for share in shares if share is not None), default=None),
        report.measured_on,
        report.held_out,
        tuple(_places(report)),
    )


def _places(report: QuantizationReport) -> Iterator[Place]:
    """Yield the layers that cost most by themselves, or else the tensors that do."""
    measured = [layer for layer in report.layers if layer.alone_snr_db is not None]
    quantized = [layer for layer in measured if layer.kept_float is None]
    for layer in quantized[:_SHOWN]:
        yield Place(layer.name, "", float(layer.alone_snr_db or 0.0))
    for tensor in report.tensors[: _SHOWN if not measured else 0]:
        yield Place(tensor.layer, tensor.name, tensor.own_snr_db)
