"""A bundle with a library in words and in JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from mbv3c.bundle import Bundle, damaged_parity
from mbv3c.c_library.application import FOLDER as APP
from mbv3c.c_library.record import CLibraryRecord, CSourceRecord
from mbv3c.feeds import shape_text
from mbv3c.lowering.describe import KernelRecord, MemoryRecord
from mbv3c.lowering.plan import DEFAULT, TRANSFERRED, TUNED
from mbv3c.parity.verdict import sentence
from mbv3c.targets.backend import Backend, Compiled, Description
from mbv3c.targets.library.manifest import LibraryManifest, manifest_of

_FALLBACK = "fallback"
_SHOWN = 8  # names in a line


def describe_compiled(backend: Backend, compiled: Compiled, *, explain: bool) -> Description:
    """Add to what every backend says of a compiled bundle: its kernels."""
    plain = Backend.describe_compiled(backend, compiled, explain=explain)
    manifest = manifest_of(compiled.bundle)
    kernels, further = manifest.kernels, manifest.further_shapes
    first, *rest = plain.lines
    lines = [*(all_kernel_lines(manifest) if explain else ()), first, *shape_lines(manifest)]
    origins = Counter(kernel.origin for kernel in kernels if kernel.origin)
    if origins[TUNED] or origins[TRANSFERRED]:
        lines.append(
            f"kernels: {origins[TUNED]} tuned, {origins[TRANSFERRED]} transferred, "
            f"{origins[DEFAULT]} by default rules"
        )
    if compiled.bundle.precision.quantized:
        lines += float_lines(kernels)
    explained = {"kernels": msgspec.to_builtins(kernels)} if explain else {}
    if manifest.c_library is not None:
        lines.append(c_library_line(manifest.c_library))
        explained["c_library"] = msgspec.to_builtins(manifest.c_library)
    if manifest.c_source is not None:
        lines.append(c_source_line(manifest.c_source))
        explained["c_source"] = msgspec.to_builtins(manifest.c_source)
    app = [name for name in compiled.bundle.files if name.startswith(f"{APP}/")]
    if app:
        lines.append(
            f"application: {APP}, {len(app)} files in C11 that call model.so, with a build"
        )
    if further:
        explained["shapes"] = shape_rows(manifest, explain=explain)
    return Description([*lines, *rest], {**plain.document, **explained})


def shape_rows(manifest: LibraryManifest, *, explain: bool) -> list[dict[str, Any]]:
    """Return the documented form of the shapes of a bundle; of one without further ones, none."""
    if not manifest.further_shapes:
        return []
    own = [
        manifest.memory.weight_bytes,
        *(one.own_weight_bytes for one in manifest.further_shapes),
    ]
    return [
        {
            "shape": shape_text(record.shape for record in one.inputs),
            "weight_bytes": one.memory.weight_bytes,
            "own_weight_bytes": size,
            "arena_bytes": one.memory.arena_bytes,
            **({"kernels": msgspec.to_builtins(one.kernels)} if explain else {}),
        }
        for one, size in zip(manifest.shapes, own, strict=True)
    ]


def shape_lines(manifest: LibraryManifest) -> list[str]:
    """Say for which shapes a bundle was compiled, and what they share; nothing of a single one."""
    rows = shape_rows(manifest, explain=False)
    if not rows:
        return []
    apart, stored = (sum(row[key] for row in rows) for key in ("weight_bytes", "own_weight_bytes"))
    shapes = ", ".join(row["shape"] for row in rows)
    return [
        f"{len(rows)} shapes: {shapes}; {stored:,} bytes of weights in one library, in "
        f"{len(rows)} libraries {apart:,}"
    ]


def c_library_line(record: CLibraryRecord) -> str:
    """Say what a C library takes on a device."""
    needs = f"; it needs {', '.join(record.needs)}" if record.needs else ""
    return (
        f"C library: {record.archive}, {record.code_bytes:,} bytes of code, "
        f"{record.constant_bytes:,} of constants, {_arena(record)}, no start-up{needs}"
    )


def c_source_line(record: CSourceRecord) -> str:
    """Say what a C library of C11 takes."""
    needs = f"; it needs {', '.join(record.needs)} of math.h" if record.needs else ""
    return (
        f"C sources: {record.sources[0].rpartition('/')[0]}, {record.source_bytes:,} bytes of "
        f"text, {record.constant_bytes:,} of constants, {_arena(record)}, no start-up{needs}"
    )


def _arena(record: CLibraryRecord | CSourceRecord) -> str:
    arena = f"{record.arena_bytes:,} bytes of arena"
    if record.arena_bytes > record.arena_lower_bound:
        arena += f" ({record.arena_lower_bound:,} are in use at once)"
    return arena


# Kernels of a quantized network that compute its sums of products in fp32.
_INTEGER, _MUCH = "integer_", 0.05


def float_lines(kernels: Sequence[KernelRecord]) -> list[str]:
    """Say which multiply-adds of a quantized network are computed in fp32, if any are."""
    total = sum(kernel.madds for kernel in kernels)
    left = [kernel for kernel in kernels if kernel.madds and not kernel.kind.startswith(_INTEGER)]
    if not left:
        return []
    share = sum(kernel.madds for kernel in left) / total
    nodes = [node for kernel in left for node in kernel.nodes]
    more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    them = "1 kernel with" if len(left) == 1 else f"{len(left)} kernels with"
    compute = "computes" if len(left) == 1 else "compute"
    return [
        f"{'WARNING: ' if share > _MUCH else ''}{them} {share:.1%} of the multiply-adds "
        f"{compute} in fp32: {', '.join(nodes[:_SHOWN])}{more}"
    ]


def _recorded(bundle: Bundle, parity: dict[str, Any]) -> str:
    """Say the verdict that a manifest holds.

    Raises:
        BundleError: it is not in the documented form.
    """
    try:
        return sentence(parity)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged_parity(bundle) from error


def describe_bundle(bundle: Bundle) -> Description:
    """Say what a bundle consists of: its kernels and its memory."""
    manifest = manifest_of(bundle)
    target, parity = manifest.target, manifest.parity
    lines = [
        f"{bundle.path}: {manifest.model.name} for {target.name} ({target.cpu}, {target.cores} "
        f"cores), {manifest.precision}",
        *shape_lines(manifest),
        "",
        *kernel_lines(manifest.kernels),
        "",
        *memory_lines(manifest.memory),
        *([c_library_line(manifest.c_library)] if manifest.c_library else []),
        *([c_source_line(manifest.c_source)] if manifest.c_source else []),
        "",
        f"parity: {_recorded(bundle, parity)}" if parity else "parity: not checked",
    ]
    keys = ("model", "target", "precision", "input", "outputs", "kernels", "memory", "parity")
    document = msgspec.to_builtins(manifest)
    rows = shape_rows(manifest, explain=True)
    further = {"shapes": rows} if rows else {}
    if manifest.c_library is not None:
        further["c_library"] = document["c_library"]
    if manifest.c_source is not None:
        further["c_source"] = document["c_source"]
    return Description(lines, {key: document[key] for key in keys} | further)


def kernel_lines(kernels: Sequence[KernelRecord]) -> list[str]:
    """Return one line per kernel call, and what no kernel of ours covers."""
    wide = max((len(kernel.kernel) for kernel in kernels), default=0) + 2
    lines = [f"{'kernel':<{wide}}{'multiply-adds':>14}{'KiB moved':>11}  covers"]
    for kernel in kernels:
        nodes = ", ".join(kernel.nodes) or "(layout)"
        knobs = ", ".join(f"{name} {value}" for name, value in kernel.knobs.items())
        knobs += "; tuned" if kernel.origin == TUNED else ""
        shown = f"{nodes} [{knobs}]" if knobs else nodes
        lines.append(
            f"{kernel.kernel:<{wide}}{kernel.madds:>14,}{kernel.bytes / 1024:>11,.0f}  {shown}"
        )
    total = sum(kernel.madds for kernel in kernels)
    lines.append(f"{'total':<{wide}}{total:>14,}  in {len(kernels)} calls")
    operators = [kernel for kernel in kernels if kernel.kind == _FALLBACK]
    searched = sum(kernel.origin == TUNED for kernel in operators)
    fallen = dict.fromkeys(node for kernel in operators for node in kernel.nodes)
    if fallen:
        how = f"; {searched} of {len(operators)} as MetaSchedule found them" if searched else ""
        lines.append(
            f"compiled by TVM's own operators, by a general schedule{how}: {', '.join(fallen)}"
        )
    return lines


def all_kernel_lines(manifest: LibraryManifest) -> list[str]:
    """Return the lines of every shape's kernels, below the shape where there are several."""
    lines = list[str]()
    for one in manifest.shapes:
        if manifest.further_shapes:
            lines.append(f"for inputs of {shape_text(record.shape for record in one.inputs)}:")
        lines += kernel_lines(one.kernels)
    return lines


def _plain(value: str) -> str:
    """Return the name of a value without the ending that quantization gave to it."""
    return value.replace("_DequantizeLinear_Output", "")


def memory_lines(memory: MemoryRecord) -> list[str]:
    """Return sums of the memory, then one line per value."""
    bound = memory.arena_lower_bound
    ratio = memory.arena_bytes / bound if bound else 1.0
    return [
        f"weights: {memory.weight_bytes:,} bytes, packed",
        f"activation arena: {memory.arena_bytes:,} bytes in {len(memory.arena_blocks)} "
        f"blocks, {ratio:.2f} times the largest sum of values alive at once ({bound:,})",
        f"{'bytes':>12}{'block':>7}{'alive in calls':>16}  value",
        *(
            f"{value.bytes:>12,}{value.block:>7}"
            f"{str(value.first) + '-' + str(value.last):>16}  {_plain(value.value)}"
            for value in memory.values
        ),
    ]
