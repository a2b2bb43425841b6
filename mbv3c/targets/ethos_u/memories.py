"""The memories around an Ethos-U, read from vela's configuration or from a chip's own.

A file has sections `System_Config.NAME`, which say what hangs on the two ports Axi0 and Axi1 and
how fast that is, and `Memory_Mode.NAME`, which say through which port constants, arena and cache
go. A section may inherit from another (vela's OPTIONS.md, "Configuration File").
"""

from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from mbv3c.door.files import Refused, read_plain
from mbv3c.errors import UsageError
from mbv3c.targets.ethos_u.devices import Knobs, NpuTarget

VELA_INI = "vela.ini"
_SYSTEM, _MODE = "System_Config", "Memory_Mode"
_LARGEST = 1 << 20  # bytes; vela's own has 12 KB
_DEEPEST = 8  # sections that inherit from one another
_AREAS = {
    "constants": "const_mem_area",
    "arena": "arena_mem_area",
    "cache": "cache_mem_area",
}
_NO_LIMIT = 1 << 32


@dataclass(frozen=True)
class VelaConfig:
    """A configuration of vela.

    Attributes:
        text: the file.
        sections: the entries of every section, with those that it inherits.
    """

    text: str
    sections: Mapping[str, Mapping[str, str]]

    def names(self, kind: str) -> tuple[str, ...]:
        """Return the names of all sections of a kind."""
        return tuple(
            section.removeprefix(f"{kind}.")
            for section in self.sections
            if section.startswith(f"{kind}.")
        )

    def entries(self, kind: str, name: str) -> Mapping[str, str]:
        return self.sections[f"{kind}.{name}"]


def parse(text: str, source: str) -> VelaConfig:
    """Read the text of a configuration; `source` names it in errors.

    Raises:
        UsageError: it is no such file.
    """
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(text, source)
    except ConfigError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{source} is no configuration of vela: {reason}") from error
    sections = {name: _inherited(parser, name, source) for name in parser.sections()}
    config = VelaConfig(text, sections)
    for kind in (_SYSTEM, _MODE):
        if not config.names(kind):
            raise UsageError(
                f"{source} is no configuration of vela: it has no section [{kind}.NAME]; start "
                "from a copy of vela's own Arm/vela.ini"
            )
    return config


def _inherited(parser: ConfigParser, name: str, source: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    section = name
    for _ in range(_DEEPEST):
        if section not in parser:
            raise UsageError(f"{source}: [{name}] inherits from [{section}], which is not there")
        own = dict(parser[section])
        entries = own | entries
        if "inherit" not in own:
            return entries
        section = own["inherit"]
    raise UsageError(f"{source}: [{name}] inherits through more than {_DEEPEST} sections")


def read_vela_config(path: Path) -> str:
    """Return the text of a chip's own configuration.

    Raises:
        UsageError: there is no such file, or it is no configuration of vela.
    """
    try:
        data = read_plain(path, _LARGEST)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except Refused as error:
        raise UsageError(f"{path} is no configuration of vela: {error}") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no configuration of vela: it is no text") from error
    parse(text, str(path))
    return text


def config_of(target: NpuTarget) -> VelaConfig:
    """Return the configuration of a device: the chip's own, or vela's."""
    if target.vela_config is not None:
        return parse(target.vela_config, VELA_INI)
    path = files("ethosu") / "config_files" / "Arm" / VELA_INI
    return parse(path.read_text(), "Arm/vela.ini")


def with_config(
    target: NpuTarget, text: str, system: str | None = None, mode: str | None = None
) -> NpuTarget:
    """Return a device among the memories of a chip's own configuration.

    Args:
        target: the device.
        text: the configuration.
        system: the name of its system; by default the device's own, or the only one.
        mode: the name of its memory mode, by default chosen as the system is.

    Raises:
        UsageError: there is no such section, or more than one that could be meant.
    """
    config = parse(text, VELA_INI)
    systems, modes = config.names(_SYSTEM), config.names(_MODE)
    system = _chosen(system, target.system_config, systems, "--system-config")
    mode = _chosen(mode, target.memory_mode, modes, "--memory-mode")
    clock = config.entries(_SYSTEM, system).get("core_clock", "")
    cache = config.entries(_MODE, mode).get("arena_cache_size")
    try:
        clock_mhz = round(float(clock) / 1e6)
        sram_bytes = None if cache is None else int(cache)
    except ValueError as error:
        raise UsageError(
            f"{VELA_INI}: core_clock {clock!r} of {system} or arena_cache_size {cache!r} of "
            f"{mode} is no number"
        ) from error
    return replace(
        target,
        vela_config=text,
        system_config=system,
        memory_mode=mode,
        clock_mhz=clock_mhz,
        sram_bytes=None if sram_bytes is None or sram_bytes >= _NO_LIMIT else sram_bytes,
        memory_modes=modes,
        system_configs=systems,
    )


def _chosen(wanted: str | None, own: str, known: tuple[str, ...], flag: str) -> str:
    if wanted is not None and wanted not in known:
        raise UsageError(f"{flag} {wanted!r} is not in the given vela.ini; it has {_list(known)}")
    if wanted is not None:
        return wanted
    if own in known:
        return own
    if len(known) == 1:
        return known[0]
    raise UsageError(f"the given vela.ini has {_list(known)}: choose one with {flag}")


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def memories_of(target: NpuTarget, knobs: Knobs) -> dict[str, str]:
    """Return the names of the memories, as vela calls them, of `constants`, `arena`, `cache`."""
    config = config_of(target)
    ports = config.entries(_SYSTEM, knobs.system_config or target.system_config)
    mode = config.entries(_MODE, knobs.memory_mode or target.memory_mode)
    return {
        kind: ports.get(f"{mode.get(area, 'Axi1').lower()}_port", "Sram")
        for kind, area in _AREAS.items()
    }
