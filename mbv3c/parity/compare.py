"""Compare outputs with the reference and give a verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.c_library.check import CLibraryParity, FilesParity
from mbv3c.feeds import Array
from mbv3c.parity.agreement import Agreement as Agreement
from mbv3c.parity.agreement import agreement as agreement
from mbv3c.parity.agreement import mean, top1_agreement
from mbv3c.parity.constants import ConstantsParity
from mbv3c.parity.in_float64 import in_float64, label_in_float64
from mbv3c.parity.kernel_verdict import KernelsParity
from mbv3c.parity.labels import Answers
from mbv3c.parity.metrics import cosine, finite, top_agreement
from mbv3c.parity.reference import ReferenceOutput, error_of_range
from mbv3c.parity.stored import StoredWeights
from mbv3c.parity.tolerance import Tolerance
from mbv3c.parity.verdict import Check, InputParity, Pair, Pairs, sentence


@dataclass(frozen=True)
class Parity:
    """The verdict over all inputs.

    Attributes:
        ran_on: what executed the library.
        exact_program: whether that was the library itself, and not the model built for another
            machine.
        inputs: one comparison per input.
        as_given: how near a quantized model comes to the model as given.
        kernels: what the kernels have shown by themselves.
        constants: what the constants in the library have shown.
        not_checked: why no kernel ran by itself; empty if they did.
        proven: whether the outputs alone prove a library right whose kernels were not checked.
        c_library: what the C library beside the library has shown.
        files: what the files in C have shown.
        pairs: what was compared.
        standing: the tolerance of the outputs.
        stored: how the weights of dense layers are stored; None for as all others.
    """

    ran_on: str
    exact_program: bool
    inputs: tuple[InputParity, ...]
    as_given: Agreement | None = None
    kernels: KernelsParity | None = None
    constants: ConstantsParity | None = None
    not_checked: str = ""
    proven: bool = True
    c_library: CLibraryParity | None = None
    files: FilesParity | None = None
    pairs: Pairs = field(default=(), repr=False, compare=False)
    standing: Tolerance | None = field(default=None, repr=False, compare=False)
    stored: StoredWeights | None = None

    @property
    def passed(self) -> bool:
        return not self.missed and all(map(self._passed, self.inputs))

    def _passed(self, row: InputParity) -> bool:
        """Say whether an input passed; kernels that are right by themselves settle what cannot."""
        return row.passed or (row.not_judged and self.kernels is not None and self.kernels.passed)

    @property
    def missed(self) -> list[str]:
        """What is wrong in the library by itself, and what is too far from the given model."""
        parts = self.constants, self.kernels, self.c_library, self.files
        alone = [part.missed for part in parts if part is not None]
        far = self.as_given.too_far if self.as_given is not None else ()
        return [*chain(*alone), *far, *self._unproven]

    @property
    def _unproven(self) -> list[str]:
        """What was not checked and is needed for a verdict: the outputs of int8 allow too much."""
        if self.proven or not self.not_checked:
            return []
        return [f"the kernels were not checked by themselves: {self.not_checked}"]

    @property
    def worst(self) -> InputParity:
        """The input that comes closest to its limit, or is furthest beyond it."""
        return max(self.inputs, key=lambda row: row.of_allowed)

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; a value that is not finite becomes null."""
        summary = {
            "passed": self.passed,
            "ran_on": self.ran_on,
            "exact_program": self.exact_program,
            "worst_output": self.worst.worst_output,
            "max_error_of_range": self.worst.max_error_of_range,
            "labels": self.worst.labels,
            "tolerance": self.worst.allowed,
            "reference_spread": self.worst.reference_spread,
            "cosine": min(row.cosine for row in self.inputs),
            "top1_agreement": mean(row.top1_agreement for row in self.inputs),
            "top5_agreement": mean(row.top5_agreement for row in self.inputs),
        }
        rows = [_row(row) for row in self.inputs]
        document: dict[str, Any] = finite({**summary, "inputs": rows})
        doubtful = [row for row in self.inputs if row.ill_conditioned is not None]
        if doubtful:
            worst = min(doubtful, key=lambda row: (not row.not_judged, -row.of_allowed))
            document["ill_conditioned"] = _row(worst)["ill_conditioned"]
        if self.as_given is not None:
            document["against_model_as_given"] = finite(asdict(self.as_given))
        if self.kernels is not None:
            document["kernels_alone"] = self.kernels.to_json()
        if self.constants is not None:
            document["constants"] = self.constants.to_json()
        document["not_checked"] = self.not_checked or None
        document["unproven"] = bool(self._unproven) and self.missed == self._unproven
        if self.c_library is not None:
            document["c_library"] = self.c_library.to_json()
        if self.stored is not None:
            document["dense_weights"] = self.stored.to_json()
        if self.files is not None:
            document["files"] = self.files.to_json()
        return document

    def checks(self) -> list[Check]:
        """Return what was judged: every output, every kernel by itself, and the constants."""
        kernels = self.kernels.kernels if self.kernels is not None else ()
        return [
            *(_check(pair, index) for index, outputs in enumerate(self.pairs) for pair in outputs),
            *(
                Check("parity", "near the model as given", False, reason)
                for reason in (self.as_given.too_far if self.as_given is not None else ())
            ),
            *(
                Check(
                    "kernels",
                    f"{index} {kernel.kernel} makes {kernel.tensor}",
                    kernel.passed,
                    kernel.finding,
                )
                for index, kernel in enumerate(kernels)
            ),
            *(Check("kernels", "each by itself", False, text) for text in self._unproven),
            *(
                Check("constants", "all of the library", part.passed, part.finding)
                for part in (self.constants,)
                if part is not None
            ),
            *(
                Check("C library", name, part.passed, part.finding)
                for name, part in (
                    ("beside the shared library", self.c_library),
                    ("files", self.files),
                )
                if part is not None
            ),
        ]

    def errors(self) -> list[dict[str, Any]]:
        """Return the error of every output as a fraction of its range."""
        return [
            {
                "name": f"{pair.reference.name}, input {index}",
                "error": finite(judged.max_error_of_range),
                "allowed": judged.allowed,
            }
            for index, outputs in enumerate(self.pairs)
            for pair in outputs
            if (judged := pair.judged) is not None
        ]

    def lines(self) -> list[str]:
        """Return the verdict in words."""
        return [f"parity: {sentence(self.to_json())}"]


