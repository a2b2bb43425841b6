"""The driver of a C library: it calls the kernels one after another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template

from mbv3c.c_library.labels import defined
from mbv3c.c_library.memory import FlatArena
from mbv3c.c_library.raw_pointers import RawKernel
from mbv3c.c_library.source import Interface, pointer
from mbv3c.execution.features import lacking_in_c
from mbv3c.lowering.lower import Lowered
from mbv3c.quoting import for_comment


@dataclass(frozen=True)
class Constants:
    """The weights of a network as one block of bytes.

    Attributes:
        data: the bytes.
        offsets: where the constants of each step begin, by their position among its arguments.
    """

    data: bytes
    offsets: Sequence[dict[int, int]]


def constant_block(lowered: Lowered, alignment: int) -> Constants:
    """Collect the constants of all steps, equal ones once."""
    data, known, offsets = bytearray(), dict[bytes, int](), list[dict[int, int]]()
    for step in lowered.plan.steps:
        places = {}
        for place, array in step.constants.items():
            content = array.tobytes()
            if content not in known:
                data += bytes(-len(data) % alignment)
                known[content] = len(data)
                data += content
            places[place] = known[content]
        offsets.append(places)
    return Constants(bytes(data), offsets)


@dataclass(frozen=True)
class Calls:
    """How a driver reaches what is not in its file.

    Attributes:
        declared: lines that declare it.
        defined: lines at the beginning of an inference.
        weight: the pointer to a constant, by the step and the place among its arguments.
        memory: the pointer to an offset in the arena.
        pointer: the type of pointers to anything, and one of them as an argument.
        copy: the function that copies bytes.
    """

    declared: Sequence[str]
    defined: Sequence[str]
    weight: Callable[[int, int], str]
    memory: Callable[[int], str]
    pointer: tuple[str, str]
    copy: str


def calls_of_object(
    own: Interface, lowered: Lowered, kernels: Mapping[str, RawKernel], constants: Constants
) -> Calls:
    """Return how a driver reaches kernels and weights that are objects beside it."""
    return Calls(
        list(_hidden(own.prefix, lowered, kernels)),
        [
            f"  unsigned char *const weights = (unsigned char *){own.prefix}_weights;",
            "  unsigned char *const at = arena;",
            "  (void)weights;",
        ],
        lambda step, place: f"weights + {constants.offsets[step][place]}",
        lambda offset: f"at + {offset}",
        ("void *", "pointers[{}]"),
        "__builtin_memcpy",
    )


def _hidden(prefix: str, lowered: Lowered, kernels: Mapping[str, RawKernel]) -> Iterator[str]:
    yield '#define HIDDEN __attribute__((visibility("hidden")))'
    yield f"extern HIDDEN const unsigned char {prefix}_weights[];"
    for name, count in _counts(lowered, kernels).items():
        for segment in kernels[name].segments:
            pointers = ["void *"] * count + ["int64_t"] * (2 if segment.turns else 0)
            yield f"HIDDEN void {segment.function}({', '.join(pointers)});"


def _counts(lowered: Lowered, kernels: Mapping[str, RawKernel]) -> dict[str, int]:
    """Return how many pointers each kernel takes."""
    return {
        name: len(step.arguments) + len(kernels[name].scratch)
        for name, step in zip(lowered.kernels, lowered.plan.steps, strict=True)
    }


def driver(
    own: Interface,
    lowered: Lowered,
    kernels: Mapping[str, RawKernel],
    arena: FlatArena,
    calls: Calls,
) -> str:
    """Return the text of the source that calls the kernels."""
    return "\n".join(_driver(own, lowered, kernels, arena, calls)) + "\n"


def _driver(
    own: Interface,
    lowered: Lowered,
    kernels: Mapping[str, RawKernel],
    arena: FlatArena,
    calls: Calls,
) -> Iterator[str]:
    prefix = own.prefix
    yield f'#include "{prefix}.h"'
    yield ""
    if own.features:
        yield lacking_in_c(own.features)
        yield _ABLE.substitute(prefix=prefix)
    yield from calls.declared
    for name, count in _counts(lowered, kernels).items():
        for segment in kernels[name].segments:
            if segment.turns:
                yield from _task(segment.function, count, calls)
    if own.shared:
        yield ""
        yield f"static void share(const {prefix}_parallel_t *parallel, {prefix}_task_t task,"
        yield "    void *work, int64_t turns) {"
        yield "  if (parallel != NULL && parallel->run != NULL) {"
        yield "    parallel->run(parallel->pool, task, work, turns);"
        yield "  } else {"
        yield "    task(work, 0, turns);"
        yield "  }"
        yield "}"
    yield ""
    yield (
        f"int {prefix}_run_parallel(const {prefix}_input_t *in, {prefix}_output_t *out, "
        "void *arena,"
    )
    yield f"    size_t arena_bytes, const {prefix}_parallel_t *parallel) {{"
    yield from _checks(own)
    yield from calls.defined
    yield "  (void)at;"
    yield "  (void)parallel;"
    ends, copies = _ends(own, lowered, calls.copy)
    for number, (name, step) in enumerate(zip(lowered.kernels, lowered.plan.steps, strict=True)):
        pointers = [
            ends.get(argument) or calls.memory(arena.offsets[argument])
            if isinstance(argument, str)
            else calls.weight(number, place)
            for place, argument in enumerate(step.arguments)
        ]
        kernel = kernels[name]
        pointers += [
            calls.memory(arena.offsets[number, buffer]) for buffer in range(len(kernel.scratch))
        ]
        yield f"  /* {for_comment(', '.join(step.nodes) or step.kind)} */"
        for segment in kernel.segments:
            if segment.turns:
                yield (
                    f"  share(parallel, {segment.function}_task, "
                    f"({calls.pointer[0]}[]){{{', '.join(pointers)}}}, {segment.turns});"
                )
            else:
                yield f"  {segment.function}({', '.join(pointers)});"
    yield from copies
    yield f"  return {own.macro('OK')};"
    yield "}"
    yield ""
    yield f"int {prefix}_run(const {prefix}_input_t *in, {prefix}_output_t *out, void *arena) {{"
    yield f"  return {prefix}_run_parallel(in, out, arena, {own.macro('ARENA_BYTES')}, NULL);"
    yield "}"
    yield from defined(prefix, own.labels)


def _task(function: str, count: int, calls: Calls) -> Iterator[str]:
    kind, argument = calls.pointer
    yield f"static void {function}_task(void *work, int64_t first, int64_t end) {{"
    yield f"  {kind}*pointers = work;"
    pointers = [argument.format(at) for at in range(count)]
    yield f"  {function}({', '.join([*pointers, 'first', 'end'])});"
    yield "}"


# The processor is asked once; threads that ask it at the same time write the same.
_ABLE = Template("""\
const char *${prefix}_lacking(void) {
  unsigned from = 0;
  return lacking(&from);
}

