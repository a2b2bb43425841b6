"""Programs in C that read inputs from files, call a C library, and write its outputs to files.

What reads and writes is for the system that the program runs on; its header declares it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np

from mbv3c.c_library.run import CLibrary
from mbv3c.feeds import Array, Feed, arrays_of, save_raw
from mbv3c.manifest import TensorRecord

_MAIN = Template("""\
#include "$header"
#include "$prefix.h"

static _Alignas(${macro}_ARENA_ALIGNMENT) unsigned char arena[${macro}_ARENA_BYTES];
/* Inputs and outputs begin right behind a multiple of 64, as an application's may. */
static _Alignas(64) unsigned char $buffers;

int main(void) {
  for (int at = 0; $loaded; ++at) {
    MARK(100);
    const int code = ${prefix}_run($arguments, arena);
    MARK(101);
    if (code != ${macro}_OK) fail("${prefix}_run returned an error");
    $saved
  }
  return 0;
}
""")


@dataclass(frozen=True)
class Buffers:
    """Inputs and outputs of a library in the C of a program that reads and writes files.

    Attributes:
        declared: the buffers, which begin right behind a multiple of 64.
        loaded: a condition: the files of input number `at` are there, and were read.
        arguments: the inputs and outputs of a call.
        saved: what writes the outputs.
    """

    declared: str
    loaded: str
    arguments: str
    saved: str


def main_source(library: CLibrary, header: str) -> str:
    """Return a program that runs a library on one file after another.

    Args:
        library: the library.
        header: what declares `load_file`, `save_file`, `file_name`, `fail` and `MARK`.
    """
    buffers = buffers_of(library)
    return _MAIN.substitute(
        header=header,
        prefix=library.prefix,
        macro=library.prefix.upper(),
        buffers=buffers.declared,
        loaded=buffers.loaded,
        arguments=buffers.arguments,
        saved=buffers.saved,
    )


def buffers_of(library: CLibrary) -> Buffers:
    """Return the buffers of a library's inputs and outputs."""
    names, buffers = list[str](), list[str]()
    loaded, saved = list[str](), list[str]()
    for kind, records in (("in", library.inputs), ("out", library.outputs)):
        pointers = []
        for number, record in enumerate(records):
            size, off = bytes_of(record), np.dtype(record.dtype).itemsize
            name = f"{kind}_{number}"
            buffers.append(f"{name}[{size + off}]")
            pointers.append(f"(void *)({name} + {off})")
            file = f'file_name(at, {number}, "{kind}"), {name} + {off}, {size}'
            (loaded if kind == "in" else saved).append(
                f"load_file({file})" if kind == "in" else f"save_file({file});"
            )
        if len(records) == 1:
            names.append(pointers[0])
        else:
            names.append(f"&({library.prefix}_{kind}put_t){{{', '.join(pointers)}}}")
    return Buffers(
        ", ".join(buffers),
        " && ".join(loaded) or "at < 1",
        ", ".join(names),
        "\n    ".join(saved),
    )


def bytes_of(record: TensorRecord) -> int:
    """Return the size of an input or output."""
    return int(np.prod(record.shape, dtype=np.int64)) * np.dtype(record.dtype).itemsize


def write_inputs(library: CLibrary, inputs: Sequence[Feed], folder: Path) -> None:
    """Write the inputs of a program into the folder in which it runs."""
    for at, feed in enumerate(inputs):
        pairs = zip(arrays_of(feed), library.inputs, strict=True)
        for number, (array, record) in enumerate(pairs):
            save_raw(folder / f"{at}.{number}.in", array.astype(record.dtype, copy=False))


def read_outputs(library: CLibrary, count: int, folder: Path) -> list[list[Array]]:
    """Read what a program made of so many inputs."""
    return [
        [
            np.fromfile(folder / f"{at}.{number}.out", record.dtype).reshape(record.shape)
            for number, record in enumerate(library.outputs)
        ]
        for at in range(count)
    ]
