"""Accuracy on images, with those on which the bundle and its model differ."""

import base64
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath

from mbv3c.accuracy.tally import BUNDLE, SIDES
from mbv3c.errors import ImageError
from mbv3c.page import Html, Table, element, how, missing, table
from mbv3c.quantization.images import Preprocessing, read_pixels, without_warnings
from mbv3c.report.documents import Accuracy, Counted, SeenImage
from mbv3c.report.subject import Subject, kind_of

_SIDE, _QUALITY = 112, 80  # pixels of a thumbnail, and JPEG's own measure
_PLAIN = ((0.0,) * 3, (1.0,) * 3)


def accuracy_section(subject: Subject) -> Iterator[Html]:
    """Yield how often a bundle is right on images, and where it differs from its model."""
    yield element("h3", "Accuracy on images")
    found = subject.accuracy
    if found is None:
        yield missing(
            "Not measured. This gives it, for --accuracy:",
            *("verify", subject.path, "--images", "FOLDER", "--json"),
        )
        return
    yield table(_shares(found))
    yield element(
        "p",
        f"{found.read:,} images of {found.folder} ({found.images:,} there, {found.broken:,} "
        f"broken); labels: {found.labels}. In brackets 95 % intervals.",
    )
    yield how(
        kind_of(found.ran_on), f"on {found.ran_on}",
        *("verify", subject.path, "--images", found.folder, "--json"),
    )  # fmt: skip
    if not found.first_differing:
        yield element("p", "No image has another best class.")
        return
    yield element("h4", f"Images with another best class: {found.differing:,}")
    shown = [_image(found, seen) for seen in found.first_differing]
    yield element("ul", *shown, class_="images")


def _shares(found: Accuracy) -> Table:
    rows = []
    for side, tops in (found.accuracy or {}).items():
        rows.append((f"right: {SIDES.get(side, side)}", *_cells(tops)))
    for side, tops in found.agreement.items():
        rows.append((f"agrees with {SIDES.get(side, side)}", *_cells(tops)))
    for side, differences in (found.difference or {}).items():
        cells = [
            f"{100 * each.share:+.2f} points ({100 * each.low:+.2f} to {100 * each.high:+.2f})"
            for each in differences.values()
        ]
        rows.append((f"less {SIDES.get(side, side)}", *cells))
    heads = list(next(iter(found.agreement.values()), {}))
    head = ("", *(name.replace("top", "top-") for name in heads))
    return Table("How often the bundle is right, and agrees", head, rows, numbers=True)


def _cells(tops: Mapping[str, Counted]) -> list[str]:
    return [f"{each.share:.2%} ({each.low:.2%} to {each.high:.2%})" for each in tops.values()]


def _image(found: Accuracy, seen: SeenImage) -> Html:
    sides = {name: getattr(seen, name) for name in (*found.agreement, BUNDLE)}
    said = [f"{name}: {_best(found, classes)}" for name, classes in sides.items()]
    if seen.label is not None:
        said.insert(0, f"label: {_named(found, seen.label)}")
    lines = [element("div", line) for line in (seen.file, *said)]
    data = thumbnail(Path(found.folder), seen.file)
    if data is None:
        return element("li", element("em", "The image is not there any more."), *lines)
    alt = f"{seen.file}; {', '.join(said)}"
    return element("li", element("img", src=data, alt=alt, width="112", height="112"), *lines)


def _best(found: Accuracy, classes: tuple[int, ...] | None) -> str:
    return _named(found, classes[0]) if classes else "not finite"


def _named(found: Accuracy, index: int) -> str:
    names = found.class_names
    return f"{index} {names[index]}" if names and 0 <= index < len(names) else str(index)


def thumbnail(folder: Path, name: str) -> str | None:
    """Return a small picture of an image as a URL with its bytes, or None where it is not there.

    The file must lie in the folder: a document of somebody else shows no other file.
    """
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
        return None
    processing = Preprocessing(_SIDE, _SIDE, False, *_PLAIN, shown=1.0)
    try:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            return None
        with without_warnings():
            pixels = read_pixels(folder / name, processing)
    except (ImageError, OSError):
        return None
    from PIL import Image

    written = BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
