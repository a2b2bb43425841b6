"""What a search found, in words and as JSON."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from mbv3c.accuracy.tally import BUNDLE, GIVEN, QUANTIZED, Interval
from mbv3c.page import element, page
from mbv3c.search.aim import Aim
from mbv3c.search.found import Comparison, Final, Found
from mbv3c.search.front import (
    ACCURACY,
    aligned,
    axis_of,
    draw_front,
    front_json,
    front_table,
)
from mbv3c.search.sections import SearchDocument, search_section

_MORE_COLUMNS = ("memory", "weights")


def search_lines(found: Found, width: int | None = None) -> Iterator[str]:
    """Yield what a search found, for people.

    Args:
        found: the result.
        width: columns of the terminal; None for a file or a pipe.
    """
    sampled, noise = found.sampled, found.noise
    refused = f"{sampled.refused} are refused by the target, " if sampled.refused else ""
    yield (
        f"{sampled.asked} networks asked for (of some 10^{found.space.decades:.0f}): {refused}"
        f"{sampled.over} do not meet {aim_text(found.aim)}, {sampled.trained} were trained"
    )
    yield ""
    yield from aligned(_rounds(found), text=0)
    yield ""
    columns = [*found.axes, *map(axis_of, _more(found))]
    yield from front_table(found.points(), columns, found.axes, width)
    seeds = f"{found.plan.final_seeds} seeds, {found.plan.final_steps} steps"
    yield f"* no other network here is better and cheaper; {seeds}, on {_images(found)}"
    spread = (
        "unknown, as each network was trained once"
        if noise is None
        else f"{noise.deviation:.2%} (standard deviation, {noise.degrees} degrees of freedom)"
    )
    yield f"noise between seeds: {spread}"
    yield ""
    for final in found.finals:
        yield bundle_text(found, final)
    yield ""
    for each in found.comparisons:
        yield comparison_text(found, each)
    yield verdict(found)


def aim_text(aim: Aim) -> str:
    """Return a budget in words."""
    axis = axis_of(aim.resource)
    kind = "at most" if aim.weight is None else f"about (weight {aim.weight:g})"
    limits = [
        f"{axis_of(key).label} at most {axis_of(key).text(limit)}"
        for key, limit in aim.limits.items()
    ]
    return ", ".join([f"{axis.label} {kind} {axis.text(aim.target)}", *limits])


def _more(found: Found) -> list[str]:
    return [key for key in _MORE_COLUMNS if all(key in final.cost for final in found.finals)]


def _images(found: Found) -> str:
    count = found.finals[0].rights[0].size
    if found.judging == "test":
        return f"{count:,} test images"
    return (
        f"{count:,} validation images, by which networks were chosen, too: the finalists' figures "
        "flatter them"
    )


def _rounds(found: Found) -> Iterator[tuple[str, ...]]:
    yield ("steps", "networks", "accuracy, %", "between seeds, %", "order kept in the next")
    for each in found.rounds:
        accuracies = [row.accuracy for row in each.rows]
        low, high = (ACCURACY.text(pick(accuracies)) for pick in (min, max))
        noise = "-" if each.noise is None else f"{each.noise.deviation * 100:.2f}"
        order = "-" if each.order is None else f"{each.order:.2f}"
        yield (str(each.steps), str(len(each.rows)), f"{low} to {high}", noise, order)


_SIDES = {GIVEN: "fp32", QUANTIZED: "quantized", BUNDLE: "bundle"}


def bundle_text(found: Found, final: Final) -> str:
    """Return in a sentence what the bundle of a network is worth."""
    name, bundle = found.title(final), final.bundle
    if "refused" in bundle:
        return f"{name}: no bundle: {bundle['refused']}"
    over = "" if found.aim.meets(final.cost) or final.width else ", as a whole BEYOND the budget"
    if "accuracy" not in bundle:
        return f"{name}: compiled{over}"
    accuracy = bundle["accuracy"]
    shares = [
        f"{said} {accuracy[side]['share']:.1%}"
        for side, said in _SIDES.items()
        if side in accuracy
    ]
    count = accuracy[BUNDLE]["of"]
    return f"{name}: {', '.join(shares)} of {count:,} images, on {bundle['accuracy_on']}{over}"


def comparison_text(found: Found, each: Comparison) -> str:
    """Return in a sentence how a finalist compares with MobileNetV3's widths."""
    if each.above is None:
        return (
            f"{each.network}: {_points(each.difference)} beside {each.below}, the widest there "
            "is: it costs less, so that there is no width of equal cost to compare with"
        )
    other = each.above if each.below is None else f"a width between {each.below} and {each.above}"
    why = " (the narrowest, which costs more)" if each.below is None else ""
    worth = "better beyond the noise" if each.beats else "no more than the noise explains"
    if each.difference.high < 0:
        worth = "WORSE beyond the noise"
    paired = each.paired
    return (
        f"{each.network}: {_points(each.difference)} beside {other}{why}: {worth}; paired with "
        f"{each.above}, first seed: {paired.only_first} images only here, {paired.only_second} "
        f"only there, p = {paired.p:.2g}"
    )


