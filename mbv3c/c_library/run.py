"""Run a C library as an application does: compiled into a program, here or emulated."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mbv3c.c_library.names import archive_of, header_of
from mbv3c.execution.emulator.counting import Count, count
from mbv3c.execution.emulator.kit import EmulatorKit, emulator_command, sysroot
from mbv3c.execution.link import run_zig
from mbv3c.execution.processes import require
from mbv3c.feeds import Array, Feed, arrays_of, save_raw
from mbv3c.manifest import Manifest, TensorRecord
from mbv3c.scratch import scratch_folder

_TIMEOUT = 600.0  # seconds per input

_PROGRAM = """\
#define _GNU_SOURCE /* pthread_attr_setstack */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "{prefix}.h"

/* What a counter of executed instructions looks for; any other ARM does nothing at them. */
#ifdef __aarch64__
#define MARK(number) __asm__ volatile("hint #" #number ::: "memory")
#else
#define MARK(number)
#endif

#define IN {inputs}
#define OUT {outputs}

static const size_t in_bytes[] = {{{in_bytes}}}, out_bytes[] = {{{out_bytes}}};
static void *in[IN], *out[OUT], *arena;
static int code;

static void *infer(void *nothing) {{
  {call}
  return nothing;
}}

static void *idle(void *nothing) {{ return nothing; }}

/* Runs something in a thread whose stack is painted before; returns the bytes of it that were
 * written, or -1. */
static long stack_of(void *(*work)(void *)) {{
  enum {{ ROOM = 1 << 22, PAINT = 0xA5 }};
  static unsigned char stack[ROOM] __attribute__((aligned(4096)));
  pthread_attr_t attributes;
  pthread_t thread;
  memset(stack, PAINT, ROOM);
  if (pthread_attr_init(&attributes) || pthread_attr_setstack(&attributes, stack, ROOM) ||
      pthread_create(&thread, &attributes, work, NULL) || pthread_join(thread, NULL)) {{
    return -1;
  }}
  pthread_attr_destroy(&attributes);
  long clean = 0;
  while (clean < ROOM && stack[clean] == PAINT) ++clean;
  return ROOM - clean;
}}

static void *room(size_t bytes, size_t off) {{
  /* Inputs and outputs begin right behind a multiple of 64, as an application's may. */
  char *at = aligned_alloc(64, (bytes + off + 127) / 64 * 64);
  return at == NULL ? NULL : at + off;
}}

static int all(int reading, const char *kind, const char *folder, int at, void *const *data,
               const size_t *bytes, int count) {{
  for (int k = 0; k < count; ++k) {{
    char name[4096];
    snprintf(name, sizeof name, "%s/%d.%d.%s", folder, at, k, kind);
    FILE *file = fopen(name, reading ? "rb" : "wb");
    if (file == NULL) return perror(name), 1;
    size_t done = reading ? fread(data[k], 1, bytes[k], file) : fwrite(data[k], 1, bytes[k], file);
    if (fclose(file) != 0 || done != bytes[k]) return perror(name), 1;
  }}
  return 0;
}}

int main(int count, char **arguments) {{
  arena = aligned_alloc({macro}_ARENA_ALIGNMENT,
      ({macro}_ARENA_BYTES + {macro}_ARENA_ALIGNMENT - 1) / {macro}_ARENA_ALIGNMENT *
      {macro}_ARENA_ALIGNMENT);
  if (count != 3 || arena == NULL) return 2;
  for (int k = 0; k < IN; ++k) in[k] = room(in_bytes[k], {in_off});
  for (int k = 0; k < OUT; ++k) out[k] = room(out_bytes[k], {out_off});
  long idly = stack_of(idle), most = 0;
  if (idly < 0) return fputs("no thread with a stack of its own\\n", stderr), 1;
  for (int at = 0; at < atoi(arguments[2]); ++at) {{
    if (all(1, "in", arguments[1], at, in, in_bytes, IN)) return 1;
    long used = stack_of(infer) - idly;
    if (used > most) most = used;
#ifdef {macro}_FEATURES
    if (code == {macro}_NO_FEATURE) {{
      return fprintf(stderr, "the processor has no %s\\n", {prefix}_lacking()), 1;
    }}
#endif
    if (code != {macro}_OK) return fprintf(stderr, "{prefix}_run returned %d\\n", code), 1;
    if (all(0, "out", arguments[1], at, out, out_bytes, OUT)) return 1;
  }}
  char name[4096];
  snprintf(name, sizeof name, "%s/stack", arguments[1]);
  FILE *file = fopen(name, "w");
  if (file == NULL || fprintf(file, "%ld", most) < 0 || fclose(file) != 0) return perror(name), 1;
  return 0;
}}
"""


@dataclass(frozen=True)
class CLibrary:
    """A C library on disk.

    Attributes:
        prefix: what every name begins with.
        header: its header.
        archive: the library.
        inputs, outputs: what it takes and gives.
    """

    prefix: str
    header: Path
    archive: Path
    inputs: Sequence[TensorRecord]
    outputs: Sequence[TensorRecord]


def library_in(folder: Path, prefix: str, manifest: Manifest) -> CLibrary:
    """Return the C library in the folder of a bundle, which has the names that mbv3c gives it."""
    paths = folder / header_of(prefix), folder / archive_of(prefix)
    return CLibrary(prefix, *paths, manifest.inputs, manifest.outputs)


# Calls `main` of a program that is linked as a library: here is a C library, which zig would
# have to build first, for half a minute.
_LOADER = """
import ctypes, sys
ctypes.CDLL("libm.so.6", ctypes.RTLD_GLOBAL)
arguments = [argument.encode() for argument in sys.argv[1:]]
sys.exit(ctypes.CDLL(sys.argv[1]).main(
    len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)))
