"""`mbv3c.toml`: the options of each command for a project, and profiles of them.

    [compile]
    target = "rpi5"

    [profiles.npu.compile]
    target = "imx93:npu"

The command line wins over a profile, and a profile over the rest of the file. Whoever hands a
folder on may have written the file: what runs a stranger's code, or writes over what is there, is
not taken from it.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from mbv3c.errors import UsageError
from mbv3c.nearest import among

FILE = Path("mbv3c.toml")
PROFILE_VARIABLE = "MBV3C_PROFILE"
_PROFILES = "profiles"
_LARGEST = 1 << 20  # bytes

_ALOUD = "say it on the command line"
_REFUSED = {
    "trust": f"it runs a bundle's code, whoever made it: {_ALOUD}",
    "cluster": f"its scheduler may run code here: {_ALOUD}",
    "force": f"it writes over what is there: {_ALOUD}",
    "json": f"scripts rely on what is printed: {_ALOUD}",
    "dry-run": f"nothing would ever be done: {_ALOUD}",
    "help": "it is no habit",
}

Path_ = tuple[str, ...]  # a command, such as ("device", "serve")


@dataclass(frozen=True)
class Setting:
    """An option that the file sets.

    Attributes:
        name: name of the parameter in Python.
        flag: how it is written on the command line.
        value: the value, as the command line would have it.
        where: the table that it stands in.
        over: the value in the rest of the file that a profile's stands for; None without one.
    """

    name: str
    flag: str
    value: Any
    where: str
    over: Any = None

    @property
    def text(self) -> str:
        """How it would be written on the command line."""
        if isinstance(self.value, bool):
            return self.flag if self.value else f"{self.flag} left out"
        values = self.value if isinstance(self.value, list) else [self.value]
        return " ".join(f"{self.flag} {value}" for value in values)


@dataclass(frozen=True)
class ProjectFile:
    """What a project's file sets.

    Attributes:
        path: the file; None where there is none.
        profile: the profile that was chosen; empty for none.
        settings: what is set, by command.
        profiles: the names of all profiles.
    """

    path: Path | None = None
    profile: str = ""
    settings: Mapping[Path_, Mapping[str, Setting]] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The file, and the profile."""
        return f"{self.path}{f', profile {self.profile}' if self.profile else ''}"

    @property
    def default_map(self) -> dict[str, Any]:
        """The settings as click takes them."""
        nested: dict[str, Any] = {}
        for command, settings in self.settings.items():
            inner = nested
            for word in command:
                inner = inner.setdefault(word, {})
            inner.update({name: setting.value for name, setting in settings.items()})
        return nested


def read_project(
    commands: click.Group, path: Path | None = None, profile: str | None = None
) -> ProjectFile:
    """Read the file of a project.

    Args:
        commands: the commands, by which keys are checked.
        path: the file; None for `mbv3c.toml` of this folder, if it is there.
        profile: the profile to take; None for none.

    Raises:
        UsageError: the file is not there, is no TOML, or sets what is not known.
    """
    place = path or FILE
    if not place.is_file():
        if path is not None:
            raise UsageError(f"no such file: {path}")
        if profile is not None:
            raise UsageError(f"--profile {profile} is of {FILE}, and there is none in this folder")
        return ProjectFile()
    document = _document(place)
    profiles = document.pop(_PROFILES, {})
    if not isinstance(profiles, dict):
        raise UsageError(f"{place}: {_PROFILES} is no table; write [{_PROFILES}.NAME.COMMAND]")
    settings = {(command, one.name): one for command, one in _settings(document, commands, place)}
    for name, table in profiles.items():
        inside = _checked_table(table, (_PROFILES, name), place)
        for command, one in _settings(inside, commands, place, (_PROFILES, name)):
            if name == profile:
                before = settings.get((command, one.name))
                over = None if before is None else before.value
                settings[command, one.name] = Setting(
                    one.name, one.flag, one.value, one.where, over
                )
    if profile is not None and profile not in profiles:
        raise UsageError(f"{place} has no profile {profile!r}{among(profile, profiles)}")
    by_command: dict[Path_, dict[str, Setting]] = {}
    for (command, name), one in settings.items():
        by_command.setdefault(command, {})[name] = one
    return ProjectFile(place, profile or "", by_command, tuple(profiles))


def _document(place: Path) -> dict[str, Any]:
    if place.stat().st_size > _LARGEST:
        raise UsageError(f"{place} is larger than a file of options can be")
    try:
        return tomllib.loads(place.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{place} is no TOML: {error}") from error
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror}") from error


def _checked_table(table: Any, keys: Path_, place: Path) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise UsageError(f"{place}: {'.'.join(keys)} is no table; write [{'.'.join(keys)}]")
    return table


def _settings(
    table: Mapping[str, Any],
    commands: click.Group,
    place: Path,
    inside: Path_ = (),
    command: Path_ = (),
) -> Iterator[tuple[Path_, Setting]]:
    """Yield what a table with a table for each command sets."""
    for name, inner in table.items():
        found = commands.commands.get(name)
        where = (*inside, *command, name)
        if found is None:
            near = among(name, commands.commands, listing=_help_of(*command))
            raise UsageError(f"{place}: [{'.'.join(where)}] is no command{near}")
        values = _checked_table(inner, where, place)
        if isinstance(found, click.Group):
            yield from _settings(values, found, place, inside, (*command, name))
            continue
        options = options_of(found)
        for key, value in values.items():
            option = options.get(key.replace("_", "-"))
            if option is None:
                near = among(key, options, listing=_help_of(*command, name))
                raise UsageError(f"{place}: [{'.'.join(where)}] has no option {key!r}{near}")
            if key in _REFUSED:
                raise UsageError(
                    f"{place}: [{'.'.join(where)}] must not set {key}: {_REFUSED[key]}"
                )
            assert option.name is not None
            flag, text = f"--{key.replace('_', '-')}", f"{place}: [{'.'.join(where)}] {key}"
            setting = Setting(
                option.name, flag, _value(option, value, text), f"[{'.'.join(where)}]"
            )
            yield (*command, name), setting


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command, by their long names without dashes."""
    return {
        name.removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--")
    }


def _value(option: click.Option, value: Any, text: str) -> Any:
    """Return a value as the command line would have it."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{text} is switched on by true, and off by false")
        return value
    if option.multiple:
        return [_word(one, text) for one in (value if isinstance(value, list) else [value])]
    return _word(value, text)


def _word(value: Any, text: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{text} takes a text or a number")
    return str(value)


def _help_of(*command: str) -> str:
    return " ".join(("mbv3c", *command, "--help"))
