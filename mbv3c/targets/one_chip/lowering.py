"""Lower a quantized model in parts: those of the NPU to TOSA, those of the CPU to kernels."""

from dataclasses import dataclass

import onnx

from mbv3c.errors import UsageError
from mbv3c.job import Job
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.onnx_import import check_operators
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.targets.cpu.select_top import taken_in
from mbv3c.targets.ethos_u.accepted import check_types
from mbv3c.targets.ethos_u.compiling import lowering, npu_of
from mbv3c.targets.ethos_u.devices import NpuOptions, NpuTarget
from mbv3c.targets.ethos_u.lowering.device_graph import device_graph
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.lowering.region import Partition
from mbv3c.targets.ethos_u.memories import memories_of
from mbv3c.targets.ethos_u.placement import npu_part
from mbv3c.targets.mcu.building import lower_quantized
from mbv3c.targets.mcu.devices import McuTarget
from mbv3c.targets.one_chip.board import host_of
from mbv3c.targets.one_chip.forms import quantized_graph, reference_model
from mbv3c.targets.one_chip.parts import Network, cut


@dataclass(frozen=True)
class FirmwareLowered:
    """A quantized model in parts, each lowered.

    Attributes:
        network: the parts.
        partition: where each operator is computed.
        models: the parts of the CPU for onnxruntime, by the number of the part.
        kernels: these parts as kernels.
        options: how to compile the parts of the NPU.
    """

    network: Network
    partition: Partition
    models: dict[int, onnx.ModelProto]
    kernels: dict[int, Lowered]
    options: NpuOptions


def lower(prepared: Prepared, job: Job, progress: Progress) -> FirmwareLowered:
    """Cut a quantized model and lower every part.

    Raises:
        UsageError: the NPU's memories are not one.
        ModelError: the model has integers other than int8, or the NPU computes nothing of it.
    """
    target, quantized = npu_of(job), device_graph(prepared.graph)
    options = job.options if isinstance(job.options, NpuOptions) else NpuOptions()
    check_types(quantized, target)
    check_memories(target, options)
    progress("partitioning and lowering to TOSA")
    parts = partition(quantized, lowering(options.knobs.mean, target), may_cut=False)
    network, models = in_parts(quantized, parts)
    progress(f"compiling for {host_of(options.host).cpu} ({len(models)} parts)")
    return FirmwareLowered(
        network, parts, models, kernels_of(network, host_of(options.host)), options
    )


def in_parts(
    quantized: onnx.ModelProto, parts: Partition
) -> tuple[Network, dict[int, onnx.ModelProto]]:
    """Cut a quantized model, and return its parts for the CPU as models.

    Raises:
        ModelError: the NPU computes nothing of it, or it cannot be cut.
    """
    if not parts.regions:
        npu_part(parts)
    network = cut(quantized, parts.regions)
    return network, {
        number: reference_model(network, part)
        for number, part in enumerate(network.parts)
        if part.region is None
    }


def kernels_of(network: Network, host: McuTarget) -> dict[int, Lowered]:
    """Lower the parts of the CPU, by the number of the part.

    Raises:
        ModelError: TVM cannot lower an operator.
    """
    lowered = {}
    for number, part in enumerate(network.parts):
        if part.region is None:
            graph = quantized_graph(network, part)
            check_operators(graph.model, taken_in(graph.model))
            lowered[number] = lower_quantized(graph, host)
    return lowered


def check_memories(target: NpuTarget, options: NpuOptions) -> None:
    """Refuse an NPU whose arena and cache are in two memories.

    Raises:
        UsageError: they are.
    """
    memories = memories_of(target, options.knobs)
    if memories["arena"] != memories["cache"]:
        raise UsageError(
            f"{target.name} has its arena in {memories['arena']} and a cache in "
            f"{memories['cache']}, and --artifact c has one arena: choose a --memory-mode with "
            f"one memory, such as Shared_Sram; known: {', '.join(target.memory_modes)}"
        )


def on_device(job: Job, quantized: onnx.ModelProto) -> frozenset[str] | None:
    """Name the nodes of a quantized model that the NPU computes; None if it is all.

    Raises:
        ModelError: the model cannot be imported.
    """
    options = job.options if isinstance(job.options, NpuOptions) else NpuOptions()
    way = lowering(options.knobs.mean, npu_of(job))
    parts = partition(device_graph(quantized), way, may_cut=False)
    if not parts.on_cpu:
        return None
    operators = (each for region in parts.regions for each in region.operators)
    return frozenset(name for each in operators for name in each.nodes)
