"""What a report is about: bundles, and the files with what other commands found about them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mbv3c.bundle import Bundle
from mbv3c.errors import UsageError
from mbv3c.manifest import manifest_digest
from mbv3c.page import EMULATED, MEASURED
from mbv3c.parity.gate.saved_outputs import Saved, load_outputs
from mbv3c.report import documents
from mbv3c.report.documents import Accuracy, Bench, DeviceBench, Quantized, Tuned
from mbv3c.target import Limits
from mbv3c.targets import backend_for, find_target, open_bundle
from mbv3c.targets.evidence import Evidence

# What stands in for a device where a program ran, in the words of verdicts.
_STAND_INS = ("emulated", "interpreter", "reference model", ", a CPU")

BENCH = "mbv3c bench BUNDLE --profile --json"
VERIFY = "mbv3c verify BUNDLE --json"
ACCURACY = "mbv3c verify BUNDLE --images FOLDER --json"
QUANTIZE = "mbv3c quantize MODEL -o OUT --json"
TUNE = "mbv3c tune MODEL --target TARGET --json"


@dataclass(frozen=True)
class Files:
    """The files that were named, by what they hold: FILE, or BUNDLE=FILE.

    Attributes:
        verify: of `verify --json`.
        outputs: of `verify --save-outputs`.
        bench: of `bench --json`, with or without `--profile`, or with `--device`.
        accuracy: of `verify --images --json`.
        quantize: of `quantize --json`.
        tune: of `tune --json`.
    """

    verify: Sequence[str] = ()
    outputs: Sequence[str] = ()
    bench: Sequence[str] = ()
    accuracy: Sequence[str] = ()
    quantize: Sequence[str] = ()
    tune: Sequence[str] = ()


@dataclass(frozen=True)
class Subject:
    """A bundle, and what is known about it.

    Attributes:
        name: what the report calls it; no other bundle of the report has that name.
        bundle: the bundle.
        evidence: what its manifest holds.
        limits: what its target can do at most; None where that is not known.
        sizes: bytes by name, as its backend counts them.
        parity: the verdict in its documented JSON form; None if nobody verified it.
        verified: whether `parity` is of `verify`, and not of `compile`.
        outputs: outputs that were saved, with onnxruntime's.
        benches: measurements of its speed here: on this machine, or counted.
        on_devices: measurements of its speed on devices.
        accuracy: its accuracy on images.
        quantized: what quantizing its model cost.
        tuned: what tuning its kernels found.
    """

    name: str
    bundle: Bundle
    evidence: Evidence
    limits: Limits | None
    sizes: Mapping[str, int]
    parity: dict[str, Any] | None
    verified: bool = False
    outputs: Saved | None = None
    benches: Sequence[Bench] = ()
    accuracy: Accuracy | None = None
    quantized: Quantized | None = None
    tuned: Tuned | None = None
    on_devices: Sequence[DeviceBench] = ()

    @property
    def path(self) -> str:
        """How commands name it."""
        return str(self.bundle.path)

    @property
    def profile(self) -> Bench | None:
        """The measurement that goes kernel by kernel; None without one."""
        return next((bench for bench in self.benches if bench.kernels), None)


def kind_of(ran_on: str) -> str:
    """Say what kind a figure is, by where the program ran."""
    return EMULATED if any(word in ran_on for word in _STAND_INS) else MEASURED


def open_subjects(paths: Sequence[Path], files: Files) -> list[Subject]:
    """Read bundles and what belongs to them.

    Raises:
        UsageError: a file is missing, or nothing says which bundle it is about.
        BundleError: something is no bundle, or damaged.
        SavedFileError: a file is not what its command writes, or is of another bundle.
    """
    bundles = dict(zip(_names(paths), map(open_bundle, paths), strict=True))
    owners = _Owners(bundles)
    verified = owners.each("verify", files.verify, lambda path: _document(path, VERIFY))
    outputs = owners.each("outputs", files.outputs, _outputs)
    benches = owners.each("bench", files.bench, _bench)
    accuracies = owners.each(
        "accuracy", files.accuracy, lambda path: _kind(path, Accuracy, ACCURACY)
    )
    quantized = owners.each("quantize", files.quantize, lambda p: _kind(p, Quantized, QUANTIZE))
    tuned = owners.each("tune", files.tune, lambda path: _kind(path, Tuned, TUNE))
    found = []
    for name, bundle in bundles.items():
        backend = backend_for(bundle)
        known = _last(verified, name)
        found.append(
            Subject(
                name,
                bundle,
                backend.evidence(bundle),
                find_target(bundle.manifest.target.name).limits(bundle.precision.name),
                backend.footprint(bundle).sizes,
                known or bundle.manifest.parity,
                known is not None,
                _last(outputs, name),
                [one for one in benches.get(name, []) if isinstance(one, Bench)],
                _last(accuracies, name),
                _last(quantized, name),
                _last(tuned, name),
                [one for one in benches.get(name, []) if isinstance(one, DeviceBench)],
            )
        )
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each bundle: that of its folder, or its path where two have one name.

    Raises:
        UsageError: a bundle is named twice.
    """
    folders = [path.resolve() for path in paths]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            raise UsageError(f"{paths[index]} is named twice; leave one out")
    short = [folder.name for folder in folders]
    return [
        name if short.count(name) == 1 else str(path)
        for name, path in zip(short, paths, strict=True)
    ]


