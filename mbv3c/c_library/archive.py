"""What the archive of a C library holds: one object, with weights, perhaps names of classes."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from mbv3c.bundle import MOST_FILE
from mbv3c.door.files import read_plain
from mbv3c.errors import BundleError

_PROVIDED = {"memcpy", "memmove", "memset"}  # what every compiler may call, on bare metal, too
_OF_COMPILERS = "__aeabi_"  # functions that every compiler for ARM brings: division, for one
_ALLOCATED, _EXECUTABLE = 2, 4  # sh_flags
_MAGIC, _HEADER = b"!<arch>\n", 60  # of ar(5)
_ELF = b"\x7fELF"
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ELFError, OSError)


@dataclass(frozen=True)
class Measured:
    """What an object takes and needs.

    Attributes:
        code_bytes: instructions.
        constant_bytes: everything else that is loaded.
        needs: functions that must be linked beside memcpy, memmove and memset.
    """

    code_bytes: int
    constant_bytes: int
    needs: tuple[str, ...]


class ArchiveObject:
    """The object in an archive; a damaged one is refused when something in it is asked for.

    Raises:
        BundleError: it is no archive with one object.
    """

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        try:
            (data,) = _objects(read_plain(archive, MOST_FILE))
            self._elf: Any = ELFFile(io.BytesIO(data))
        except _DAMAGE as error:
            raise self._refused(error) from error

    def weights(self, prefix: str, size: int) -> bytes:
        """Return the first bytes of the weights."""
        return self.stored(f"{prefix}_weights", size)

    def stored(self, symbol: str, size: int) -> bytes:
        """Return the first bytes that a symbol stands for."""
        try:
            named = self._symbol(symbol)
            stored: bytes = self._elf.get_section(named["st_shndx"]).data()
            return stored[named["st_value"] :][:size]
        except _DAMAGE as error:
            raise self._refused(error) from error

    def labels(self, prefix: str, count: int) -> list[bytes]:
        """Return the names of the classes, as the table in C has them."""
        try:
            return list(self._strings(self._symbol(f"{prefix}_labels"), count))
        except _DAMAGE as error:
            raise self._refused(error) from error

    def measured(self) -> Measured:
        """Read sizes, and the functions that it needs."""
        try:
            return measured(self._elf)
        except _DAMAGE as error:
            raise self._refused(error) from error

    def _symbol(self, name: str) -> Any:
        (named,) = self._elf.get_section_by_name(".symtab").get_symbol_by_name(name)
        return named

    def _strings(self, table: Any, count: int) -> Iterator[bytes]:
        """Follow the relocations of a table of pointers to the strings."""
        elf, size = self._elf, self._elf.elfclass // 8
        if table["st_size"] != count * size:
            raise ValueError("a table of another size")
        places = {
            each["r_offset"]: each
            for section in elf.iter_sections()
            if isinstance(section, RelocationSection) and section["sh_info"] == table["st_shndx"]
            for each in section.iter_relocations()
        }
        stored = elf.get_section(table["st_shndx"]).data()
        symbols = elf.get_section_by_name(".symtab")
        for index in range(count):
            at = table["st_value"] + index * size
            pointer = places[at]
            in_place = int.from_bytes(stored[at : at + size], "little", signed=True)
            addend = pointer["r_addend"] if pointer.is_RELA() else in_place
            symbol = symbols.get_symbol(pointer["r_info_sym"])
            text = elf.get_section(symbol["st_shndx"]).data()
            begin = symbol["st_value"] + addend
            yield text[begin : text.index(b"\0", begin)]

    def _refused(self, error: Exception) -> BundleError:
        return BundleError(
            f"{self._archive} is no library that mbv3c wrote ({error}); compile it again"
        )


def measured_object(path: Path) -> Measured:
    """Read the sizes of an object that was just written, and the functions that it needs."""
    with path.open("rb") as file:
        return measured(ELFFile(file))


def measured(elf: ELFFile) -> Measured:
    """Read the sizes of an object, and the functions that it needs."""
    code = constant = 0
    needs = set()
    for section in elf.iter_sections():
        flags = section["sh_flags"]
        if flags & _ALLOCATED:
            if flags & _EXECUTABLE:
                code += section["sh_size"]
            else:
                constant += section["sh_size"]
        if isinstance(section, SymbolTableSection):
            needs |= {
                symbol.name
                for symbol in section.iter_symbols()
                if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name
            }
    own = {name for name in needs if name in _PROVIDED or name.startswith(_OF_COMPILERS)}
    return Measured(code, constant, tuple(sorted(needs - own)))


def _objects(data: bytes) -> Iterator[bytes]:
    """Yield the members of an archive that are no index of it, which must be objects."""
    if not data.startswith(_MAGIC):
        raise ValueError("no archive")
    at = len(_MAGIC)
    while at < len(data):
        begin = at + _HEADER
        length = int(data[at + 48 : at + 58])
        if length < 0 or begin + length > len(data):
            raise ValueError("cut short")
        if data[begin : begin + 4] == _ELF:
            yield data[begin : begin + length]
        elif not data[at : at + 16].startswith(b"/"):
            raise ValueError("a member that is no object")
        at = begin + length + length % 2
