"""The one archive of a network in parts: streams, kernels, and the driver that calls both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbv3c.bundle import Golden
from mbv3c.c_library.archive import measured_object
from mbv3c.c_library.build import DRIVER_FLAGS, Designed, design, write_archive, write_sources
from mbv3c.c_library.golden import VECTORS, write_vectors
from mbv3c.c_library.names import FOLDER, archive_of, distinct, header_of
from mbv3c.c_library.package import cmake_package, pkg_config
from mbv3c.c_library.record import CLibraryRequest
from mbv3c.c_library.run import library_in
from mbv3c.c_library.source import Interface, Port, about, constants_of
from mbv3c.c_library.source import header as c_header
from mbv3c.execution.link import zig_machine
from mbv3c.manifest import Manifest, TensorRecord
from mbv3c.scratch import scratch_folder
from mbv3c.targets.ethos_u import c_source
from mbv3c.targets.ethos_u.compiling import ends_of
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.mcu.building import tvm_target
from mbv3c.targets.mcu.firmware import STACK_BYTES, link_program, sizes_of
from mbv3c.targets.one_chip.board import Stream, host_of, main_source
from mbv3c.targets.one_chip.lowering import FirmwareLowered
from mbv3c.targets.one_chip.memory import ALIGNMENT, Places, plan_places
from mbv3c.targets.one_chip.parts import Network
from mbv3c.targets.one_chip.record import FirmwareRecord, PartRecord, model_name, tosa_and_stream
from mbv3c.targets.one_chip.source import Firmware, driver, header


@dataclass(frozen=True)
class Planned:
    """What the library of a network in parts is like, before anything is compiled.

    Attributes:
        firmware: its header and its driver.
        cores: the libraries of the CPU's parts, by the part's number.
    """

    firmware: Firmware
    cores: Mapping[int, Designed]


def plan_firmware(
    lowered: FirmwareLowered,
    request: CLibraryRequest,
    layouts: Sequence[c_source.StreamLayout],
    target: NpuTarget,
) -> Planned:
    """Say what the library is like.

    Args:
        lowered: the parts.
        request: what the library is for.
        layouts: the command stream of each part of the NPU.
        target: the NPU.
    """
    network, prefix, host = lowered.network, request.prefix, host_of(lowered.options.host)
    cores: dict[int, Designed] = {}
    for number, kernels in lowered.kernels.items():
        part = network.parts[number]
        reads, makes = ([network.edges[name].record() for name in side] for side in part.ends)
        manifest = _with_ends(request.manifest, reads, makes)
        own = replace(request, prefix=f"{prefix}_cpu{number}", labels=(), manifest=manifest)
        cores[number] = design(kernels, tvm_target(host), own, ALIGNMENT)
    arenas = {number: max(1, core.arena.bytes) for number, core in cores.items()}
    places = plan_places(network, layouts, arenas)
    streams = [
        replace(
            c_source.program_of(layout, target, lowered.options, region),
            prefix=f"{prefix}_npu{number}",
            float_io=False,
        )
        for number, (layout, region) in enumerate(zip(layouts, network.regions, strict=True))
    ]
    interfaces = {number: core.interface for number, core in cores.items()}
    interface = _interface(request, places)
    return Planned(Firmware(interface, network, places, streams, interfaces), cores)


def write_firmware_header(firmware: Firmware, folder: Path) -> None:
    """Write what applications include into the folder of a bundle."""
    include = folder / FOLDER / "include"
    include.mkdir(parents=True)
    (include / f"{firmware.own.prefix}.h").write_text(header(firmware))


def write_beside(firmware: Firmware, golden: Golden, needs: Sequence[str], folder: Path) -> None:
    """Write test vectors, and what build systems need, into the folder of a bundle."""
    own, lib = firmware.own, folder / FOLDER / "lib"
    write_vectors(own, golden, folder / FOLDER / VECTORS)
    cmake_package(lib / "cmake" / own.prefix, own.prefix)
    pkg_config(lib / "pkgconfig", own, needs)


def build_firmware(
    lowered: FirmwareLowered,
    request: CLibraryRequest,
    layouts: Sequence[c_source.StreamLayout],
    target: NpuTarget,
    folder: Path,
) -> FirmwareRecord:
    """Build the library into the folder of a bundle.

    Args:
        lowered: the parts.
        request: what the library is for.
        layouts: the command stream of each part of the NPU.
        target: the NPU.
        folder: the folder of the bundle.

    Raises:
        ToolError: a kernel calls TVM's runtime, or the compiler failed.
    """
    with scratch_folder("one-chip") as place:
        return _built(lowered, request, layouts, target, place, folder)


def _built(
    lowered: FirmwareLowered,
    request: CLibraryRequest,
    layouts: Sequence[c_source.StreamLayout],
    target: NpuTarget,
    place: Path,
    folder: Path,
) -> FirmwareRecord:
    network, prefix, host = lowered.network, request.prefix, host_of(lowered.options.host)
    machine = zig_machine(host.triple, host.cpu)
    planned = plan_firmware(lowered, request, layouts, target)
    firmware, cores, places = planned.firmware, planned.cores, planned.firmware.places
    for number, made in cores.items():
        (place / str(number)).mkdir()
        write_sources(made, lowered.kernels[number], tvm_target(host), place / str(number))
        (place / f"{made.interface.prefix}.h").write_text(c_header(made.interface))
    root = folder / FOLDER
    write_firmware_header(firmware, folder)
    (root / "lib").mkdir()
    sources, flags = _sources(firmware, place, root / "include")
    write_archive(sources, machine, place, folder / archive_of(prefix), flags)
    whole = measured_object(place / "whole.o")
    write_beside(firmware, request.golden, whole.needs, folder)
    parts = _part_records(lowered, cores, layouts, place)
    library = library_in(folder, prefix, request.manifest)
    source = main_source(library, streams_of(network, layouts))
    sizes = sizes_of(link_program(library, host, source, place, whole.needs))
    return FirmwareRecord(
        host.name,
        prefix,
        header_of(prefix),
        archive_of(prefix),
        whole.code_bytes,
        whole.constant_bytes,
        places.arena.bytes,
        places.arena.lower_bound,
        ALIGNMENT,
        whole.needs,
        sizes.flash_bytes,
        sizes.sram_bytes,
        STACK_BYTES,
        parts,
    )


def _sources(firmware: Firmware, place: Path, include: Path) -> tuple[list[Path], list[str]]:
    """Write the driver and the streams; return all that is joined, and the compiler's flags."""
    written = {"driver": driver(firmware)}
    for stream in firmware.streams:
        (place / f"{stream.prefix}.h").write_text(c_source.header(stream))
        written[stream.prefix] = c_source.source(stream)
    for name, text in written.items():
        (place / f"{name}.c").write_text(text)
    cores = [place / str(number) for number in firmware.cores]
    sources = [place / f"{name}.c" for name in written]
    sources += [core / name for core in cores for name in ("driver.c", "weights.S", "kernels.o")]
    folders = [each for folder in (place, include, *cores) for each in ("-I", str(folder))]
    return sources, [*DRIVER_FLAGS, *folders]


