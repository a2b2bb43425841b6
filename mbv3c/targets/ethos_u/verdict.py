"""The verdict on an NPU bundle: what each step has shown."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mbv3c.parity.compare import Pairs
from mbv3c.parity.tolerance import HOST_ERROR, LEAST_COSINE
from mbv3c.targets.ethos_u.host_parity import HostParity


@dataclass(frozen=True)
class StepInput:
    """What one input has shown.

    Attributes:
        max_error_of_range: of the QDQ model's outputs against the fp32 model's.
        cosine: of the same.
        top1_agreement, top5_agreement: of the same; None if the outputs are no class scores.
        lsb: largest difference of TOSA's integers and those of the QDQ model in onnxruntime.
        allowed_lsb: how many may be.
        spread_lsb: how far onnxruntime's own optimisation levels are apart on the QDQ model, or
            its results for inputs of which a few integers are a step apart.
    """

    max_error_of_range: float
    cosine: float
    top1_agreement: float | None
    top5_agreement: float | None
    lsb: int
    allowed_lsb: float
    spread_lsb: float

    @property
    def passed(self) -> bool:
        return self.cosine >= LEAST_COSINE and self.lsb <= self.allowed_lsb


@dataclass(frozen=True)
class OperatorsAlone:
    """What every operator has shown by itself, on the integers that onnxruntime gives it.

    Attributes:
        count: how many there are.
        worst: the one that is furthest from what it may be.
        lsb: how far it is from the QDQ model.
        allowed_lsb: how far it may be.
    """

    count: int
    worst: str
    lsb: int
    allowed_lsb: int

    @property
    def passed(self) -> bool:
        return self.lsb <= self.allowed_lsb


@dataclass(frozen=True)
class NpuParity:
    """The verdict on an NPU bundle.

    Attributes:
        inputs: what each input has shown.
        alone: what every operator by itself has shown.
        same_tosa: whether the TOSA file is, byte by byte, what the QDQ model lowers to.
        host: what the part on the CPU has shown; None if there is none.
        stream_equal: whether the interpreted command stream gave TOSA's bits; None if unchecked.
        stream_inputs: on how many inputs.
        stream_said: why it was not checked, or what was wrong.
        pairs: the outputs that TOSA's integers stand for, and those of the QDQ model.
    """

    inputs: tuple[StepInput, ...]
    alone: OperatorsAlone
    same_tosa: bool
    host: HostParity | None
    stream_equal: bool | None
    stream_inputs: int
    stream_said: str
    pairs: Pairs = field(default=(), repr=False, compare=False)

    @property
    def passed(self) -> bool:
        return not self.missed

    @property
    def missed(self) -> list[str]:
        """Say what missed, step by step."""
        missed = []
        cosine = min(one.cosine for one in self.inputs)
        if cosine < LEAST_COSINE:
            missed.append(
                f"QDQ is at a cosine of {cosine:.3f} from fp32 (at least {LEAST_COSINE}); "
                "calibrate on inputs like the real ones"
            )
        if not self.alone.passed:
            missed.append(
                f"{self.alone.worst} by itself is {self.alone.lsb} LSB from onnxruntime (allowed "
                f"{self.alone.allowed_lsb})"
            )
        for one in self.inputs:
            if one.lsb > one.allowed_lsb:
                missed.append(f"TOSA is {one.lsb} LSB from QDQ (allowed {one.allowed_lsb:.0f})")
        if not self.same_tosa:
            missed.append("the TOSA file is not what the QDQ model lowers to")
        missed += self.missed_on_host
        if self.stream_equal is False:
            missed.append(f"the command stream is not what TOSA computes: {self.stream_said}")
        return missed

    @property
    def missed_on_host(self) -> list[str]:
        """Say what missed of the part on the CPU."""
        host, missed = self.host, []
        if host is None:
            return []
        if not host.same:
            missed.append("host.onnx is not what the QDQ model leaves to the CPU")
        if not host.max_error_of_range <= HOST_ERROR:
            missed.append(
                f"host.onnx is {host.max_error_of_range:.1e} of the range from the QDQ model on "
                f"the same integers (allowed {HOST_ERROR:.0e})"
            )
        if not host.cosine >= LEAST_COSINE:
            missed.append(
                f"NPU and CPU together are at a cosine of {host.cosine:.3f} from fp32 (at least "
                f"{LEAST_COSINE})"
            )
        return missed

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        top1 = [one.top1_agreement for one in self.inputs if one.top1_agreement is not None]
        top5 = [one.top5_agreement for one in self.inputs if one.top5_agreement is not None]
        worst = max(self.inputs, key=lambda one: one.lsb - one.allowed_lsb)
        return {
            "passed": self.passed,
            "missed": self.missed,
            "ran_on": self.ran_on,
            "max_error_of_range": max(one.max_error_of_range for one in self.inputs),
            "cosine": min(one.cosine for one in self.inputs),
            "top1_agreement": float(np.mean(top1)) if top1 else None,
            "top5_agreement": float(np.mean(top5)) if top5 else None,
            "qdq_against_tosa_lsb": worst.lsb,
            "qdq_against_tosa_allowed_lsb": worst.allowed_lsb,
            "operators_alone": {**asdict(self.alone), "passed": self.alone.passed},
            "same_tosa": self.same_tosa,
            "host": self.host.to_json() if self.host else None,
            "stream_bit_equal": self.stream_equal,
            "stream_inputs": self.stream_inputs,
            "stream_not_checked": self.stream_said if self.stream_equal is None else None,
            "stream_error": self.stream_said or None if self.stream_equal is False else None,
            "inputs": [{**asdict(one), "passed": one.passed} for one in self.inputs],
        }

    @property
    def ran_on(self) -> str:
        if self.stream_equal is None:
            return "TOSA reference model (not the command stream)"
        return "interpreter of the command stream, and TOSA reference model"
