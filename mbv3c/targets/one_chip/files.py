"""The files of a bundle that nothing runs, written once more and compared.

Where floats are rounded, two machines may differ by one integer in a thousand. So what the NPU is
given and gives in the files in C is compared as numbers, and their text with these numbers in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.bundle import Bundle, Golden, read_bundled, read_listed
from mbv3c.c_library.again import check_files
from mbv3c.c_library.archive import ArchiveObject
from mbv3c.c_library.golden import VECTORS
from mbv3c.c_library.names import FOLDER
from mbv3c.manifest import MANIFEST
from mbv3c.parity.golden import check_golden
from mbv3c.parity.inputs import inputs_of
from mbv3c.targets.ethos_u import c_source
from mbv3c.targets.ethos_u.compiling import ends_of, run_tosa
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.ethos_u.manifest import manifest_of
from mbv3c.targets.library.c_request import request_of
from mbv3c.targets.one_chip.building import golden_outputs, scratch_of
from mbv3c.targets.one_chip.chain import Chain
from mbv3c.targets.one_chip.library import (
    Planned,
    plan_firmware,
    write_beside,
    write_firmware_header,
)
from mbv3c.targets.one_chip.lowering import FirmwareLowered
from mbv3c.targets.one_chip.memory import ALIGNMENT
from mbv3c.targets.one_chip.record import record_of, tosa_and_stream
from mbv3c.targets.one_chip.vectors import npu_vectors_of, tensors_in, write_npu_vectors

_LSB = 1
_SHARE = 1e-3  # of the integers of a tensor; of a small one a single integer


def other_files(bundle: Bundle, lowered: FirmwareLowered, target: NpuTarget) -> Iterator[str]:
    """Say which files in C, golden files and lines of the manifest are not what a bundle gives.

    Args:
        bundle: the bundle.
        lowered: its model in parts, lowered again.
        target: its NPU.

    Raises:
        BundleError: a file is damaged, or the golden files are not what `verify` judges by.
    """
    record, network = record_of(bundle), lowered.network
    names = [tosa_and_stream(number)[1] for number in range(len(record.streams))]
    layouts = [c_source.read_layout(read_listed(bundle, name)) for name in names]
    request = request_of(bundle, record.prefix)
    planned = plan_firmware(lowered, request, layouts, target)
    if not _is_described(bundle, planned, layouts):
        yield f"{MANIFEST}: it does not describe the library and the streams that are there"
    path = f"{FOLDER}/{VECTORS}/{npu_vectors_of(record.prefix)}"
    if path not in bundle.files:
        yield f"{path} is missing"
        return
    text = read_listed(bundle, path).decode(errors="replace")
    tensors = tensors_in(text, network)
    if tensors is None:
        yield f"{path} has other tensors than the NPU is given and gives"
        return
    golden, more = _golden(bundle, lowered, tensors)
    check_golden(bundle, golden)
    yield from (f"{path}: {each}" for each in more)
    needs = ArchiveObject(bundle.path / record.archive).measured().needs

    def write(folder: Path) -> None:
        write_firmware_header(planned.firmware, folder)
        write_beside(planned.firmware, request.golden, needs, folder)
        place = folder / FOLDER / VECTORS
        write_npu_vectors(record.prefix, network, layouts, tensors, place)

    yield from check_files(bundle, write, record.archive).differing


def _golden(
    bundle: Bundle, lowered: FirmwareLowered, tensors: Mapping[str, NDArray[np.int8]]
) -> tuple[Golden, list[str]]:
    """Return what the golden files should hold, and what of the NPU's vectors is wrong.

    The NPU's parts go on from the integers of the vectors, where these are near enough.
    """
    network, wrong = lowered.network, list[str]()
    streams = [part for part in network.parts if part.region is not None]

    def answer(number: int, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[Any]]:
        taken, given = ([tensors[name] for name in side] for side in streams[number].ends)
        if any(map(_is_another, taken, inputs)):
            wrong.append(f"call {number} is given other integers")
            taken = list(inputs)
        made = run_tosa(network.regions[number].tosa, taken)
        if not all(map(np.array_equal, given, made)):
            wrong.append(f"call {number} gives other integers")
        return made

    x = inputs_of(read_bundled(bundle.model))[0]
    made = Chain(network, lowered.models).run(x, answer)
    return golden_outputs(network, x, made), wrong


def _is_another(stored: NDArray[np.int8], made: NDArray[np.int8]) -> bool:
    apart = np.abs(stored.astype(np.int32) - made)
    return bool(apart.max() > _LSB or (apart > 0).sum() > max(1, _SHARE * apart.size))


def _is_described(
    bundle: Bundle, planned: Planned, layouts: Sequence[c_source.StreamLayout]
) -> bool:
    """Say whether a manifest has the sizes and places of a library and its streams."""
    record, npu, firmware = record_of(bundle), manifest_of(bundle).npu, planned.firmware
    network, arena = firmware.network, firmware.places.arena
    sizes = ArchiveObject(bundle.path / record.archive).measured()
    own = (
        (record.code_bytes, record.constant_bytes, record.needs),
        (record.arena_bytes, record.arena_lower_bound, record.arena_alignment),
        [(part.on, part.reads, part.makes) for part in record.parts],
        (npu.inputs, npu.outputs, npu.scratch_bytes),
    )
    both = list(zip(network.regions, layouts, strict=True))
    wanted = (
        (sizes.code_bytes, sizes.constant_bytes, sizes.needs),
        (arena.bytes, arena.lower_bound, ALIGNMENT),
        [("npu" if part.region is not None else "cpu", *part.ends) for part in network.parts],
        (
            tuple(end for each, at in both for end in ends_of(each.inputs, at.inputs)),
            tuple(end for each, at in both for end in ends_of(each.outputs, at.outputs)),
            scratch_of(layouts),
        ),
    )
    return own == wanted
