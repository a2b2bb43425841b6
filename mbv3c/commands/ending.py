"""How commands end: the verdict in few words and what to do next, and servers by Ctrl-C."""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3c.commands.loudness import is_quiet
from mbv3c.commands.options import Progress, echo_styled

if TYPE_CHECKING:
    from mbv3c.parity.verdict import Check
    from mbv3c.quantization.loss import Loss

GOOD, BAD, DOUBTFUL = "green", "red", "yellow"
_LONGEST = 60  # characters of what was missed first
_BEYOND = ("limits", "baseline")  # the suites of checks that the user asked for


@contextmanager
def until_interrupted(progress: Progress) -> Iterator[None]:
    """Take Ctrl-C and SIGTERM for the end that is meant: nothing else ends a server."""
    try:
        yield
    except KeyboardInterrupt:
        progress("stopped")


def print_ending(word: str, color: str, rest: str, then: str) -> None:
    """Print a verdict, its first word in a color; and what to do next, but with --quiet.

    Each is one line, whatever names are in it: those of outputs come from the model.
    """
    echo_styled(word, color, rest.replace("\n", "\\n"))
    if not is_quiet():
        echo_styled("next:", "", f" {then}")


def as_argument(path: Path) -> str:
    """Return a path as an argument for a shell, in one printable line."""
    text = str(path)
    if text.startswith("-"):  # else it would be an option
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    shown = (
        one
        if one.isprintable() and one not in "\\'"
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(one))
        for one in text
    )
    return f"$'{''.join(shown)}'"  # of bash and zsh


def end_compile(
    bundle: Path, document: dict[str, Any] | None, checks: "Sequence[Check]", *, served: bool
) -> None:
    """End `compile`: what its check has shown, None where it made none, and what to do next.

    Args:
        bundle: the bundle.
        document: what the check says in JSON.
        checks: what was checked.
        served: whether `mbv3c device serve` runs such bundles.
    """
    name = as_argument(bundle)
    if document is None:
        print_ending("NOT CHECKED", DOUBTFUL, f" {bundle}", f"mbv3c verify {name}")
        return
    if served and str(document["ran_on"]).startswith("emulated"):
        then = f"mbv3c verify {name} --device HOST:PORT, on the board itself"
    elif document.get("exact_program", True):  # an NPU's stream is always interpreted itself
        then = f"mbv3c run {name} --input FILE"
    else:
        then = f"mbv3c inspect {name}"
    print_ending("PASSED", GOOD, _passed(document, checks), then)


def end_verify(bundle: Path | None, document: dict[str, Any], checks: "Sequence[Check]") -> None:
    """End `verify`; without a bundle saved outputs were judged."""
    missed = [check for check in checks if not check.passed]
    name = "BUNDLE" if bundle is None else as_argument(bundle)
    if not missed:
        then = f"mbv3c report {name} -o report.html, one page to hand on"
        print_ending("PASSED", GOOD, _passed(document, checks), then)
        return
    word, color, then = "MISSED", BAD, f"mbv3c verify {name} --ladder, for the stage at fault"
    if document.get("unproven"):
        word, color = "NOT PROVEN", DOUBTFUL
        then = "run `mbv3c device serve` of this version where it ran"
    elif all("NOT JUDGED" in check.finding for check in missed):
        word, color = "NOT JUDGED", DOUBTFUL
        then = f"mbv3c verify {name} --inputs FOLDER, with inputs as it was trained on"
    elif all(check.suite in _BEYOND for check in missed):
        then = f"mbv3c verify {name} --metrics, for all errors"
    first = missed[0].name
    shown = first if len(first) <= _LONGEST else f"{first[:_LONGEST]}…"
    rest = f" on {document['ran_on']}: {len(missed)} of {len(checks)} checks, first: {shown}"
    print_ending(word, color, rest, then)


def _passed(document: dict[str, Any], checks: "Sequence[Check]") -> str:
    said = f" on {document['ran_on']}: {_count(len(checks))}"
    error, allowed = document.get("max_error_of_range"), document.get("tolerance")
    if error is None or not allowed:
        return said
    return f"{said}, error {error / allowed:.0%} of what is allowed"


def _count(checks: int) -> str:
    return "the one check holds" if checks == 1 else f"all {checks} checks hold"


def end_quantize(output: Path, loss: "Loss | None", *, random: bool) -> None:
    """End `quantize`; `random` says whether ranges come from random numbers."""
    name = as_argument(output)
    if random:
        rest = f" {output}: ranges of random numbers, accuracy means nothing"
        then = f"mbv3c quantize MODEL -o {name} --calibration FOLDER --force"
        print_ending("UNCALIBRATED", DOUBTFUL, rest, then)
        return
    said = "" if loss is None else f": cosine {loss.cosine:.4f} to fp32"
    if loss is not None and loss.is_large:
        then = "mbv3c quantize with --method percentile, or more calibration images"
        print_ending("FAR", DOUBTFUL, f" {output}{said}, too far", then)
        return
    print_ending("QUANTIZED", GOOD, f" {output}{said}", f"mbv3c compile {name} --target TARGET")