_Found = TypeVar("_Found")


def _last(found: Mapping[str, Sequence[_Found]], name: str) -> _Found | None:
    return found[name][-1] if name in found else None


def _document(path: Path, command: str) -> tuple[str | None, dict[str, Any]]:
    document = documents.document_of(path, command)
    if "passed" not in document or "ran_on" not in document:
        raise documents.another(path, command, "it holds no verdict")
    digest = document.get("bundle_sha256")
    return digest if isinstance(digest, str) else None, document


def _kind(path: Path, kind: type[_Found], command: str) -> tuple[str | None, _Found]:
    found = documents.read(path, kind, command)
    return getattr(found, "bundle_sha256", None), found


def _bench(path: Path) -> tuple[str | None, Bench | DeviceBench]:
    found = documents.bench_of(path, BENCH)
    return found.bundle_sha256, found


def _outputs(path: Path) -> tuple[str | None, Saved]:
    saved = load_outputs(path)
    return str(saved.origin["bundle_sha256"]), saved


@dataclass(frozen=True)
class _Owners:
    """Finds out which bundle a file is about.

    Attributes:
        bundles: the bundles by their names.
        digests: the names by the sha256 of their manifests.
    """

    bundles: Mapping[str, Bundle]
    digests: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        digests = {manifest_digest(one.path): name for name, one in self.bundles.items()}
        object.__setattr__(self, "digests", digests)

    def each(
        self,
        option: str,
        given: Sequence[str],
        read: Callable[[Path], tuple[str | None, _Found]],
    ) -> dict[str, list[_Found]]:
        """Read files and return what they hold by the bundle's name.

        Args:
            option: the option by which they were named.
            given: the files, as FILE or BUNDLE=FILE.
            read: function that reads one and returns the sha256 of the manifest that it is about,
                or None where it does not say, and what it holds.

        Raises:
            UsageError: nothing says which bundle a file is about, or it is about another one.
        """
        found: dict[str, list[_Found]] = {}
        for index, text in enumerate(given):
            named, path = self._split(text)
            digest, content = read(path)
            if digest is not None and self.digests.get(digest, named) != named and named:
                raise UsageError(f"--{option} {text}: {path} is about {self.digests[digest]}")
            owner = self.digests.get(digest or "", named)
            if digest is not None and digest not in self.digests:
                raise UsageError(
                    f"--{option} {path} is about another bundle than {', '.join(self.bundles)}, "
                    "or one that was compiled again since; write it again"
                )
            if owner is None:
                owner = self._by_place(option, index, len(given))
            found.setdefault(owner, []).append(content)
        return found

    def _split(self, text: str) -> tuple[str | None, Path]:
        for name in self.bundles:
            if text.startswith(f"{name}="):
                return name, Path(text.removeprefix(f"{name}="))
        return None, Path(text)

    def _by_place(self, option: str, index: int, count: int) -> str:
        names = list(self.bundles)
        if len(names) == 1:
            return names[0]
        if count != len(names):
            raise UsageError(
                f"--{option} does not say which bundle it is about: write --{option} "
                f"{names[0] if names else 'BUNDLE'}=FILE"
            )
        return names[index]


def lacking(subject: Subject) -> Iterator[tuple[str, list[str]]]:
    """Yield which parts of a report a bundle lacks, and the command that would give each."""
    name = subject.name
    if not (subject.benches or subject.on_devices or subject.evidence.layers):
        yield "speed", ["bench", subject.path, "--profile", "--json"]
    if subject.outputs is None:
        yield "errors", ["verify", subject.path, "--save-outputs", f"{name}.npz"]
    if subject.accuracy is None:
        yield "accuracy", ["verify", subject.path, "--images", "FOLDER", "--json"]
    if subject.bundle.precision.quantized and subject.quantized is None:
        yield "losses", ["quantize", "MODEL", "-o", "OUT", "--calibration", "FOLDER", "--json"]
    if subject.tuned is None:
        yield (
            "tuning",
            ["tune", "MODEL", "--target", subject.bundle.manifest.target.name, "--json"],
        )