def _points(difference: Interval) -> str:
    return (
        f"{difference.share * 100:+.2f} points ({difference.low * 100:+.2f} to "
        f"{difference.high * 100:+.2f})"
    )


def verdict(found: Found) -> str:
    """Return in a sentence whether the search was worth it."""
    family = f"MobileNetV3-{found.space.variant.capitalize()}'s widths"
    judged = [each for each in found.comparisons if each.beats is not None]
    better = [each for each in judged if each.beats]
    if not judged:
        return f"No finalist can be compared with {family}: all cost more than the widest."
    if better:
        return (
            f"{len(better)} of {len(judged)} finalists beat {family} at equal cost beyond the "
            "noise."
        )
    return (
        f"The search did NOT beat {family} at equal cost beyond the noise: take one of them, or "
        "search longer."
    )


def search_json(found: Found) -> dict[str, Any]:
    """Return what a search found, as documented."""
    return {
        "aim": found.aim.to_json(),
        "variant": found.space.variant,
        "resolutions": list(found.space.resolutions),
        "combinations": 10**found.space.decades,
        "plan": found.plan.to_json(),
        "sampled": asdict(found.sampled),
        "rounds": [each.to_json() for each in found.rounds],
        "judged_on": {"part": found.judging, "images": int(found.finals[0].rights[0].size)},
        "noise": None if found.noise is None else found.noise.to_json(),
        "front": front_json(found.points(), found.axes),
        "networks": [_final_json(found, final) for final in found.finals],
        "comparisons": [_comparison_json(each) for each in found.comparisons],
        "beats_widths": any(each.beats for each in found.comparisons),
        "verdict": verdict(found),
    }


def _final_json(found: Found, final: Final) -> dict[str, Any]:
    return {
        "name": found.title(final),
        "width": final.width,
        "resolution": final.candidate.resolution,
        "cost": dict(final.cost),
        "within_budget": found.aim.meets(final.cost),
        "accuracies": final.accuracies,
        "bundle": dict(final.bundle),
    }


def _comparison_json(each: Comparison) -> dict[str, Any]:
    return {
        "network": each.network,
        "width_below": each.below,
        "width_above": each.above,
        "share": each.share,
        "difference": asdict(each.difference),
        "paired": asdict(each.paired),
        "beats": each.beats,
    }


def draw_search(found: Found, path: Path, title: str, *, force: bool = False) -> None:
    """Draw the front: accuracy against the resource that counts, with the budget.

    Raises:
        UsageError: the file exists, or its name ends in something else than .png and .svg.
    """
    draw_front(path, found.points(), found.axes, title, force=force, also=_budget(found))


def _budget(found: Found) -> Callable[[Any], None]:
    target = found.aim.target * found.axes[1].scale
    return lambda drawn: drawn.axvline(
        target, color="0.5", linewidth=1, linestyle=":", label="budget"
    )


def search_page(found: Found, title: str, target: str = "", precision: str = "") -> str:
    """Return what a search found as one HTML page; with the target it says how to go on."""
    document = {"target": target, "precision": precision, **search_json(found)}
    shown = msgspec.convert(document, SearchDocument)
    words = element("pre", "\n".join(search_lines(found)))
    return page(title, "search", [*search_section(shown, title), words])
