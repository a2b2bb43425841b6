"""The C of a network in parts: its header, and the function that runs one part after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template

from mbv3c.c_library.labels import declared, defined
from mbv3c.c_library.source import Interface, pointer, port_macros, port_types
from mbv3c.quoting import for_comment
from mbv3c.targets.ethos_u.c_source import CProgram
from mbv3c.targets.one_chip.memory import Places
from mbv3c.targets.one_chip.parts import Network, Part

_HEADER = Template("""\
$about
#ifndef ${macro}_H
#define ${macro}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

$constants
/* The memory of an inference, beside its inputs and outputs: in $memory, as the NPU's streams want
 * it. Streams and weights are only read; their sections, for a linker script:
$sections
 */
#define ${macro}_ARENA_BYTES $arena_bytes
#define ${macro}_ARENA_ALIGNMENT $alignment
/* How often a run calls the NPU. */
#define ${macro}_NPU_CALLS $calls

$ports
$types
enum {
  ${macro}_OK = 0,                /* the outputs are there */
  ${macro}_NULL_POINTER = -1,     /* an input, an output, the arena or the NPU is NULL */
  ${macro}_ARENA_MISALIGNED = -2, /* the arena begins at no multiple of ARENA_ALIGNMENT */
  ${macro}_ARENA_TOO_SMALL = -3,  /* the arena has fewer than ARENA_BYTES bytes */
  ${macro}_NPU_FAILED = -4,       /* `invoke` returned something else than 0 */
};

/* How an application lets its NPU run a stream. `invoke` is given `driver`, the stream with its
 * size, and addresses and sizes of its memory regions; it returns 0 when the outputs are there.
 * With Arm's driver (ethos-u-core-driver) it is:
 *
 *     static int invoke(void *driver, const void *stream, size_t stream_bytes, uint64_t *base,
 *                       const size_t *size, int regions) {
 *       return ethosu_invoke_v3(driver, stream, (int)stream_bytes, base, size, regions, NULL);
 *     }
 */
typedef struct {
  int (*invoke)(void *driver, const void *stream, size_t stream_bytes, uint64_t *base,
                const size_t *size, int regions);
  void *driver;
} ${prefix}_npu_t;

/* Runs the network once: the NPU computes its parts, the calling core the rest. The arena has
 * ARENA_BYTES bytes and begins at a multiple of ARENA_ALIGNMENT; it holds nothing between two
 * calls. Inputs and outputs need no alignment but that of their type. Nothing is allocated and
 * nothing is global. */
int ${prefix}_run(const ${prefix}_input_t *in, ${prefix}_output_t *out, void *arena,
                  size_t arena_bytes, const ${prefix}_npu_t *npu);

