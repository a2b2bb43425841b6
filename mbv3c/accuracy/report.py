"""The text of a measurement on images."""

from collections.abc import Mapping, Sequence
from typing import Any

from mbv3c.accuracy.tally import BUNDLE, GIVEN, QUANTIZED, TOPS
from mbv3c.quantization.images import TO_ONE

_COLUMN = 27
# Names of the rows; with two columns of figures beside them they fit 80 columns.
_ROWS = {
    GIVEN: "the model, by onnxruntime",
    QUANTIZED: "quantized, by onnxruntime",
    BUNDLE: "the bundle",
}
_SHORT = {GIVEN: "the model", QUANTIZED: "the quantized model"}


def lines(document: Mapping[str, Any]) -> list[str]:
    """Say what was measured, line by line; `document` is what `--json` prints."""
    return [*_about(document), *_table(document), *_differing(document), *_broken(document)]


def _about(document: Mapping[str, Any]) -> list[str]:
    sample = "" if document["seed"] is None else f", a sample (seed {document['seed']})"
    return [
        f"{document['read']} images of {document['folder']} (of {document['images']} files there"
        f"{sample}; {document['broken']} broken), on {document['ran_on']}",
        f"labels: {document['labels']}",
        f"preprocessing: {prepared(document['preprocessing'])}",
    ]


def prepared(steps: Mapping[str, Any]) -> str:
    """Say what the steps of the preprocessing are, and where each comes from."""
    size, shown, origin = f"{steps['height']}x{steps['width']}", steps["shown"], steps["from"]
    scaled = f"stretched to {size}" if shown is None else f"middle {shown:.4g} of it to {size}"
    mean, std = (" ".join(f"{value:g}" for value in steps[key]) for key in ("mean", "std"))
    times = (
        ""
        if steps["scale"] == TO_ONE
        else f"pixels times {steps['scale']:g} ({origin.get('scale', '--scale')}), "
    )
    bgr = f", BGR ({origin.get('channels', '--bgr')})" if steps["channels"] == "BGR" else ""
    return (
        f"{scaled} ({origin['shown']}), {times}mean {mean} ({origin['mean']}), std {std} "
        f"({origin['std']}), {steps['layout']} ({origin['layout']}){bgr}"
    )


def _table(document: Mapping[str, Any]) -> list[str]:
    rows = [["", *(f"top-{top}" for top in TOPS)]]
    accuracy, difference = document["accuracy"], document["difference"]
    for side, shares in (accuracy or {}).items():
        rows.append([_ROWS[side], *(_share(shares[f"top{top}"]) for top in TOPS)])
    for side, shares in (difference or {}).items():
        rows.append([f"  less {_SHORT[side]}", *(_points(shares[f"top{top}"]) for top in TOPS)])
    for side, shares in document["agreement"].items():
        rows.append([f"same as {_SHORT[side]}", *(_share(shares[f"top{top}"]) for top in TOPS)])
    width = max(len(row[0]) for row in rows) + 2
    return [
        f"{row[0]:<{width}}" + "".join(f"{cell:<{_COLUMN}}" for cell in row[1:]).rstrip()
        for row in rows
    ] + [f"in brackets {document['confidence']:.0%} confidence intervals"]


def _share(interval: Mapping[str, Any]) -> str:
    low, high = (100 * interval[key] for key in ("low", "high"))
    return f"{interval['share']:.2%} ({low:.2f} to {high:.2f})"


def _points(interval: Mapping[str, Any]) -> str:
    share, low, high = (100 * interval[key] for key in ("share", "low", "high"))
    return f"{share:+.2f} ({low:+.2f} to {high:+.2f})"


def _differing(document: Mapping[str, Any]) -> list[str]:
    if not document["differing"]:
        return ["no image has another best class"]
    count = document["differing"]
    rows = [f"{_images(count, 'has', 'have')} another best class, listed in {document['list']}:"]
    if document["not_finite"]:
        rows.insert(0, f"NOT FINITE: the bundle's scores of {document['not_finite']} images")
    rows += [f"  {_image_line(image, document)}" for image in document["first_differing"]]
    return rows + _more(count, len(document["first_differing"]))


def _image_line(image: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    sides = (*document["agreement"], BUNDLE)
    best = ", ".join(f"{side} {_named(image[side], document)}" for side in sides)
    lead = f", {image['lead']:.1e} of the range apart" if "lead" in image else ""
    return f"{image['file']}: {best}{lead}"


def _named(best: list[int], document: Mapping[str, Any]) -> str:
    return str(named(best[0], document["class_names"])) if best else "not finite"


def named(index: int, names: Sequence[str] | None) -> str | int:
    """Return what a class is called: its name, or its number if it has none of its own."""
    if names is None:
        return index
    name = names[index]
    return name if names.count(name) == 1 else f"{name} ({index})"


def _broken(document: Mapping[str, Any]) -> list[str]:
    if not document["broken"]:
        return []
    first = [f"  {image['file']}: {image['broken']}" for image in document["first_broken"]]
    return [
        f"{_images(document['broken'], 'is', 'are')} broken, listed in {document['list']}:",
        *first,
        *_more(document["broken"], len(first)),
    ]


def _images(count: int, singular: str, plural: str) -> str:
    return f"1 image {singular}" if count == 1 else f"{count} images {plural}"


def _more(count: int, shown: int) -> list[str]:
    return [f"  and {count - shown} more"] if count > shown else []
