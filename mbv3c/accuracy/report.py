"""How a measurement on images reads."""

from collections.abc import Mapping
from typing import Any

from mbv3c.accuracy.tally import BUNDLE, SIDES, TOPS

_COLUMN = 30


def lines(found: Mapping[str, Any]) -> list[str]:
    """Say what was measured, line by line; `found` is the document of `--json`."""
    return [
        *_about(found),
        *_table(found),
        *_differing(found),
        *_broken(found),
    ]


def _about(found: Mapping[str, Any]) -> list[str]:
    sample = "" if found["seed"] is None else f", a sample (seed {found['seed']})"
    return [
        f"{found['read']} images of {found['folder']} (of {found['images']} files there"
        f"{sample}; {found['broken']} broken), on {found['ran_on']}",
        f"labels: {found['labels']}",
        f"preprocessing: {prepared(found['preprocessing'])}",
    ]


def prepared(given: Mapping[str, Any]) -> str:
    """Say what is done to an image, and where that comes from."""
    size, shown, origin = f"{given['height']}x{given['width']}", given["shown"], given["from"]
    scaled = f"stretched to {size}" if shown is None else f"middle {shown:.4g} of it to {size}"
    mean, std = (" ".join(f"{one:g}" for one in given[key]) for key in ("mean", "std"))
    return (
        f"{scaled} ({origin['shown']}), mean {mean} ({origin['mean']}), std {std} "
        f"({origin['std']}), {given['layout']} ({origin['layout']})"
    )


def _table(found: Mapping[str, Any]) -> list[str]:
    rows = [["", *(f"top-{top}" for top in TOPS)]]
    accuracy, difference = found["accuracy"], found["difference"]
    for side, shares in (accuracy or {}).items():
        rows.append([SIDES[side], *(_share(shares[f"top{top}"]) for top in TOPS)])
    for side, shares in (difference or {}).items():
        rows.append([f"  less {SIDES[side]}", *(_points(shares[f"top{top}"]) for top in TOPS)])
    for side, shares in found["agreement"].items():
        rows.append([f"same as {SIDES[side]}", *(_share(shares[f"top{top}"]) for top in TOPS)])
    width = max(len(row[0]) for row in rows) + 2
    return [
        f"{row[0]:<{width}}" + "".join(f"{cell:<{_COLUMN}}" for cell in row[1:]).rstrip()
        for row in rows
    ] + [f"in brackets {found['confidence']:.0%} confidence intervals"]


def _share(one: Mapping[str, Any]) -> str:
    return f"{one['share']:.2%} ({one['low']:.2%} to {one['high']:.2%})"


def _points(one: Mapping[str, Any]) -> str:
    share, low, high = (100 * one[key] for key in ("share", "low", "high"))
    return f"{share:+.2f} ({low:+.2f} to {high:+.2f})"


def _differing(found: Mapping[str, Any]) -> list[str]:
    if not found["differing"]:
        return ["no image has another best class"]
    count = found["differing"]
    said = [f"{_images(count, 'has', 'have')} another best class, listed in {found['list']}:"]
    if found["not_finite"]:
        said.insert(0, f"NOT FINITE: the bundle's scores of {found['not_finite']} images")
    said += [f"  {_one(image, found)}" for image in found["first_differing"]]
    return said + _more(count, len(found["first_differing"]))


def _one(image: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    sides = (*found["agreement"], BUNDLE)
    best = ", ".join(f"{side} {_named(image[side], found)}" for side in sides)
    lead = f", {image['lead']:.1e} of the range apart" if "lead" in image else ""
    return f"{image['file']}: {best}{lead}"


def _named(best: list[int], found: Mapping[str, Any]) -> str:
    if not best:
        return "not finite"
    names = found["class_names"]
    return f"{best[0]} ({names[best[0]]})" if names else str(best[0])


def _broken(found: Mapping[str, Any]) -> list[str]:
    if not found["broken"]:
        return []
    first = [f"  {image['file']}: {image['broken']}" for image in found["first_broken"]]
    return [
        f"{_images(found['broken'], 'is', 'are')} broken, listed in {found['list']}:",
        *first,
        *_more(found["broken"], len(first)),
    ]


def _images(count: int, one: str, several: str) -> str:
    return f"1 image {one}" if count == 1 else f"{count} images {several}"


def _more(count: int, shown: int) -> list[str]:
    return [f"  and {count - shown} more"] if count > shown else []
