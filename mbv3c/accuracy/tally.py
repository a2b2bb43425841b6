"""How often a bundle and onnxruntime are right and agree, over images, with intervals.

The interval of a share is Wilson's score interval: E. B. Wilson, "Probable inference, the law of
succession, and statistical inference", J. Am. Stat. Assoc. 22 (1927), 209-212; method 3 of R. G.
Newcombe, "Two-sided confidence intervals for the single proportion", Statist. Med. 17 (1998),
857-872.

That of a difference of paired shares is method 10 of R. G. Newcombe, "Improved confidence
intervals for the difference between binomial proportions based on paired data", Statist. Med. 17
(1998), 2635-2650.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from typing import Any

CONFIDENCE = 0.95
_Z = 1.959963984540054  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class Interval:
    """A share, or a difference of shares, with its 95 % confidence interval."""

    share: float
    low: float
    high: float


def wilson(successes: int, total: int) -> Interval:
    """Return the share of successes with Wilson's score interval; `total` is at least 1."""
    share, per = successes / total, _Z * _Z / total
    middle = (share + per / 2) / (1 + per)
    half = _Z * sqrt(share * (1 - share) / total + per / (4 * total)) / (1 + per)
    # At the ends the formula gives 0 and 1, except for rounding.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == total else middle + half
    return Interval(share, low, high)


def paired_difference(both: int, first: int, second: int, neither: int) -> Interval:
    """Return the first's share of successes less the second's, on a common set of images.

    Args:
        both: number of images on which both succeed.
        first: number of images on which only the first succeeds.
        second: number of images on which only the second succeeds.
        neither: number of images on which neither succeeds. The sum of all four is at least 1.
    """
    total = both + first + second + neither
    a, b = wilson(both + first, total), wilson(both + second, total)
    correlation = _correlation(both, first, second, neither)
    below = _combined(a.share - a.low, b.high - b.share, correlation)
    above = _combined(b.share - b.low, a.high - a.share, correlation)
    share = (first - second) / total
    return Interval(share, max(-1.0, share - below), min(1.0, share + above))


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Return the correlation of two successes, with Newcombe's continuity correction."""
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    if product == 0:
        return 0.0
    excess: float = both * neither - first * second
    if excess > 0:
        excess = max(excess - (both + first + second + neither) / 2, 0.0)
    return excess / sqrt(product)


def _combined(a: float, b: float, correlation: float) -> float:
    return sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))


GIVEN, QUANTIZED, BUNDLE = "given", "quantized", "bundle"
SIDES = {
    GIVEN: "onnxruntime on the model as given",
    QUANTIZED: "onnxruntime on the quantized model",
    BUNDLE: "the bundle",
}

TOPS = (1, 5)

_SHOWN = 10

# An image: `file`, `label` (or None), and the best classes of each side, or why it is `broken`.
Record = dict[str, Any]


def differs(image: Record, references: Sequence[str]) -> bool:
    """Tell whether the bundle's best class differs from that of any reference."""
    return any(image[BUNDLE][:1] != image[reference][:1] for reference in references)


@dataclass
class _PairedCounts:
    """Numbers of images on which the bundle and a reference are right, and on which they agree.

    Attributes:
        right: number of images by whether the bundle is right, and whether the reference is.
        same: number of images on which both have equal best classes.
    """

    right: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    same: int = 0

    def add(self, ours: Sequence[int], theirs: Sequence[int], label: int | None) -> None:
        # Scores that are not finite have no best class, and agree with nothing.
        self.same += bool(ours) and set(ours) == set(theirs)
        if label is not None:
            self.right[label in ours, label in theirs] += 1


@dataclass
class Tally:
    """Counts over images; memory does not depend on how many there are.

    Attributes:
        references: the sides beside the bundle.
        read: number of images that were run.
        labelled: number of images that were run and whose class is known.
        broken: number of images that could not be read.
        differing: number of images on which the bundle's best class is not a reference's.
        not_finite: number of images on which the bundle's scores are NaN or infinite.
        first_differing: the first few images that differ.
        first_broken: the first few images that could not be read.
    """

    references: Sequence[str]
    read: int = 0
    labelled: int = 0
    broken: int = 0
    differing: int = 0
    not_finite: int = 0
    first_differing: list[Record] = field(default_factory=list)
    first_broken: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counts = {(side, top): _PairedCounts() for side in self.references for top in TOPS}

    def add_all(self, images: Iterable[Record]) -> None:
        """Count images."""
        for image in images:
            self.add(image)

    def add(self, image: Record) -> None:
        """Count an image."""
        if "broken" in image:
            self.broken += 1
            _keep(self.first_broken, image)
            return
        self.read += 1
        self.labelled += image["label"] is not None
        self.not_finite += not image[BUNDLE]
        for (reference, top), counts in self._counts.items():
            counts.add(image[BUNDLE][:top], image[reference][:top], image["label"])
        if differs(image, self.references):
            self.differing += 1
            _keep(self.first_differing, image)

    @property
    def done(self) -> int:
        """How many images were counted."""
        return self.read + self.broken

    @property
    def agreement(self) -> float | None:
        """Share of images whose best class is the first reference's; None without images."""
        return self._counts[self.references[0], 1].same / self.read if self.read else None

    def to_json(self) -> dict[str, Any]:
        """Return those of the documented keys that follow from the images."""
        return {
            "read": self.read,
            "labelled": self.labelled,
            "broken": self.broken,
            "differing": self.differing,
            "not_finite": self.not_finite,
            "confidence": CONFIDENCE,
            "accuracy": self._accuracy() if self.labelled else None,
            "agreement": self._agreement() if self.read else None,
            "difference": self._difference() if self.labelled else None,
            "first_differing": list(self.first_differing),
            "first_broken": list(self.first_broken),
        }

    def _accuracy(self) -> dict[str, Any]:
        """Return, by side, the share of images whose class is among the side's best."""
        right: dict[str, dict[int, int]] = {side: {} for side in (*self.references, BUNDLE)}
        for (reference, top), counts in self._counts.items():
            both = counts.right[True, True]
            right[reference][top] = both + counts.right[False, True]
            right[BUNDLE][top] = both + counts.right[True, False]  # by whichever reference
        return {side: _tops(successes, self.labelled) for side, successes in right.items()}

    def _agreement(self) -> dict[str, Any]:
        """Return, by reference, the share of images whose best classes are the bundle's."""
        return {
            reference: _tops({top: self._counts[reference, top].same for top in TOPS}, self.read)
            for reference in self.references
        }

    def _difference(self) -> dict[str, Any]:
        """Return, by reference, the bundle's accuracy less that of the reference."""
        return {
            reference: {f"top{top}": _difference(self._counts[reference, top]) for top in TOPS}
            for reference in self.references
        }


def _keep(kept: list[Record], image: Record) -> None:
    if len(kept) < _SHOWN:
        kept.append(image)


def _tops(counts: Mapping[int, int], total: int) -> dict[str, Any]:
    return {
        f"top{top}": {**asdict(wilson(count, total)), "count": count, "of": total}
        for top, count in counts.items()
    }


def _difference(counts: _PairedCounts) -> dict[str, Any]:
    right = counts.right
    bundle, reference = right[True, False], right[False, True]
    interval = paired_difference(right[True, True], bundle, reference, right[False, False])
    return {**asdict(interval), "only_bundle": bundle, "only_reference": reference}