def _with_ends(
    manifest: Manifest, inputs: Sequence[TensorRecord], outputs: Sequence[TensorRecord]
) -> Manifest:
    first, *further = inputs
    return replace(manifest, input=first, further_inputs=tuple(further), outputs=tuple(outputs))


def _interface(request: CLibraryRequest, places: Places) -> Interface:
    manifest = request.manifest
    inputs, outputs = (
        [
            Port(record.name, field, record.shape, record.dtype)
            for record, field in zip(
                records, distinct([record.name for record in records], kind), strict=True
            )
        ]
        for kind, records in (("input", manifest.inputs), ("output", manifest.outputs))
    )
    return Interface(
        request.prefix,
        about(manifest),
        constants_of(request),
        inputs,
        outputs,
        places.arena.bytes,
        ALIGNMENT,
        shared=False,
        labels=request.labels,
    )


def _part_records(
    lowered: FirmwareLowered,
    cores: Mapping[int, Designed],
    layouts: Sequence[c_source.StreamLayout],
    place: Path,
) -> tuple[PartRecord, ...]:
    records, left = [], list(layouts)
    for number, part in enumerate(lowered.network.parts):
        ends = part.ends
        if part.region is None:
            core, code = (
                cores[number],
                measured_object(place / str(number) / "kernels.o").code_bytes,
            )
            sizes = code, len(core.constants.data), core.arena.bytes
            steps = len(lowered.kernels[number].plan.steps)
            records.append(PartRecord("cpu", (model_name(number),), *ends, *sizes, steps))
            continue
        stream = len(layouts) - len(left)
        layout = left.pop(0)
        sizes = len(layout.commands), len(layout.constants), sum(layout.scratch.values())
        files = tosa_and_stream(stream)
        records.append(PartRecord("npu", files, *ends, *sizes, len(part.region.operators)))
    return tuple(records)


def streams_of(network: Network, layouts: Sequence[c_source.StreamLayout]) -> list[Stream]:
    """Return what a program on a board knows of each call of the NPU."""
    return [
        Stream(
            ends_of(region.inputs, layout.inputs),
            ends_of(region.outputs, layout.outputs),
            tuple(sorted(layout.scratch)),
        )
        for region, layout in zip(network.regions, layouts, strict=True)
    ]