def _row(row: InputParity) -> dict[str, Any]:
    document = {**asdict(row), "passed": row.passed}
    if row.ill_conditioned is None:
        del document["ill_conditioned"]
    return dict(finite(document))


def _check(pair: Pair, index: int) -> Check:
    judged = pair.judged
    assert judged is not None
    top1 = judged.top1_agreement
    agreement = "" if top1 is None else f", top-1 agreement {top1:.0%}"
    return Check(
        "parity",
        f"{pair.reference.name}, input {index}",
        judged.passed,
        f"max error {judged.max_error_of_range:.1e} of range (allowed {judged.allowed:.1e})"
        f"{agreement}{'; NOT JUDGED: ill-conditioned' if judged.not_judged else ''}",
    )


def compare(
    outputs: Sequence[Sequence[Array]],
    references: Sequence[Sequence[ReferenceOutput]],
    tolerance: Tolerance,
    *,
    ran_on: str,
    exact_program: bool,
) -> Parity:
    """Compare the outputs for each input with the reference's."""
    references = with_pooled_spread(references, tolerance)
    pairs = tuple(
        tuple(
            Pair(y, reference, _compare_one(y, reference, tolerance))
            for y, reference in zip(ours, theirs, strict=True)
        )
        for ours, theirs in zip(outputs, references, strict=True)
    )
    rows = tuple(_worst([pair.judged for pair in row if pair.judged]) for row in pairs)
    return Parity(ran_on, exact_program, rows, pairs=pairs, standing=tolerance)


def with_pooled_spread(
    references: Sequence[Sequence[ReferenceOutput]], tolerance: Tolerance
) -> list[list[ReferenceOutput]]:
    """Give every output the largest spread over all inputs, if the tolerance says so."""
    if not tolerance.pooled:
        return [list(outputs) for outputs in references]
    largest = [max(each.spread for each in outputs) for outputs in zip(*references, strict=True)]
    return [
        [replace(ref, spread=spread) for ref, spread in zip(outputs, largest, strict=True)]
        for outputs in references
    ]


