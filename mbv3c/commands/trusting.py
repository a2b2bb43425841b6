"""The options that say whose bundles run, and where."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import all_of, place_of, place_options
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from mbv3c.execution.device.place import Place
    from mbv3c.trust import Trust

_PEM = ".pem"
trust_option = click.option(
    "--trust", is_flag=True, help="Run the bundle whoever made it: its code runs as you."
)

# Where to run a bundle, and whose; `place_and_trust` reads them.
running_options = all_of(
    place_options,
    click.option(
        "--key",
        multiple=True,
        metavar="NAME|PUBLIC.pem",
        help="Choose a device of the tracker, see `mbv3c device list`; or, where it ends in "
        ".pem, name the public key that must have signed the bundle.",
    ),
    trust_option,
)


def place_and_trust(given: dict[str, Any]) -> "tuple[Place | None, Trust]":
    """Take `running_options` out of what was given; without a place the bundle runs here.

    Raises:
        UsageError: the options do not go together.
    """
    keys = given.pop("key")
    public = [key for key in keys if key.endswith(_PEM)]
    names = [key for key in keys if not key.endswith(_PEM)]
    if len(public) > 1 or len(names) > 1:
        raise UsageError("--key names one device, and one public key (.pem), at most")
    given["key"] = names[0] if names else None
    if names and given["device"] is None and given["tracker"] is None:
        raise UsageError(
            f"--key {names[0]} names a device, and belongs to --tracker or --device; a public key "
            f"ends in {_PEM}"
        )
    trust = trust_of(given.pop("trust"), Path(public[0]) if public else None)
    return place_of(given), trust


def trust_of(anyway: bool, key: Path | None) -> "Trust":
    """Return what --trust and --key say of a bundle.

    Raises:
        UsageError: both are given.
    """
    from mbv3c.trust import Trust

    return Trust(anyway, key)