"""


@dataclass(frozen=True)
class Machine:
    """What runs a program for Linux.

    Attributes:
        architecture: as `uname -m` prints it.
        kit: the emulator; None for this machine itself.
        cpu: what the emulator calls the processor.
    """

    architecture: str
    kit: EmulatorKit | None = None
    cpu: str = ""

    def command(self, program: Path, options: Sequence[str] = ()) -> list[str]:
        """Return the command that starts a program; `options` are the emulator's."""
        if self.kit is None:
            return [sys.executable, "-I", "-c", _LOADER, str(program)]
        system = self.kit.system
        return [
            *emulator_command(system),
            *("-cpu", self.cpu, *options, "-L", str(sysroot(system)), "-U", "LD_PRELOAD"),
            str(program),
        ]


@dataclass(frozen=True)
class Runs:
    """What a library did.

    Attributes:
        outputs: the outputs for each input.
        stack_bytes: the most that a call used of the stack.
    """

    outputs: Sequence[Sequence[Array]]
    stack_bytes: int


def run_c_library(library: CLibrary, machine: Machine, feeds: Sequence[Feed]) -> Runs:
    """Run a library on each input; nothing that it reads is aligned.

    Raises:
        ToolError: it cannot be linked, or it crashes.
    """
    with _program(library, machine) as program, scratch_folder("c-run") as folder:
        _write_inputs(library, feeds, folder)
        require(
            [*machine.command(program), str(folder), str(len(feeds))],
            doing=f"running lib{library.prefix}.a",
            remedy="compile the model again",
            timeout=_TIMEOUT * len(feeds),
        )
        outputs = [
            [
                np.fromfile(folder / f"{at}.{number}.out", record.dtype).reshape(record.shape)
                for number, record in enumerate(library.outputs)
            ]
            for at in range(len(feeds))
        ]
        return Runs(outputs, int((folder / "stack").read_text()))


def count_c_library(library: CLibrary, machine: Machine, feed: Feed) -> Count:
    """Count the instructions that one inference executes on an emulated processor.

    Raises:
        ToolError: it cannot be linked, or crashes, or the emulator cannot count.
    """
    assert machine.kit is not None
    with _program(library, machine) as program, scratch_folder("c-run") as folder:
        _write_inputs(library, [feed], folder)
        return count(
            lambda plugin: [*machine.command(program, plugin), str(folder), "1"],
            machine.kit,
            doing=f"counting the instructions of lib{library.prefix}.a",
        )


def _write_inputs(library: CLibrary, feeds: Sequence[Feed], folder: Path) -> None:
    for at, feed in enumerate(feeds):
        for number, (array, record) in enumerate(
            zip(arrays_of(feed), library.inputs, strict=True)
        ):
            save_raw(folder / f"{at}.{number}.in", array.astype(record.dtype, copy=False))


@contextmanager
def _program(library: CLibrary, machine: Machine) -> Iterator[Path]:
    """Compile and link a program around a library."""
    prefix = library.prefix
    with scratch_folder("c-program") as folder:
        source, program = folder / "main.c", folder / "main"
        source.write_text(
            _PROGRAM.format(
                prefix=prefix,
                macro=prefix.upper(),
                inputs=len(library.inputs),
                outputs=len(library.outputs),
                in_bytes=", ".join(str(_bytes(record)) for record in library.inputs),
                out_bytes=", ".join(str(_bytes(record)) for record in library.outputs),
                in_off=max(np.dtype(record.dtype).itemsize for record in library.inputs),
                out_off=max(np.dtype(record.dtype).itemsize for record in library.outputs),
                call=_call(library),
            )
        )
        compiler = ("cc", "-target", f"{machine.architecture}-linux-gnu.2.28", "-fPIC", "-O1")
        made, doing = folder / "main.o", f"linking a program with {library.archive.name}"
        # Only this one is hashed: what else lies in its folder must not be compiled.
        shutil.copyfile(library.header, folder / library.header.name)
        headers = ("-std=c11", "-I", str(folder))
        run_zig([*compiler, "-c", *headers, "-o", str(made), str(source)], doing)
        whole = ("-shared", "-nostdlib") if machine.kit is None else ("-lm", "-lpthread")
        parts = map(str, (program, made, library.archive))
        run_zig([*compiler, "-s", "-o", *parts, *whole], doing)
        yield program


def _call(library: CLibrary) -> str:
    """Return the C of one inference."""
    lines, arguments = [], []
    for kind, records in (("in", library.inputs), ("out", library.outputs)):
        if len(records) == 1:
            arguments.append(f"{kind}[0]")
            continue
        pointers = ", ".join(f"{kind}[{at}]" for at in range(len(records)))
        lines.append(f"{library.prefix}_{kind}put_t {kind}puts = {{{pointers}}};")
        arguments.append(f"&{kind}puts")
    lines.append("MARK(100);")
    lines.append(f"code = {library.prefix}_run({', '.join(arguments)}, arena);")
    lines.append("MARK(101);")
    return "\n  ".join(lines)


def _bytes(record: TensorRecord) -> int:
    return int(np.prod(record.shape, dtype=np.int64)) * np.dtype(record.dtype).itemsize
