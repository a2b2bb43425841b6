"""The program that runs the C library of NPU and CPU on an emulated board.

No emulator has an Ethos-U. Where the program would call the NPU, it writes the inputs of the
stream to a file and looks for one with the outputs. Without one the run ends; something else
computes the outputs, and the program begins anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from mbv3c.c_library.on_files import buffers_of
from mbv3c.c_library.run import CLibrary
from mbv3c.errors import ToolError, UsageError
from mbv3c.feeds import Array, Feed
from mbv3c.nearest import among
from mbv3c.scratch import scratch_folder
from mbv3c.targets.ethos_u.manifest import EndRecord
from mbv3c.targets.mcu.devices import MCUS, McuTarget
from mbv3c.targets.mcu.firmware import link_program
from mbv3c.targets.mcu.kit import McuKit
from mbv3c.targets.mcu.runner import BoardRunner, described
from mbv3c.targets.one_chip.chain import Answer

# DDR of the MPS3 (AN547), behind the constants: outputs of detectors are larger than its SRAM.
_DATA = 0x68000000
_DATA_BYTES = 128 << 20
_TAKEN, _GIVEN = "npu-in", "npu-out"
_ENDS = 100  # places in the names of files for the inputs, or outputs, of a call

# Cores with Helium: those that stand beside an Ethos-U.
HOSTS = tuple(
    replace(target, board=replace(target.board, data=_DATA, data_bytes=_DATA_BYTES))
    for target in MCUS
    if target.helium
)

_MAIN = Template("""\
#include "bare_metal.h"
#include "$prefix.h"

typedef struct {
  int region;
  size_t offset, bytes;
} end_t;

enum { kCalls = $calls, kEnds = $ends };
static const int taken_count[kCalls] = {$taken_count}, given_count[kCalls] = {$given_count};
static const end_t taken[kCalls][kEnds] = {$taken};
static const end_t given[kCalls][kEnds] = {$given};
static const unsigned written[kCalls] = {$written}; /* regions, as bits */

static _Alignas(${macro}_ARENA_ALIGNMENT) unsigned char arena[${macro}_ARENA_BYTES];
/* Inputs and outputs begin right behind a multiple of 64, as an application's may. */
static _Alignas(64) unsigned char $buffers;
static int at, call;

static int invoke(void *driver, const void *stream, size_t stream_bytes, uint64_t *base,
                  const size_t *size, int regions) {
  const int now = call++;
  if (driver != &call || stream == NULL || stream_bytes == 0) fail("a call of another NPU");
  for (int k = 0; k < taken_count[now]; ++k) {
    const end_t *end = &taken[now][k];
    save_file(file_name(at, now * $places + k, "$taken_kind"),
              (const char *)(uintptr_t)base[end->region] + end->offset, end->bytes);
  }
  /* The NPU leaves nothing as it was in the memory that it writes to. */
  for (int region = 0; region < regions; ++region) {
    unsigned char *const bytes = (unsigned char *)(uintptr_t)base[region];
    for (size_t k = 0; written[now] >> region & 1 && k < size[region]; ++k) bytes[k] = 0xA5;
  }
  for (int k = 0; k < given_count[now]; ++k) {
    const end_t *end = &given[now][k];
    char *const place = (char *)(uintptr_t)base[end->region] + end->offset;
    if (!load_file(file_name(at, now * $places + k, "$given_kind"), place, end->bytes)) return 1;
  }
  return 0;
}

