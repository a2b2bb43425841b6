"""The verdict on an NPU bundle: what each step has shown."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from mbv3c.parity.agreement import Agreement
from mbv3c.parity.tolerance import HOST_ERROR, LEAST_COSINE, Tolerance
from mbv3c.parity.verdict import Check, Pairs
from mbv3c.targets.ethos_u.host_parity import HostParity

HOST, PARTS = "host.onnx", "cpu_*.onnx"  # what is computed on the CPU


def sentences(parity: dict[str, Any]) -> list[str]:
    """Say a verdict, as its JSON form has it, in lines."""
    top = {name: parity[f"{name.replace('-', '')}_agreement"] for name in ("top-1", "top-5")}
    shares = (
        f", {name} agreement {share:.0%}" for name, share in top.items() if share is not None
    )
    agreement = "".join(shares)
    alone = parity["operators_alone"]
    streams = {
        True: f"bit-equal on {parity['stream_inputs']} inputs, interpreted",
        False: f"DIFFERS: {parity['stream_error']}",
        None: f"NOT CHECKED: {parity['stream_not_checked']}",
    }
    verdict = "passed" if parity["passed"] else "MISSED"
    if parity.get("unproven"):
        verdict = "NOT PROVEN"
    return [
        f"parity: {verdict} on {parity['ran_on']}",
        f"  fp32 (onnxruntime, model as given) against QDQ: cosine {parity['cosine']:.5f} at least"
        f"{agreement}, over {len(parity['inputs'])} inputs",
        f"  QDQ (onnxruntime) against TOSA: {parity['qdq_against_tosa_lsb']} LSB at most "
        f"(allowed {parity['qdq_against_tosa_allowed_lsb']:.0f})",
        f"  each of {alone['count']} operators by itself: {alone['lsb']} LSB at most "
        f"(allowed {alone['allowed_lsb']}), in {alone['worst']}"
        f"{'' if parity['same_tosa'] else '; the TOSA file is NOT what QDQ lowers to'}",
        f"  TOSA against the command stream: {streams[parity['stream_bit_equal']]}",
        *_made_again(parity.get("made_again")),
        *_on_host(parity["host"], PARTS if "c_library" in parity else HOST),
    ]


def _made_again(again: dict[str, Any] | None) -> Iterator[str]:
    if again is None:
        return
    found = "equal, byte by byte"
    if again["differing"]:
        found = f"DIFFERENT: {'; '.join(again['differing'])}"
    if again["not_compared"]:
        found = f"NOT PROVEN, made by {again['not_compared']}; {found}"
    yield f"  stream and C files, made once more: {found}"


def _on_host(host: dict[str, Any] | None, name: str) -> Iterator[str]:
    if host is None:
        return
    error, cosine = (
        "not finite" if host[key] is None else format(host[key], form)
        for key, form in (("max_error_of_range", ".1e"), ("cosine", ".5f"))
    )
    yield (
        f"  {name}, on the CPU: {error} of the range from QDQ on the same integers"
        f"{'' if host['same'] else '; it is NOT what QDQ leaves to the CPU'}; behind the NPU's "
        f"part, cosine {cosine} to fp32 at least"
    )


@dataclass(frozen=True)
class MadeAgain:
    """What came of making the files of a bundle once more.

    Attributes:
        differing: what differs, in words, file by file.
        not_compared: which other versions made a bundle whose files differ, which may be why:
            then nothing says whether the difference is a fault; else empty.
    """

    differing: tuple[str, ...]
    not_compared: str = ""

    @property
    def missed(self) -> list[str]:
        """Say what is wrong, or not proven."""
        if not self.not_compared:
            return list(self.differing)
        return [
            f"stream and C files are made by {self.not_compared}, which makes others "
            f"({'; '.join(self.differing)}): compile the model again with the versions that are "
            "here, or verify it with those that made it"
        ]


@dataclass(frozen=True)
class StepInput:
    """What one input has shown.

    Attributes:
        max_error_of_range: largest error of the QDQ model's outputs against the fp32 model's.
        cosine: cosine similarity of these outputs.
        top1_agreement, top5_agreement: agreement of their classes; None without class scores.
        lsb: largest difference of TOSA's integers and those of the QDQ model in onnxruntime.
        allowed_lsb: largest allowed difference.
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
        stream_inputs: number of inputs on which the command stream was interpreted.
        stream_said: why it was not checked, or what was wrong.
        as_given: how near the QDQ model comes to the model as given.
        pairs: the outputs that TOSA's integers stand for, and those of the QDQ model.
        again: what came of making the files once more; None where they were just made.
    """

    inputs: tuple[StepInput, ...]
    alone: OperatorsAlone
    same_tosa: bool
    host: HostParity | None
    stream_equal: bool | None
    stream_inputs: int
    stream_said: str
    as_given: Agreement = field(default=Agreement(1.0, None, None), repr=False)
    pairs: Pairs = field(default=(), repr=False, compare=False)
    again: MadeAgain | None = None
    host_files: ClassVar[str] = HOST

    @property
    def passed(self) -> bool:
        return not self.missed

    @property
    def missed(self) -> list[str]:
        """Say what missed, step by step."""
        missed = []
        cosine = min(step.cosine for step in self.inputs)
        if cosine < LEAST_COSINE:
            missed.append(
                f"QDQ is at a cosine of {cosine:.3f} from fp32 (at least {LEAST_COSINE}); "
                "calibrate on more inputs like the real ones, train it for int8, or compile for "
                "a target with fp16, such as arm_cpu"
            )
        else:
            missed += self.as_given.too_far
        if not self.alone.passed:
            missed.append(
                f"{self.alone.worst} by itself is {self.alone.lsb} LSB from onnxruntime (allowed "
                f"{self.alone.allowed_lsb})"
            )
        for step in self.inputs:
            if step.lsb > step.allowed_lsb:
                missed.append(f"TOSA is {step.lsb} LSB from QDQ (allowed {step.allowed_lsb:.0f})")
        if not self.same_tosa:
            missed.append("the TOSA file is not what the QDQ model lowers to")
        missed += self.missed_on_host
        if self.stream_equal is False:
            missed.append(f"the command stream is not what TOSA computes: {self.stream_said}")
        return [*missed, *(self.again.missed if self.again else ())]

    @property
    def unproven(self) -> bool:
        """Whether nothing is wrong but that other versions made the files."""
        again = self.again
        return again is not None and bool(again.not_compared) and self.missed == again.missed

    @property
    def missed_on_host(self) -> list[str]:
        """Say what missed of the part on the CPU."""
        host, missed = self.host, []
        if host is None:
            return []
        if not host.same:
            missed.append(f"{self.host_files} is not what the QDQ model leaves to the CPU")
        if not host.max_error_of_range <= HOST_ERROR:
            missed.append(
                f"{self.host_files} is {host.max_error_of_range:.1e} of the range from the QDQ "
                f"model on the same integers (allowed {HOST_ERROR:.0e})"
            )
        if not host.cosine >= LEAST_COSINE:
            missed.append(
                f"NPU and CPU together are at a cosine of {host.cosine:.3f} from fp32 (at least "
                f"{LEAST_COSINE})"
            )
        return missed

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        top1 = [step.top1_agreement for step in self.inputs if step.top1_agreement is not None]
        top5 = [step.top5_agreement for step in self.inputs if step.top5_agreement is not None]
        worst = max(self.inputs, key=lambda step: step.lsb - step.allowed_lsb)
        return {
            "passed": self.passed,
            "missed": self.missed,
            "unproven": self.unproven,
            "ran_on": self.ran_on,
            "max_error_of_range": max(step.max_error_of_range for step in self.inputs),
            "cosine": min(step.cosine for step in self.inputs),
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
            "too_far": list(self.as_given.too_far),
            "inputs": [{**asdict(step), "passed": step.passed} for step in self.inputs],
            **({"made_again": asdict(self.again)} if self.again else {}),
        }

    @property
    def exact_program(self) -> bool:
        """False: the outputs are those of TOSA, with which the stream was only compared."""
        return False

    @property
    def standing(self) -> Tolerance | None:
        """None: more than the outputs decides."""
        return None

    def checks(self) -> list[Check]:
        """Return every step that was checked."""
        cosine = min(step.cosine for step in self.inputs)
        worst = max(self.inputs, key=lambda step: step.lsb - step.allowed_lsb)
        alone, host, stream = self.alone, self.host, self.stream_equal
        rows = [
            (
                "QDQ against fp32",
                cosine >= LEAST_COSINE,
                f"cosine {cosine:.5f} (at least {LEAST_COSINE})",
            ),
            (
                "TOSA against QDQ",
                worst.lsb <= worst.allowed_lsb,
                f"{worst.lsb} LSB (allowed {worst.allowed_lsb:.0f})",
            ),
            (
                f"{alone.count} operators alone",
                alone.passed,
                f"{alone.lsb} LSB in {alone.worst} (allowed {alone.allowed_lsb})",
            ),
            ("TOSA file", self.same_tosa, "byte by byte what QDQ lowers to"),
        ]
        if host is not None:
            text = f"error {host.max_error_of_range:.1e} of range, cosine {host.cosine:.5f}"
            rows.append(("part on the CPU", not self.missed_on_host, text))
        text = self.stream_said or f"bit-equal on {self.stream_inputs} inputs"
        return [
            *(Check("parity", *row) for row in rows),
            Check("parity", "command stream", stream is not False, text, skipped=stream is None),
            *self._checks_of_files(),
        ]

    def _checks_of_files(self) -> Iterator[Check]:
        again = self.again
        if again is None:
            return
        text = "; ".join(again.missed) or "byte by byte what vela makes"
        yield Check("parity", "files", not again.differing, text)

    def errors(self) -> list[dict[str, Any]]:
        """Return how far TOSA is from QDQ, in LSB."""
        return [
            {"name": f"TOSA against QDQ, input {i}", "error": row.lsb, "allowed": row.allowed_lsb}
            for i, row in enumerate(self.inputs)
        ]

    def lines(self) -> list[str]:
        """Return the verdict in words."""
        return sentences(self.to_json())

    @property
    def ran_on(self) -> str:
        if self.stream_equal is None:
            return "TOSA reference model (not the command stream)"
        return "interpreter of the command stream, and TOSA reference model"
