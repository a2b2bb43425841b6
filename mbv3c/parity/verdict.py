"""The verdict on a bundle: what every backend's check of parity says, and its single checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from mbv3c.errors import EXIT_DONE, EXIT_PARITY
from mbv3c.parity.tolerance import Tolerance

if TYPE_CHECKING:
    from mbv3c.parity.reference import ReferenceOutput


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        suite: what it belongs to: `parity`, `kernels`, `limits` or `baseline`.
        name: what was checked; no other check of the suite has that name.
        passed: the verdict.
        finding: what was seen, and what is allowed.
        exit_code: exit code of the command if the check is missed.
        seconds: how long it took to find out.
        skipped: whether it could not be checked; then it counts as passed.
    """

    suite: str
    name: str
    passed: bool
    finding: str
    exit_code: int = EXIT_PARITY
    seconds: float = 0.0
    skipped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "suite": self.suite,
            "name": self.name,
            "passed": None if self.skipped else self.passed,
            "said": self.finding,
        }


def exit_code(checks: Sequence[Check]) -> int:
    """Return the exit code of a command that made these checks: that of the gravest miss.

    Wrong results (3) are graver than slower ones (4), and those than larger ones (5).
    """
    return min((check.exit_code for check in checks if not check.passed), default=EXIT_DONE)


@dataclass(frozen=True)
class IllConditioned:
    """What is known where fp32 computes an output badly, and float64 is the reference.

    Attributes:
        layer: the node that loses most digits, in words; empty if that is not known.
        noise: what correct fp32 arithmetic is off there, of range; None where it was not needed.
        judged: whether the output could be judged: it is right, or it is further off than correct
            arithmetic can be.
    """

    layer: str
    noise: float | None
    judged: bool


@dataclass(frozen=True)
class InputParity:
    """The comparison on one input; of several outputs, each figure is that of the worst.

    Attributes:
        worst_output: name of the output that comes closest to its limit, or is furthest beyond
            it; the next three figures are its.
        max_error_of_range: largest absolute error over the reference's range; of labels the share
            that is wrong.
        allowed: the tolerance on this input.
        reference_spread: onnxruntime's own spread on this input.
        cosine: cosine similarity of the flattened outputs; of labels the share that is right.
        top1_agreement: share of images (pixels, anchors) whose class of the largest score agrees,
            or is equal to the best one within the tolerance in the reference. None if no output
            holds class scores.
        top5_agreement: share of the reference's five largest scores that are found among ours.
        labels: whether the worst output holds labels or other whole numbers.
        ill_conditioned: what is known where fp32 computes an output badly, of the worst such
            output; None where it computes all of them well.
    """

    worst_output: str
    max_error_of_range: float
    allowed: float
    reference_spread: float
    cosine: float
    top1_agreement: float | None
    top5_agreement: float | None
    labels: bool = False
    ill_conditioned: IllConditioned | None = None

    @property
    def not_judged(self) -> bool:
        """Whether it is as far off as correct fp32 arithmetic may be, which shows nothing."""
        return self.ill_conditioned is not None and not self.ill_conditioned.judged

    @property
    def passed(self) -> bool:
        return self.max_error_of_range <= self.allowed and self.top1_agreement in (1.0, None)

    @property
    def of_allowed(self) -> float:
        """The error as a fraction of what is allowed."""
        return self.max_error_of_range / self.allowed


@dataclass(frozen=True)
class Pair:
    """One output for one input: what was computed, and what should have been.

    Attributes:
        ours: the output.
        reference: what onnxruntime computes.
        judged: the comparison by the standing rules; None where they judge something else.
    """

    ours: NDArray[Any]
    reference: "ReferenceOutput"
    judged: InputParity | None = None


# Every output for every input.
Pairs = tuple[tuple[Pair, ...], ...]


def sentence(parity: dict[str, Any]) -> str:
    """Say a verdict in one line: first what proves it.

    Where integers are computed, the kernels by themselves do: outputs differ by what one step in
    an early layer becomes in later ones, and so much has to be allowed that they prove little.
    """
    alone = f"{_constants(parity)}{_kernels_alone(parity)}"
    outputs = f"{_outputs(parity)}{_stored(parity)}{_ill_conditioned(parity)}"
    kernels = parity.get("kernels_alone") or {}
    if kernels.get("values"):
        found = f"{_kernels_alone(parity)}{_constants(parity)}".removeprefix("; ")
        said = f"{found}; the outputs, which prove less: {outputs}"
    else:
        said = f"{outputs}{alone}"
    rest = f"{_c_library(parity)}{_quantization_loss(parity)}"
    return f"{_verdict(parity)} on {parity['ran_on']}: {said}{rest}"


def _outputs(parity: dict[str, Any]) -> str:
    error, top1 = parity["max_error_of_range"], parity["top1_agreement"]
    agreement = "" if top1 is None else f"top-1 agreement {top1:.0%}, "
    return (
        f"max error {'not finite' if error is None else f'{error:.1e}'} of {_unit(parity)} in "
        f"{parity['worst_output']} (allowed "
        f"{parity['tolerance']:.1e}; onnxruntime itself {_spread(parity['reference_spread'])}), "
        f"cosine {parity['cosine']:.9f}, {agreement}over {len(parity['inputs'])} inputs"
    )


