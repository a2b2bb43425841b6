"""The C of a library: its header, and what it says of inputs and outputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from string import Template

from mbv3c.c_library.labels import declared
from mbv3c.c_library.names import distinct
from mbv3c.c_library.record import CLibraryRequest
from mbv3c.execution.features import Feature, listed
from mbv3c.lowering.lower import Lowered
from mbv3c.manifest import Manifest
from mbv3c.quoting import for_comment

# The type in C of an element; C17 has none for half precision.
_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "uint16_t",
    "bool": "uint8_t",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_NOTES = {"float16": ", the bits of IEEE 754 half precision", "bool": ", 0 or 1"}


@dataclass(frozen=True)
class Port:
    """An input or an output of the library.

    Attributes:
        name: the tensor's name in the model.
        field: its name in C.
        shape: the extents, outermost first.
        dtype: numpy's name of the element type.
    """

    name: str
    field: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def c_type(self) -> str:
        return _TYPES[self.dtype]


@dataclass(frozen=True)
class Interface:
    """What a header says of a library.

    Attributes:
        prefix: what every name begins with.
        about: what it is, in words: the model, the target, the precision, the version.
        constants: macros with a text, by name without the prefix.
        inputs, outputs: what it takes and gives, in the model's order.
        arena_bytes, alignment: the size of the arena, and its alignment in bytes.
        shared: whether some loops can be shared between cores.
        labels: the names of the classes; empty without.
        features: what the processor must have beyond what all of its architecture have.
    """

    prefix: str
    about: str
    constants: dict[str, str]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    arena_bytes: int
    alignment: int
    shared: bool
    labels: tuple[str, ...] = ()
    features: tuple[Feature, ...] = ()

    def macro(self, name: str) -> str:
        return f"{self.prefix}_{name}".upper()


def ports_of(lowered: Lowered, names: Sequence[Sequence[str]]) -> list[list[Port]]:
    """Return the inputs and the outputs of a network.

    Args:
        lowered: the network.
        names: the names in the model, of the inputs and of the outputs.
    """
    plan = lowered.plan
    ends = (
        (plan.inputs, plan.input_shapes, "input"),
        (plan.outputs, plan.output_shapes, "output"),
    )
    return [
        [
            Port(given, field, tuple(shape), plan.values[value].dtype)
            for given, field, value, shape in zip(
                own, distinct(own, kind), values, shapes, strict=True
            )
        ]
        for own, (values, shapes, kind) in zip(names, ends, strict=True)
    ]


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
/* The memory of an inference, beside its inputs and outputs. */
#define ${macro}_ARENA_BYTES $arena_bytes
#define ${macro}_ARENA_ALIGNMENT $alignment

$ports
$types
enum {
  ${macro}_OK = 0,                /* the outputs are there */
  ${macro}_NULL_POINTER = -1,     /* an input, an output or the arena is NULL */
  ${macro}_ARENA_MISALIGNED = -2, /* the arena begins at no multiple of ARENA_ALIGNMENT */
  ${macro}_ARENA_TOO_SMALL = -3,  /* the arena has fewer than ARENA_BYTES bytes */$code
};
$lacking
/* Runs the network once. The arena has ARENA_BYTES bytes and begins at a multiple of
 * ARENA_ALIGNMENT; it holds nothing between two calls. Inputs and outputs need no alignment but
 * that of their type. Nothing is allocated and nothing is global: any number of threads may call,
 * each with an arena of its own. */
int ${prefix}_run(const ${prefix}_input_t *in, ${prefix}_output_t *out, void *arena);

/* How an application shares loops between its threads: `run` calls task(work, first, end) as often
 * as it likes, on any threads, so that the ranges first <= turn < end are together all turns from
 * 0 to `turns` - 1, each once. It returns when all these calls have returned. `pool` is what it
 * is given as `pool`. */
typedef void (*${prefix}_task_t)(void *work, int64_t first, int64_t end);
typedef struct {
  void (*run)(void *pool, ${prefix}_task_t task, void *work, int64_t turns);
  void *pool;
} ${prefix}_parallel_t;

/* Does what ${prefix}_run does, with threads, and checks the size of the arena. With NULL for
 * `parallel` everything runs in the calling thread.$shared */
int ${prefix}_run_parallel(const ${prefix}_input_t *in, ${prefix}_output_t *out, void *arena,
    size_t arena_bytes, const ${prefix}_parallel_t *parallel);

#ifdef __cplusplus
}
#endif
#endif
""")


