"""Build a network in parts, and hold the whole to the SRAM."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c import bundle as bundles
from mbv3c.bundle import Bundle, Golden, read_listed
from mbv3c.c_library.golden import VECTORS
from mbv3c.c_library.names import FOLDER
from mbv3c.c_library.on_files import bytes_of
from mbv3c.errors import BundleError, ModelError, UsageError
from mbv3c.feeds import Array, Feed
from mbv3c.job import Job
from mbv3c.manifest import Manifest
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.prepare import Prepared
from mbv3c.targets.ethos_u import c_source, vela
from mbv3c.targets.ethos_u.compiling import compiled_by_vela, npu_of, run_tosa
from mbv3c.targets.ethos_u.devices import NpuOptions, NpuTarget
from mbv3c.targets.ethos_u.lowering.region import Region
from mbv3c.targets.ethos_u.made_again import entries_of, stream_differences
from mbv3c.targets.ethos_u.manifest import manifest_of
from mbv3c.targets.ethos_u.memories import VELA_INI
from mbv3c.targets.library.c_request import c_request
from mbv3c.targets.mcu.devices import KIB
from mbv3c.targets.one_chip.chain import Chain
from mbv3c.targets.one_chip.library import build_firmware
from mbv3c.targets.one_chip.lowering import FirmwareLowered
from mbv3c.targets.one_chip.parts import Network
from mbv3c.targets.one_chip.record import FirmwareRecord, model_name, tosa_and_stream
from mbv3c.targets.one_chip.vectors import write_npu_vectors


@dataclass(frozen=True)
class FirmwareBuilt:
    """What was built.

    Attributes:
        lowered: the parts.
        outputs: what vela made of each part of the NPU.
        record: what the manifest says of the library.
    """

    lowered: FirmwareLowered
    outputs: tuple[vela.VelaOutput, ...]
    record: FirmwareRecord


def build(
    prepared: Prepared, lowered: FirmwareLowered, job: Job, tools: Sequence[str], folder: Path
) -> tuple[FirmwareBuilt, Golden]:
    """Build the library and what it is checked with into the folder of a bundle.

    Raises:
        UsageError: the whole takes more SRAM than it may.
        Mbv3cError: vela or the compiler fails.
    """
    target, options, network = npu_of(job), lowered.options, lowered.network
    outputs = tuple(
        _by_vela(region, target, options, number) for number, region in enumerate(network.regions)
    )
    golden, tensors = _golden(lowered, prepared)
    request = c_request(prepared, job, tools, options.prefix, golden)
    layouts = [c_source.read_layout(output.raw) for output in outputs]
    record = build_firmware(lowered, request, layouts, target, folder)
    vectors = folder / FOLDER / VECTORS
    write_npu_vectors(record.prefix, network, layouts, tensors, vectors)
    _write_models(lowered, outputs, target, folder)
    check_sram(record, options, target, request.manifest)
    return FirmwareBuilt(lowered, outputs, record), golden


def _by_vela(
    region: Region, target: NpuTarget, options: NpuOptions, number: int
) -> vela.VelaOutput:
    output = compiled_by_vela(region.tosa, target, options.knobs, options.sram_bytes, tuned=False)
    if output.cost.cpu_operators:
        left = [layer.name for layer in output.cost.layers if not layer.on_npu]
        raise ModelError(
            f"vela leaves these operators of part {number} to the CPU: {', '.join(left)}"
        )
    return output


def _golden(lowered: FirmwareLowered, prepared: Prepared) -> tuple[Golden, dict[str, Array]]:
    """Return an input, and what the parts make of it by TOSA and onnxruntime: all of it, too."""
    network, x = lowered.network, prepared.reference.inputs[0]

    def answer(number: int, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[Any]]:
        return run_tosa(network.regions[number].tosa, inputs)

    tensors = Chain(network, lowered.models).run(x, answer)
    return golden_outputs(network, x, tensors), tensors


def golden_outputs(network: Network, x: Feed, tensors: Mapping[str, Array]) -> Golden:
    """Return the outputs among all tensors that an input gives, and how near others must be."""
    outputs = [tensors[name] for name in network.outputs]
    labels = [not np.issubdtype(y.dtype, np.floating) for y in outputs]
    allowed = [0.0 if whole else TOLERANCES["fp32"].of_range for whole in labels]
    return Golden(x, outputs, allowed, labels)


def scratch_of(layouts: Sequence[c_source.StreamLayout]) -> dict[str, int]:
    """Return the bytes of every region that streams work in, by STREAM:REGION."""
    return {
        f"{number}:{region}": size
        for number, layout in enumerate(layouts)
        for region, size in sorted(layout.scratch.items())
    }


def _write_models(
    lowered: FirmwareLowered,
    outputs: Sequence[vela.VelaOutput],
    target: NpuTarget,
    folder: Path,
) -> None:
    """Write what the library is checked with."""
    network = lowered.network
    models = {model_name(number): model for number, model in lowered.models.items()}
    for name, model in {bundles.QUANTIZED: network.model, **models}.items():
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    for number, (region, output) in enumerate(zip(network.regions, outputs, strict=True)):
        tosa, stream = tosa_and_stream(number)
        (folder / tosa).write_bytes(region.tosa)
        (folder / stream).write_bytes(output.raw)
    if target.vela_config is not None:
        (folder / VELA_INI).write_text(target.vela_config)


def check_sram(
    record: FirmwareRecord, options: NpuOptions, target: NpuTarget, manifest: Manifest
) -> None:
    """Hold the program to the SRAM that was given, now that all sizes are known.

    Raises:
        UsageError: it takes more.
    """
    budget = options.sram_bytes
    if budget is None or record.sram_bytes <= budget:
        return
    sides = manifest.inputs, manifest.outputs
    inputs, outputs = (sum(map(bytes_of, side)) for side in sides)
    raise UsageError(
        f"{target.name} with {record.host} needs {record.sram_bytes:,} bytes of SRAM and may "
        f"take {budget:,} ({budget // KIB} KiB): {record.arena_bytes:,} of arena, {inputs:,} of "
        f"inputs, {outputs:,} of outputs, {record.stack_bytes:,} of stack; try --optimise size, a "
        "smaller --resolution or --width, or more --sram"
    )


def stream_changes(bundle: Bundle, device: NpuTarget, regions: Sequence[Region]) -> Iterator[str]:
    """Have vela compile the streams of a bundle once more, and say what of them is another.

    Raises:
        Mbv3cError: vela fails.
    """
    npu = manifest_of(bundle).npu
    for number, region in enumerate(regions):
        name = tosa_and_stream(number)[1]
        built = compiled_by_vela(
            region.tosa, device, npu.knobs, npu.sram_budget_bytes, tuned=False
        )
        try:
            ours = entries_of(io.BytesIO(read_listed(bundle, name)))
        except (OSError, ValueError, BundleError) as error:
            yield f"{name}: {error}"
            continue
        wanted = entries_of(io.BytesIO(built.raw))
        yield from (f"stream {number}: {text}" for text in stream_differences(ours, wanted))