#ifdef __cplusplus
}
#endif
#endif
""")


@dataclass(frozen=True)
class Firmware:
    """What is written in C of a network in parts.

    Attributes:
        own: what the header says.
        network: the parts.
        places: where everything lies in the arena.
        streams: the command streams of the NPU's parts.
        cores: what the headers of the CPU's parts say, by the part's number.
    """

    own: Interface
    network: Network
    places: Places
    streams: Sequence[CProgram]
    cores: Mapping[int, Interface]


def header(firmware: Firmware) -> str:
    """Return the text of the header."""
    own, streams = firmware.own, firmware.streams
    sections = [
        f" *     {stream.section('rodata', stream.memories['constants'], name)}"
        for stream in streams
        for name in ("commands", "constants")
    ]
    return _HEADER.substitute(
        about=f"/* {for_comment(own.about)} */",
        macro=own.prefix.upper(),
        prefix=own.prefix,
        constants="\n".join(
            f'#define {own.macro(name)} "{text}"' for name, text in own.constants.items()
        ),
        memory=streams[0].memories["arena"],
        sections="\n".join(sections),
        arena_bytes=max(1, own.arena_bytes),
        alignment=own.alignment,
        calls=len(streams),
        ports="\n".join(port_macros(own)),
        types="\n".join([*declared(own.prefix, own.labels), *port_types(own)]),
    )


def driver(firmware: Firmware) -> str:
    """Return the text of the source that runs the parts."""
    return "\n".join(_driver(firmware)) + "\n"


def _driver(firmware: Firmware) -> Iterator[str]:
    own, prefix = firmware.own, firmware.own.prefix
    yield f'#include "{prefix}.h"'
    parts = [core.prefix for core in firmware.cores.values()]
    for name in (*parts, *(stream.prefix for stream in firmware.streams)):
        yield f'#include "{name}.h"'
    yield ""
    yield (
        f"int {prefix}_run(const {prefix}_input_t *in, {prefix}_output_t *out, void *arena, "
        f"size_t arena_bytes, const {prefix}_npu_t *npu) {{"
    )
    pointers = ["in", "out", "arena", "npu", "npu->invoke"]
    for argument, ports in (("in", own.inputs), ("out", own.outputs)):
        pointers += [f"{argument}->{port.field}" for port in ports] if len(ports) > 1 else []
    for each in pointers:
        yield f"  if ({each} == NULL) return {own.macro('NULL_POINTER')};"
    yield (
        f"  if ((uintptr_t)arena % {own.macro('ARENA_ALIGNMENT')} != 0) "
        f"return {own.macro('ARENA_MISALIGNED')};"
    )
    yield (
        f"  if (arena_bytes < {own.macro('ARENA_BYTES')}) return {own.macro('ARENA_TOO_SMALL')};"
    )
    yield "  unsigned char *const at = arena;"
    yield "  int code;"
    ends = _ends(firmware)
    stream = 0
    for number, part in enumerate(firmware.network.parts):
        if part.region is None:
            yield from _on_cpu(firmware, number, part, ends)
        else:
            yield from _on_npu(firmware, stream, part, ends)
            stream += 1
    yield f"  return {own.macro('OK')};"
    yield "}"
    yield from defined(prefix, own.labels)


def _ends(firmware: Firmware) -> dict[str, str]:
    """Return the pointer to each tensor between two parts, and to inputs and outputs."""
    own, network = firmware.own, firmware.network
    found = {name: f"at + {offset}" for name, offset in firmware.places.edges.items()}
    for argument, ports, names in (
        ("in", own.inputs, network.inputs),
        ("out", own.outputs, network.outputs),
    ):
        for at, name in enumerate(names):
            found[name] = pointer(argument, ports, at)
    return found


def _on_cpu(firmware: Firmware, number: int, part: Part, ends: Mapping[str, str]) -> Iterator[str]:
    core, offset = firmware.cores[number], firmware.places.own[number]
    names = ", ".join(node.op_type for node in part.nodes[:8])
    yield f"  /* CPU: {for_comment(names)}{', ...' if len(part.nodes) > 8 else ''} */"
    yield "  {"
    arguments = []
    for kind, ports, tensors in (
        ("in", core.inputs, part.reads),
        ("out", core.outputs, part.makes),
    ):
        pointers = [f"(void *)({ends[name]})" for name in tensors]
        if len(ports) == 1:
            arguments.append(pointers[0])
        else:
            yield f"    {core.prefix}_{kind}put_t {kind}puts = {{{', '.join(pointers)}}};"
            arguments.append(f"&{kind}puts")
    yield f"    code = {core.prefix}_run({', '.join(arguments)}, at + {offset});"
    yield f"    if (code != {firmware.own.macro('OK')}) return code;"
    yield "  }"


def _on_npu(firmware: Firmware, number: int, part: Part, ends: Mapping[str, str]) -> Iterator[str]:
    stream, begins = firmware.streams[number], firmware.places.regions[number]
    layout = stream.layout
    yield f"  /* NPU: stream {number} */"
    yield "  {"
    for name, (region, offset) in zip(part.reads, layout.inputs, strict=True):
        wanted = f"at + {begins[region] + offset}"
        if ends[name] != wanted:
            size = firmware.network.edges[name].bytes
            yield f"    __builtin_memcpy({wanted}, {ends[name]}, {size});"
    count = max([layout.constants_region, *layout.scratch]) + 1
    base, sizes = ["0"] * count, ["0"] * count
    base[layout.constants_region] = f"(uintptr_t){stream.name('constants')}"
    sizes[layout.constants_region] = stream.macro("CONSTANTS_SIZE")
    for region, extent in layout.scratch.items():
        base[region] = f"(uintptr_t)(at + {begins[region]})"
        sizes[region] = str(extent)
    yield f"    uint64_t base[] = {{{', '.join(base)}}};"
    yield f"    static const size_t size[] = {{{', '.join(sizes)}}};"
    yield (
        f"    code = npu->invoke(npu->driver, {stream.name('commands')}, "
        f"{stream.macro('COMMANDS_SIZE')}, base, size, {count});"
    )
    yield f"    if (code != 0) return {firmware.own.macro('NPU_FAILED')};"
    yield "  }"