static int is_able(void) {
  static char able;
  if (__atomic_load_n(&able, __ATOMIC_RELAXED)) return 1;
  if (${prefix}_lacking() != NULL) return 0;
  __atomic_store_n(&able, 1, __ATOMIC_RELAXED);
  return 1;
}
""")


def _checks(own: Interface) -> Iterator[str]:
    pointers = ["in", "out", "arena"]
    for argument, ports in (("in", own.inputs), ("out", own.outputs)):
        if len(ports) > 1:
            pointers += [f"{argument}->{port.field}" for port in ports]
    for given in pointers:
        yield f"  if ({given} == NULL) return {own.macro('NULL_POINTER')};"
    aligned = f"(uintptr_t)arena % {own.macro('ARENA_ALIGNMENT')} != 0"
    yield f"  if ({aligned}) return {own.macro('ARENA_MISALIGNED')};"
    small = f"arena_bytes < {own.macro('ARENA_BYTES')}"
    yield f"  if ({small}) return {own.macro('ARENA_TOO_SMALL')};"
    if own.features:
        yield f"  if (!is_able()) return {own.macro('NO_FEATURE')};"


def _ends(own: Interface, lowered: Lowered, copy: str) -> tuple[dict[str, str], list[str]]:
    """Return the pointer to each input and output, by the value's name, and copies at the end.

    An output is copied that is an input, too, or a value that another output is already.
    """
    pointers = {
        value: f"(void *){pointer('in', own.inputs, at)}"
        for at, value in enumerate(lowered.plan.inputs)
    }
    copies = []
    for at, value in enumerate(lowered.plan.outputs):
        place = pointer("out", own.outputs, at)
        if value in pointers:
            size = lowered.plan.values[value].bytes
            copies.append(f"  {copy}({place}, {pointers[value]}, {size});")
        pointers.setdefault(value, f"(void *){place}")
    return pointers, copies