_LACKING = """
/* Returns in words what the processor lacks of FEATURES, one of them; NULL where it has all. */
const char *{prefix}_lacking(void);
"""


def header(own: Interface) -> str:
    """Return the text of the header."""
    code, lacking = "", ""
    if own.features:
        code = (
            f"\n  {own.macro('NO_FEATURE')} = -8,       /* the processor lacks one of FEATURES */"
        )
        lacking = _LACKING.format(prefix=own.prefix)
    return _HEADER.substitute(
        code=code,
        lacking=lacking,
        about=f"/* {for_comment(own.about)} */",
        macro=own.prefix.upper(),
        prefix=own.prefix,
        constants="\n".join(
            f'#define {own.macro(name)} "{text}"' for name, text in _texts(own).items()
        ),
        arena_bytes=max(1, own.arena_bytes),
        alignment=own.alignment,
        ports="\n".join(port_macros(own)),
        types="\n".join([*declared(own.prefix, own.labels), *port_types(own)]),
        shared="" if own.shared else " This network has no loop that is worth sharing.",
    )


def _texts(own: Interface) -> dict[str, str]:
    """Return the macros with a text; the features have their names in /proc/cpuinfo."""
    features = {"FEATURES": listed(own.features)} if own.features else {}
    return own.constants | features


def port_macros(own: Interface) -> Iterator[str]:
    """Yield the macros of all inputs and outputs."""
    for kind, ports in (("INPUT", own.inputs), ("OUTPUT", own.outputs)):
        yield f"#define {own.macro(kind + '_COUNT')} {len(ports)}"
        for port in ports:
            yield from _port_macros(own, kind, port)
    classes = _classes(own.outputs)
    if classes:
        yield f"#define {own.macro('CLASSES')} {classes}"


def _port_macros(own: Interface, kind: str, port: Port) -> Iterator[str]:
    extents = ", ".join(map(str, port.shape))
    name = for_comment(port.name)
    yield f"/* {name}: {port.dtype}[{extents}]{_NOTES.get(port.dtype, '')} */"
    stem = own.macro(f"{kind}_{port.field}")
    yield f"#define {stem}_ELEMENTS {port.elements}"
    yield f"#define {stem}_RANK {len(port.shape)}"
    if port.shape:
        yield f"#define {stem}_SHAPE {{{extents}}}"


def _classes(outputs: Sequence[Port]) -> int | None:
    """Return the number of classes of a classifier: of the one output [1, classes]."""
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or outputs[0].shape[0] != 1:
        return None
    return outputs[0].shape[1]


def port_types(own: Interface) -> Iterator[str]:
    """Yield the types of what one call takes and gives."""
    yield from _type(own, "input", own.inputs, "const ")
    yield from _type(own, "output", own.outputs, "")


def _type(own: Interface, kind: str, ports: Sequence[Port], const: str) -> Iterator[str]:
    """Declare what one call takes or gives: elements, or of several tensors pointers to them."""
    if len(ports) == 1:
        yield f"typedef {ports[0].c_type} {own.prefix}_{kind}_t;"
    else:
        yield "typedef struct {"
        for port in ports:
            yield f"  {const}{port.c_type} *{port.field};"
        yield f"}} {own.prefix}_{kind}_t;"
    yield ""


def about(manifest: Manifest) -> str:
    """Say what a library is, for its header."""
    return (
        f"{manifest.model.name} for {manifest.target.name} in {manifest.precision}, compiled by "
        f"mbv3c {manifest.mbv3c}."
    )


def constants_of(request: CLibraryRequest) -> dict[str, str]:
    """Return the macros with a text."""
    manifest = request.manifest
    return {
        "MODEL_SHA256": request.digest,
        "TARGET": manifest.target.name,
        "PRECISION": manifest.precision,
    }


def pointer(argument: str, ports: Sequence[Port], at: int) -> str:
    """Return the pointer to an input or output: the argument itself, or a field."""
    return f"{argument}->{ports[at].field}" if len(ports) > 1 else argument
