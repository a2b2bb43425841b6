"""A bundle for a microcontroller in words and in JSON: what it takes of the chip."""

import msgspec

from mbv3c.bundle import Bundle
from mbv3c.targets.backend import Backend, Compiled, Description
from mbv3c.targets.library import report
from mbv3c.targets.mcu.devices import KIB, WING, McuTarget
from mbv3c.targets.mcu.manifest import manifest_of


def describe_compiled(backend: Backend, compiled: Compiled, *, explain: bool) -> Description:
    """Add to what is said of every library what a program with it takes."""
    plain = report.describe_compiled(backend, compiled, explain=explain)
    first, *rest = plain.lines if not explain else (*plain.lines,)
    image = msgspec.to_builtins(manifest_of(compiled.bundle).image)
    lines = [first, *rest[:-1], *image_lines(compiled.bundle), *rest[-1:]]
    return Description(lines, {**plain.document, "image": image})


def describe_bundle(bundle: Bundle) -> Description:
    """Say what a bundle consists of, and what a program with it takes."""
    plain = report.describe_bundle(bundle)
    *lines, blank, parity = plain.lines
    image = msgspec.to_builtins(manifest_of(bundle).image)
    shown = [*lines, *image_lines(bundle), blank, parity]
    return Description(shown, {**plain.document, "image": image})


def image_lines(bundle: Bundle) -> list[str]:
    """Say what a program without a system takes that runs the network, and what the chip has."""
    manifest = manifest_of(bundle)
    family, _, device = manifest.target.name.partition(":")
    target, image = WING.find(family, device), manifest.image
    assert isinstance(target, McuTarget)
    much = "" if image.flash_bytes <= target.flash_bytes else "MORE than "
    return [
        f"flash: {image.flash_bytes:,} bytes, {much}of {target.flash_bytes // KIB:,} KiB "
        f"({target.example})".replace("MORE than of", "MORE than the"),
        f"SRAM: {image.sram_bytes:,} bytes, of {image.sram_budget_bytes // KIB:,} KiB: arena, "
        f"inputs, outputs, and {image.stack_bytes:,} of stack",
    ]