int main(void) {
  const ${prefix}_npu_t npu = {invoke, &call};
  for (at = 0; $loaded; ++at) {
    call = 0;
    MARK(100);
    const int code = ${prefix}_run($arguments, arena, sizeof arena, &npu);
    MARK(101);
    if (code == ${macro}_NPU_FAILED) continue;
    if (code != ${macro}_OK || call != kCalls) fail("${prefix}_run returned an error");
    $saved
  }
  return 0;
}
""")


@dataclass(frozen=True)
class Stream:
    """What a program knows of a call of the NPU.

    Attributes:
        inputs, outputs: the ends of the stream.
        regions: the numbers of the regions that it writes to.
    """

    inputs: Sequence[EndRecord]
    outputs: Sequence[EndRecord]
    regions: Sequence[int]


def main_source(library: CLibrary, streams: Sequence[Stream]) -> str:
    """Return a program that runs a library on one file after another."""
    buffers = buffers_of(library)
    ends = [
        [_ends(stream.inputs) for stream in streams],
        [_ends(stream.outputs) for stream in streams],
    ]
    most = max(len(each) for side in ends for each in side)
    taken, given = (", ".join(f"{{{', '.join(each)}}}" for each in side) for side in ends)
    counts = [", ".join(str(len(each)) for each in side) for side in ends]
    written = [str(sum(1 << region for region in stream.regions)) for stream in streams]
    return _MAIN.substitute(
        prefix=library.prefix,
        macro=library.prefix.upper(),
        calls=len(streams),
        ends=most,
        taken_count=counts[0],
        given_count=counts[1],
        taken=taken,
        given=given,
        written=", ".join(written),
        places=_ENDS,
        taken_kind=_TAKEN,
        given_kind=_GIVEN,
        buffers=buffers.declared,
        loaded=buffers.loaded,
        arguments=buffers.arguments,
        saved=buffers.saved,
    )


def _ends(records: Sequence[EndRecord]) -> list[str]:
    return [f"{{{one.region}, {one.offset}, {prod(one.shape)}}}" for one in records]


@dataclass(frozen=True)
class FirmwareRunner:
    """Runs the C library of NPU and CPU on an emulated board.

    Attributes:
        kit: the emulator.
        target: the core, among memories that are large enough.
        library: the library.
        needs: functions that the library needs.
        streams: the calls of the NPU.
        answer: what computes their outputs.
    """

    kit: McuKit
    target: McuTarget
    library: CLibrary
    needs: Sequence[str]
    streams: Sequence[Stream]
    answer: Answer

    @property
    def description(self) -> str:
        return described(self.target)

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        return self.traced(inputs).outputs

    def traced(self, inputs: Sequence[Feed]) -> "Traced":
        """Run the library on some inputs, and note what it hands to the NPU.

        Raises:
            ToolError: the program fails, or makes no progress.
        """
        taken: list[list[list[NDArray[np.int8]]]] = [[] for _ in inputs]
        with scratch_folder("board") as folder:
            source = main_source(self.library, self.streams)
            program = link_program(self.library, self.target, source, folder, self.needs)
            board = BoardRunner(self.kit, self.target, self.library, self.needs)
            board.start(program, inputs, folder)
            for call, stream in enumerate(self.streams):
                for at in range(len(inputs)):
                    given = _read(folder, at, call, stream.inputs)
                    taken[at].append(given)
                    made = self.answer(call, given)
                    for place, array in enumerate(made):
                        name = f"{at}.{call * _ENDS + place}.{_GIVEN}"
                        np.ascontiguousarray(array, np.int8).tofile(folder / name)
                board.start(program, inputs, folder)
            outputs = [
                [
                    np.fromfile(folder / f"{at}.{number}.out", record.dtype).reshape(record.shape)
                    for number, record in enumerate(self.library.outputs)
                ]
                for at in range(len(inputs))
            ]
            stack = int(np.fromfile(folder / "stack", np.uint32)[0])
        return Traced(outputs, taken, stack)


@dataclass(frozen=True)
class Traced:
    """What a program on a board did.

    Attributes:
        outputs: the outputs for each input.
        taken: for each input and each call of the NPU, what it was handed.
        stack_bytes: the largest stack of the whole program.
    """

    outputs: list[list[Array]]
    taken: list[list[list[NDArray[np.int8]]]]
    stack_bytes: int


def _read(folder: Path, at: int, call: int, ends: Sequence[EndRecord]) -> list[NDArray[np.int8]]:
    found = []
    for place, end in enumerate(ends):
        path = folder / f"{at}.{call * _ENDS + place}.{_TAKEN}"
        if not path.is_file():
            raise ToolError(f"the program on the board never made call {call} of the NPU")
        found.append(np.fromfile(path, np.int8).reshape(end.shape))
    return found


def host_of(name: str) -> McuTarget:
    """Return the core beside an NPU; without a name a Cortex-M55.

    Raises:
        UsageError: there is no such core.
    """
    known = {target.device: target for target in HOSTS}
    device = name.removeprefix("mcu:") or HOSTS[0].device
    if device not in known:
        raise UsageError(f"unknown --host {name!r}{among(name, known)}")
    return known[device]
