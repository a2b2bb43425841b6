"""What a bundle and onnxruntime make of images, added up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mbv3c.accuracy.intervals import CONFIDENCE, paired_difference, wilson

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
    """Numbers of images on which the bundle and a reference are right, and on which they agree."""

    both: int = 0
    bundle: int = 0
    reference: int = 0
    neither: int = 0
    same: int = 0

    def add(self, ours: Sequence[int], theirs: Sequence[int], label: int | None) -> None:
        # Scores that are not finite have no best class, and agree with nothing.
        self.same += bool(ours) and set(ours) == set(theirs)
        if label is None:
            return
        match label in ours, label in theirs:
            case True, True:
                self.both += 1
            case True, False:
                self.bundle += 1
            case False, True:
                self.reference += 1
            case _:
                self.neither += 1


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
        """Share of images whose best class is the first reference's; None before there is one."""
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
        right: dict[str, dict[int, int]] = {}
        ours: dict[int, int] = {}
        for reference in self.references:
            counts = {top: self._counts[reference, top] for top in TOPS}
            right[reference] = {top: c.both + c.reference for top, c in counts.items()}
            ours = {top: c.both + c.bundle for top, c in counts.items()}
        right[BUNDLE] = ours  # which does not depend on the reference
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
    interval = paired_difference(counts.both, counts.bundle, counts.reference, counts.neither)
    return {**asdict(interval), "only_bundle": counts.bundle, "only_reference": counts.reference}
