"""The registry of backends: which wing compiles for which family of devices, and for a board."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3c.boards import Part, every_part, find_board
from mbv3c.boards import names as names_of_boards
from mbv3c.errors import BundleError, UsageError
from mbv3c.nearest import among
from mbv3c.target import Target

if TYPE_CHECKING:
    from mbv3c.bundle import Bundle
    from mbv3c.targets.backend import Backend
    from mbv3c.targets.wing import Option, Wing
    from mbv3c.trust import Trust

# The module whose `WING` compiles for a family; imported when the family is asked for.
WINGS = {
    "arm_cpu": "mbv3c.targets.cpu.devices",
    "mobile_gpu": "mbv3c.targets.opencl.devices",
    "host_cpu": "mbv3c.targets.cpu.devices",
    "npu": "mbv3c.targets.ethos_u.devices",
    "riscv_cpu": "mbv3c.targets.cpu.devices",
    "mcu": "mbv3c.targets.mcu.devices",
}


def wing_of(family: str) -> "Wing":
    """Return the wing of a family.

    Raises:
        UsageError: there is no such family; the known ones are listed.
    """
    if family not in WINGS:
        raise UsageError(f"unknown target {family!r}; known: {', '.join(WINGS)}")
    wing: Wing = import_module(WINGS[family]).WING
    return wing


def every_wing() -> "Iterator[Wing]":
    """Yield every wing once."""
    for module in dict.fromkeys(WINGS.values()):
        yield import_module(module).WING


def every_option() -> "list[Option]":
    """Return the options of all wings; of one that several take, the words of the first."""
    by_name: dict[str, Option] = {}
    for wing in every_wing():
        for option in wing.options:
            by_name.setdefault(option.name, option)
    return list(by_name.values())


def find_target(name: str) -> Target:
    """Look `FAMILY[:DEVICE]` up, or `BOARD[:PART]` of the table of boards.

    Raises:
        UsageError: there is no such family, device, board or part; the known and the nearest ones
            are listed.
    """
    found = find_board(name)
    if found is None:
        return _find_device(name)
    board, part = found
    if part is None:
        wanted, parts = name.partition(":")[2], [board.spelled(each) for each in board.parts]
        raise UsageError(f"{board.name} has no part {wanted!r}{among(wanted, parts)}")
    return target_of(part)


def target_names() -> list[str]:
    """Return all names that `find_target` knows, boards last."""
    targets = [target.name for wing in every_wing() for target in wing.targets]
    return [*WINGS, *targets, *(board.spelled(part) for board, part in every_part())]


def target_of(part: Part) -> Target:
    """Return the best target that there is for a part of a board."""
    known = {target.name: target for wing in every_wing() for target in wing.targets}
    best = next(known[name] for name in part.targets if name in known)
    return best.on_cores(part.cores) if part.cores else best


def stands_for(name: str) -> str:
    """Say which target is meant by `BOARD[:PART]`; nothing if `name` is a target itself."""
    board, part = find_board(name) or (None, None)
    if board is None or part is None:
        return ""
    target = target_of(part)
    cores = getattr(target, "cores", 0) if part.cores else 0
    text = f"{name} = {target.name}" + f", {cores} core{'s' * (cores > 1)}" * bool(cores)
    stand_in = target.name != part.targets[0]
    said = [f"{part.what} has no target of its own"] * stand_in + [part.note] * bool(part.note)
    return text + f" ({'; '.join(said)})" * bool(said)


def _find_device(name: str) -> Target:
    family, _, device = name.partition(":")
    if family not in WINGS:
        near = among(name, WINGS, _every_name())
        raise UsageError(
            f"unknown target {family!r}{near}, and the boards of `mbv3c targets --board`"
        )
    return wing_of(family).find(family, device, _every_name)


def _every_name() -> dict[str, str]:
    """Return all names of targets and boards, and how each is written on the command line."""
    targets = [target for wing in every_wing() for target in wing.targets]
    known = {each.name: each.name for each in targets}
    return known | {each.device: each.name for each in targets} | names_of_boards()


def backend_of(target: Target) -> "Backend":
    """Return the backend that compiles for a target."""
    return wing_of(target.family).load(target)


def backend_for(bundle: "Bundle") -> "Backend":
    """Return the backend that made a bundle."""
    return backend_of(_find_device(bundle.manifest.target.name))


def read_options(
    target: Target, given: Mapping[str, Any], *, explain: bool = False
) -> tuple[Target, object]:
    """Turn the options of all backends, as a user gave them, into those of the target's backend.

    Options whose value is None were not given.

    Raises:
        UsageError: an option is for other targets, or its value makes no sense.
    """
    own = wing_of(target.family)
    chosen = {name: value for name, value in given.items() if value is not None}
    taken = {option.name for option in own.options}
    for wing in every_wing():
        foreign = [each for each in wing.options if each.name in chosen.keys() - taken]
        for option in foreign:
            if option.name in own.refusals:
                raise UsageError(own.refusals[option.name].format(target=target.name))
        if foreign:
            flags, families = (", ".join(o.flag for o in foreign), " and ".join(_takers(foreign)))
            verb = "is" if len(foreign) == 1 else "are"
            raise UsageError(f"{flags} {verb} for --target {families} only")
    return own.load(target).read_options(target, chosen, explain=explain)


def _takers(options: "Sequence[Option]") -> list[str]:
    """Return the families that take all of some options."""
    names = {option.name for option in options}
    return [
        family
        for wing in every_wing()
        if names <= {option.name for option in wing.options}
        for family in wing.defaults
    ]


def open_bundle(path: Path, trust: "Trust | None" = None) -> "Bundle":
    """Read a bundle: check every file, and every field of its manifest.

    Args:
        path: the folder.
        trust: what the user says of the bundle, whose program is to run; None if it is only read.

    Raises:
        BundleError: `path` is no bundle, is damaged, is for a target that is not known, or is not
            signed as `trust` asks for.
        UsageError: the key in `trust` cannot be used, or nothing says that its program may run.
    """
    from mbv3c.bundle import Bundle, check_files, read_files
    from mbv3c.trust import check_trust

    read = read_files(path)
    try:
        backend = backend_of(_find_device(read.target))
    except UsageError as error:
        raise BundleError(f"{path} is for a target of another version: {error}") from error
    bundle = Bundle(path, read.parse(backend.manifest), read.files)
    check_files(bundle, backend.program)
    if trust is not None:
        check_trust(read, trust, native=backend.native or bundle.manifest.has_code)
    return bundle
