"""What a bundle with a library says of itself, also where it is for several shapes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from mbv3c.bundle import (
    GOLDEN,
    LIBRARY,
    MODEL,
    QUANTIZED,
    SHAPES,
    Bundle,
    entry_name,
    quantized_name,
    read_bundled,
)
from mbv3c.c_library.record import CLibraryRecord, CSourceRecord
from mbv3c.graphs.load import with_shapes
from mbv3c.graphs.narrow import Stored
from mbv3c.lowering.describe import KernelRecord, MemoryRecord
from mbv3c.manifest import (
    MANIFEST,
    Manifest,
    PassRecord,
    QuantizationRecord,
    TargetRecord,
    TensorRecord,
    TunedKernel,
)
from mbv3c.scratch import scratch_folder


@dataclass(frozen=True)
class LibraryTargetRecord(TargetRecord):
    """The processor that loads the library.

    Attributes:
        triple: LLVM's target triple, with no `native` in it.
        cpu: LLVM's name of the processor.
        cores: the number of cores that one inference may use.
    """

    triple: str
    cpu: str
    cores: int


@dataclass(frozen=True)
class ShapeRecord:
    """What a bundle says of a further shape of its inputs; the fields are those of a manifest.

    Attributes:
        entry: the function of the library that takes inputs of this shape.
        inputs: all inputs, in the model's order.
        own_weight_bytes: the bytes of packed weights that no shape before this one has.
    """

    entry: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    passes: tuple[PassRecord, ...]
    tuned_kernels: tuple[TunedKernel, ...]
    quantization: QuantizationRecord | None
    kernels: tuple[KernelRecord, ...]
    memory: MemoryRecord
    own_weight_bytes: int


@dataclass(frozen=True)
class LibraryManifest(Manifest):
    """The manifest of a bundle with a library.

    Attributes:
        target: the target and its processor.
        kernels: every call of a kernel, in order.
        memory: the memory that an inference takes.
        further_shapes: the shapes of the inputs after the first one.
        c_library: the C library beside the shared one; None without.
        c_source: the C library of C11 beside the shared one; None without.
        without: the instructions that the library does without, of what LLVM takes the processor
            to have, by LLVM's names.
        dense_weights: how the weights of dense layers are stored; empty for as all others.
    """

    target: LibraryTargetRecord
    kernels: tuple[KernelRecord, ...]
    memory: MemoryRecord
    further_shapes: tuple[ShapeRecord, ...] = field(default=(), kw_only=True)
    c_library: CLibraryRecord | None = field(default=None, kw_only=True)
    c_source: CSourceRecord | None = field(default=None, kw_only=True)
    without: tuple[str, ...] = field(default=(), kw_only=True)
    dense_weights: Stored = field(default="", kw_only=True)

    @property
    def asked(self) -> dict[str, Any]:
        shapes = [[record.shape for record in records] for records in self.accepted]
        stored = {"dense_weights": self.dense_weights} if self.dense_weights else {}
        return {**super().asked, "shapes": shapes, **stored}

    @property
    def accepted(self) -> tuple[tuple[TensorRecord, ...], ...]:
        return (self.inputs, *(record.inputs for record in self.further_shapes))

    @property
    def shapes(self) -> tuple["LibraryManifest", ...]:
        """A manifest for each shape of the inputs, which says nothing of the others."""
        first = replace(self, further_shapes=())
        return (
            first,
            *(
                replace(
                    first,
                    input=record.inputs[0],
                    further_inputs=record.inputs[1:],
                    outputs=record.outputs,
                    passes=record.passes,
                    tuned_kernels=record.tuned_kernels,
                    quantization=record.quantization,
                    kernels=record.kernels,
                    memory=record.memory,
                    parity=None,
                )
                for record in self.further_shapes
            ),
        )


def manifest_of(bundle: Bundle) -> LibraryManifest:
    """Return the manifest of a bundle that has a library."""
    assert isinstance(bundle.manifest, LibraryManifest)
    return bundle.manifest


def joined(manifests: Sequence[Manifest], own_weight_bytes: Sequence[int]) -> LibraryManifest:
    """Make one manifest of those of all shapes, of which each adds so many bytes of weights."""
    first, *further = [one for one in manifests if isinstance(one, LibraryManifest)]
    return replace(
        first,
        further_shapes=tuple(
            ShapeRecord(
                entry_name(index),
                one.inputs,
                one.outputs,
                one.passes,
                one.tuned_kernels,
                one.quantization,
                one.kernels,
                one.memory,
                own_weight_bytes[index],
            )
            for index, one in enumerate(further, 1)
        ),
    )


@contextmanager
def programs(bundle: Bundle) -> Iterator[Sequence[Bundle]]:
    """Open a bundle as one for each shape of its inputs; the first is the bundle itself.

    The others lie in folders that go away after, with the files of one shape where a bundle for
    one shape has them.
    """
    _, *further = manifest_of(bundle).shapes
    if not further:
        yield [bundle]
        return
    with scratch_folder("shapes") as place:
        given = read_bundled(bundle.model)
        opened = [bundle]
        for index, manifest in enumerate(further, 1):
            folder = place / str(index) / bundle.path.resolve().name
            opened.append(_laid_out(bundle, index, manifest, given, folder))
        yield opened


def _laid_out(
    bundle: Bundle, index: int, manifest: LibraryManifest, given: onnx.ModelProto, folder: Path
) -> Bundle:
    """Put the files of one shape into a folder, where a bundle for one shape has them."""
    folder.mkdir(parents=True)
    whole = bundle.path.resolve()
    linked = {LIBRARY: LIBRARY, SHAPES: SHAPES, MANIFEST: MANIFEST, GOLDEN: f"{GOLDEN}/{index}"}
    if bundle.quantized:
        linked[QUANTIZED] = quantized_name(index)
    for name, source in linked.items():
        (folder / name).symlink_to(whole / source)
    shapes = {record.name: record.shape for record in manifest.inputs}
    onnx.save(with_shapes(given, shapes), folder / MODEL)
    known = {name: bundle.files.get(source) for name, source in (*linked.items(), (MODEL, MODEL))}
    return Bundle(folder, manifest, {name: digest for name, digest in known.items() if digest})