def _stored(parity: dict[str, Any]) -> str:
    """Say what storing the weights of dense layers does by itself."""
    found = parity.get("dense_weights")
    if found is None:
        return ""
    moved = found["moved"]
    said = "no finite number" if moved is None else f"{moved:.1e}"
    return (
        f"; storing dense weights in {found['stored']} makes {said} of that by itself (allowed "
        f"{found['most']:.1e})"
    )


_ALONE = ("constants", "kernels_alone", "c_library", "files")


def _verdict(parity: dict[str, Any]) -> str:
    if parity["passed"]:
        return "passed"
    rows = [row for row in parity["inputs"] if not row["passed"]]
    if not rows and parity.get("unproven"):
        return "NOT PROVEN"
    doubtful = (row.get("ill_conditioned") or {"judged": True} for row in rows)
    alone = (parity.get(part) or {"passed": True} for part in _ALONE)
    missed = any(found["judged"] for found in doubtful) or not all(x["passed"] for x in alone)
    return "MISSED" if missed or not rows else "NOT JUDGED"


def _ill_conditioned(parity: dict[str, Any]) -> str:
    """Say where a network loses digits in fp32, and what that means for the verdict."""
    found = parity.get("ill_conditioned")
    if found is None:
        return ""
    layer = f" ({found['layer']})" if found["layer"] else ""
    said = f"; ill-conditioned in fp32{layer}, so it is held to float64"
    if found["noise"] is not None:
        said += f", of which correct fp32 arithmetic is off by {found['noise']:.1e}"
    if found["judged"]:
        return said
    return (
        f"{said}: more than a wrong weight may show, so its outputs say nothing; scale or shift "
        "what cancels there, or give inputs as the network was trained on (`--inputs FOLDER`)"
    )


def _unit(parity: dict[str, Any]) -> str:
    return "labels" if parity.get("labels") else "range"


def _spread(spread: float | None) -> str:
    return "gives NaN or infinity" if spread is None else f"spreads by {spread:.1e}"


def _constants(parity: dict[str, Any]) -> str:
    """Say whether the constants in a library are those of its model."""
    constants = parity.get("constants")
    if constants is None:
        return ""
    if not constants["passed"]:
        return "; WRONG in the library: " + "; ".join(constants["missed"][:_SHOWN_MISSES])
    return f"; its {constants['count']} constants are the model's"


_SHOWN_MISSES = 5


def _c_library(parity: dict[str, Any]) -> str:
    """Say whether the C library beside a library computes what that one does, and of its files."""
    found = (parity.get(part) for part in ("c_library", "files"))
    return "".join(f"; {part['finding']}" for part in found if part is not None)


def _kernels_alone(parity: dict[str, Any]) -> str:
    """Say what the kernels have shown by themselves."""
    kernels = parity.get("kernels_alone")
    if kernels is None:
        reason = parity.get("not_checked")
        return f"; NOT CHECKED: each kernel by itself ({reason})" if reason else ""
    if not kernels["passed"]:
        return "; WRONG by themselves: " + "; ".join(kernels["missed"][:_SHOWN_MISSES])
    found = (
        f"{kernels['differing']} of {kernels['values']:,} values differ, all at ties"
        if kernels["values"]
        else f"max error {kernels.get('max_error_of_range', 0.0):.1e} of range"
    )
    flat = kernels.get("channels", 0) - kernels.get("channels_alive", 0)
    channels = f", {flat} of {kernels['channels']:,} channels flat all the time" if flat else ""
    return f"; each of {kernels['count']} kernels by itself: {found}{channels}"


def _quantization_loss(parity: dict[str, Any]) -> str:
    """Say how near a quantized network comes to the one it was made of."""
    loss = parity.get("against_model_as_given")
    if loss is None:
        return ""
    shares = [
        f", top-{k} agreement {loss[f'top{k}']:.0%}" for k in (1, 5) if loss[f"top{k}"] is not None
    ]
    far = "".join(f"; TOO FAR: {reason}" for reason in loss["too_far"])
    silent = ", ".join(loss.get("unjudged", ()))
    left = (
        f"; NOT JUDGED on inputs that it hardly answers to: {silent} (`mbv3c verify BUNDLE "
        "--inputs FOLDER` takes your own)"
    )
    shown = f"{''.join(shares)}{far}{left if silent else ''}"
    return f"; against the model as given: cosine {loss['cosine']:.6f}{shown}"


class Verdict(Protocol):
    """What checking a bundle has shown."""

    @property
    def passed(self) -> bool: ...

    @property
    def ran_on(self) -> str:
        """What executed the bundle's program, or what stood in for it."""

    @property
    def exact_program(self) -> bool:
        """Whether the outputs are those of the bundle's own program."""

    @property
    def pairs(self) -> Pairs:
        """Every output for every input, beside onnxruntime's."""

    @property
    def standing(self) -> Tolerance | None:
        """The tolerance of the outputs; None where other rules decide."""

    @property
    def missed(self) -> Sequence[str]:
        """What was missed, one sentence each; empty if the verdict is passed."""

    def checks(self) -> list[Check]:
        """Return everything that was checked, one by one."""

    def errors(self) -> list[dict[str, Any]]:
        """Return every limited error as `name`, `error` (null if not finite) and `allowed`."""

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""

    def lines(self) -> list[str]:
        """Return the verdict in words."""


def checks_of(verdict: Verdict, seconds: float = 0.0) -> list[Check]:
    """Return what was checked, and first that the bundle ran, in so many seconds."""
    ran = Check("parity", f"runs on {verdict.ran_on}", True, "it ran", seconds=seconds)
    return [ran, *verdict.checks()]