def _worst(outputs: Sequence[InputParity]) -> InputParity:
    """Make one comparison of those of an input's outputs."""
    top1 = [output.top1_agreement for output in outputs if output.top1_agreement is not None]
    top5 = [output.top5_agreement for output in outputs if output.top5_agreement is not None]
    worst = max(outputs, key=lambda output: (not output.not_judged, output.of_allowed))
    doubtful = [output.ill_conditioned for output in outputs if output.ill_conditioned]
    return replace(
        worst,
        ill_conditioned=min(doubtful, key=lambda each: each.judged, default=None),
        cosine=min(output.cosine for output in outputs),
        top1_agreement=min(top1, default=None),
        top5_agreement=min(top5, default=None),
    )


def _compare_one(y: Array, reference: ReferenceOutput, tolerance: Tolerance) -> InputParity:
    if reference.answers is not None:
        return _compare_labels(y, reference, reference.answers, tolerance)
    wanted, axis = reference.output, reference.class_axis
    error = error_of_range(y, wanted, reference.scale)
    comparable = np.isfinite(error)
    allowed = tolerance.allowed(reference.spread, reference.step, reference.rounding)
    looked = in_float64(y, reference, tolerance, error) if comparable else None
    if looked is not None:
        wanted, error, allowed = looked.exact, looked.error, looked.allowed
        reference = replace(reference, output=wanted)
    top1 = top5 = None
    if axis is not None:
        top1 = top1_agreement(y, reference, allowed) if comparable else 0.0
        top5 = top_agreement(y, wanted, axis, 5) if comparable else 0.0
    return InputParity(
        worst_output=reference.name,
        max_error_of_range=error,
        allowed=allowed,
        reference_spread=reference.spread,
        cosine=cosine(y, wanted) if comparable else 0.0,
        top1_agreement=top1,
        top5_agreement=top5,
        ill_conditioned=None if looked is None else looked.found,
    )


def _compare_labels(
    y: Array, reference: ReferenceOutput, answers: Answers, tolerance: Tolerance
) -> InputParity:
    """Compare labels and other whole numbers, which may differ where two are equally right."""
    wanted = reference.output
    allowed = tolerance.allowed(reference.spread, reference.step, reference.rounding)
    wrong, found = 1.0, None
    if not np.isfinite(allowed):
        wrong = 0.0  # whoever allows that judges something else
    elif y.shape == wanted.shape and y.dtype == wanted.dtype:
        right = _equal(y, wanted, allowed)
        exact, found = label_in_float64(reference, tolerance)
        if exact is not None:
            right |= _equal(y, exact, allowed)
        for other in answers.others(allowed) if not right.all() else ():
            right |= _equal(y, other, allowed)
        wrong = float(np.mean(~right)) if y.size else 0.0
    return InputParity(
        worst_output=reference.name,
        max_error_of_range=wrong,
        allowed=allowed,
        reference_spread=reference.spread,
        cosine=1.0 - wrong,
        top1_agreement=1.0 - wrong,
        top5_agreement=None,
        labels=True,
        ill_conditioned=found,
    )


def _equal(y: Array, wanted: Array, allowed: float) -> NDArray[np.bool_]:
    """Say which numbers are equal; floats that whole ones were made of may be rounded."""
    if np.issubdtype(wanted.dtype, np.floating) and wanted.size:
        span = allowed * float(np.ptp(wanted.astype(np.float64)) or np.abs(wanted).max())
        return np.isclose(y, wanted, rtol=0, atol=span, equal_nan=True)
    same: NDArray[np.bool_] = np.asarray(y == wanted)
    return same


def share_at_ties(reference: ReferenceOutput, allowed: float) -> float:
    """Return the share of an output's labels that may be others."""
    unsure = np.zeros(reference.output.shape, bool)
    for other in reference.answers.others(allowed) if reference.answers else ():
        unsure |= np.asarray(other != reference.output)
    return float(np.mean(unsure)) if unsure.size else 0.0
