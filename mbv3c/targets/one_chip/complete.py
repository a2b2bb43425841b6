"""What the manifest says of a network in parts."""

from collections.abc import Sequence
from dataclasses import replace

from mbv3c.job import Job
from mbv3c.manifest import Manifest
from mbv3c.targets.ethos_u import c_source
from mbv3c.targets.ethos_u.compiling import ends_of, npu_of
from mbv3c.targets.ethos_u.manifest import NpuRecord, NpuTargetRecord
from mbv3c.targets.ethos_u.placement import placed
from mbv3c.targets.ethos_u.vela import Cost
from mbv3c.targets.one_chip.building import FirmwareBuilt, scratch_of
from mbv3c.targets.one_chip.record import OneChipManifest


def complete(manifest: Manifest, built: FirmwareBuilt, job: Job) -> OneChipManifest:
    """Add to a manifest what a bundle with a C library of NPU and CPU says of itself."""
    lowered, target = built.lowered, npu_of(job)
    options, regions, parts = lowered.options, lowered.network.regions, lowered.partition
    layouts = [c_source.read_layout(output.raw) for output in built.outputs]
    operators = [operator for region in regions for operator in region.operators]
    both = list(zip(regions, layouts, strict=True))
    npu = NpuRecord(
        inputs=tuple(end for each, at in both for end in ends_of(each.inputs, at.inputs)),
        outputs=tuple(end for each, at in both for end in ends_of(each.outputs, at.outputs)),
        constants_region=layouts[0].constants_region,
        scratch_bytes=scratch_of(layouts),
        command_stream_bytes=sum(len(layout.commands) for layout in layouts),
        constants_bytes=sum(len(layout.constants) for layout in layouts),
        knobs=options.knobs,
        tuned=None,
        sram_budget_bytes=options.sram_bytes,
        placement=tuple(placed(one) for one in (*operators, *parts.on_cpu, *parts.ends)),
        cost=_together([output.cost for output in built.outputs]),
        feasible=all(output.feasible for output in built.outputs),
        image_dtype=manifest.input.dtype,
        prefix=built.record.prefix,
    )
    record = NpuTargetRecord(
        target.name,
        target.macs,
        options.knobs.system_config or target.system_config,
        options.knobs.memory_mode or target.memory_mode,
        target.clock_mhz,
    )
    given = vars(manifest) | {"target": record}
    return OneChipManifest(**given, host=None, npu=npu, c_library=built.record)


def _together(costs: Sequence[Cost]) -> Cost:
    """Add the costs of streams that run one after another, in memory that they share."""
    first = costs[0]
    return replace(
        first,
        cycles=sum(cost.cycles for cost in costs),
        milliseconds=sum(cost.milliseconds for cost in costs),
        sram_bytes=max(cost.sram_bytes for cost in costs),
        dram_bytes=max(cost.dram_bytes for cost in costs),
        flash_bytes=sum(cost.flash_bytes for cost in costs),
        macs=sum(cost.macs for cost in costs),
        layers=tuple(layer for cost in costs for layer in cost.layers),
    )
