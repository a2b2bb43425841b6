"""What an NPU bundle says of itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from mbv3c.bundle import Bundle
from mbv3c.manifest import Manifest, TargetRecord, TensorRecord
from mbv3c.targets.ethos_u.devices import Knobs, NpuOptions
from mbv3c.targets.ethos_u.vela import Cost


@dataclass(frozen=True)
class NpuTargetRecord(TargetRecord):
    """The device, with the memories that were chosen.

    Attributes:
        macs: multiply-accumulates of 8 bits per cycle.
        system_config: a section of vela.ini.
        memory_mode: a section of vela.ini.
        clock_mhz: the clock of the accelerator.
    """

    macs: int
    system_config: str
    memory_mode: str
    clock_mhz: int


@dataclass(frozen=True)
class EndRecord:
    """An input or output of the command stream.

    Attributes:
        name: the tensor's name in the model.
        shape: the extents on the device.
        layout: the order of the extents: NHWC.
        dtype: the element type: int8.
        scale: the step of the integers.
        zero_point: the integer that stands for 0.
        region: the memory region.
        offset: the place in the region, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    layout: str
    dtype: str
    scale: float
    zero_point: int
    region: int
    offset: int


@dataclass(frozen=True)
class PlacementRecord:
    """Where an operator is computed.

    Attributes:
        name: the operator's name.
        nodes: the ONNX nodes that it covers.
        operator: the kind of operator.
        on: `npu` or `cpu`.
        why: why it stays on the CPU; this and what follows is None for operators of the NPU and
            those at its ends.
        change: what to change in the network, so that it does not stay there.
        bytes_from_npu: bytes of the NPU's results that it reads in each inference.
        bytes_to_npu: bytes of its results that the NPU reads.
        parts_before: parts of the NPU whose results it reads.
        parts_behind: parts of the NPU that read its results.
    """

    name: str
    nodes: tuple[str, ...]
    operator: str
    on: str
    why: str | None = None
    change: str | None = None
    bytes_from_npu: int | None = None
    bytes_to_npu: int | None = None
    parts_before: int | None = None
    parts_behind: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; `why` and those behind it only where there is a reason."""
        fields = msgspec.to_builtins(self)
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True)
class BetterRecord:
    """The estimates by which a tuned choice beat the user's own.

    Attributes:
        cycles: cycles of the tuned choice.
        sram_bytes: SRAM of the tuned choice.
        default_cycles: cycles of the user's own choice.
        default_sram_bytes: SRAM of the user's own choice.
    """

    cycles: int
    sram_bytes: int
    default_cycles: int
    default_sram_bytes: int


@dataclass(frozen=True)
class NpuRecord:
    """The command stream and how it was made.

    Attributes:
        inputs: the inputs of the stream.
        outputs: the outputs of the stream.
        constants_region: the memory region of the constants.
        scratch_bytes: the size of every other region, by its number.
        command_stream_bytes: the size of the commands.
        constants_bytes: the size of the constants.
        knobs: the choices for lowering and for vela.
        tuned: what the choice is better than; None if it is the user's own.
        sram_budget_bytes: the budget that was given; None for the device's own.
        placement: where every operator is computed.
        cost: vela's estimates.
        feasible: whether the SRAM that was asked for is kept.
        image_dtype: the element type of the model's own input.
        prefix: what names in C begin with; empty for the default.
    """

    inputs: tuple[EndRecord, ...]
    outputs: tuple[EndRecord, ...]
    constants_region: int
    scratch_bytes: dict[str, int]
    command_stream_bytes: int
    constants_bytes: int
    knobs: Knobs
    tuned: BetterRecord | None
    sram_budget_bytes: int | None
    placement: tuple[PlacementRecord, ...]
    cost: Cost
    feasible: bool
    image_dtype: str = "float32"
    prefix: str = ""

    @property
    def left_to_cpu(self) -> Sequence[PlacementRecord]:
        """The operators that stay on the CPU for a reason."""
        return [operator for operator in self.placement if operator.why]


@dataclass(frozen=True)
class NpuManifest(Manifest):
    """The manifest of an NPU bundle.

    Attributes:
        target: the device.
        host: the file with what stays on the CPU behind the NPU; None if nothing does.
        npu: the command stream.
    """

    target: NpuTargetRecord
    host: str | None
    npu: NpuRecord

    @property
    def asked(self) -> dict[str, Any]:
        knobs = msgspec.to_builtins(self.npu.knobs)
        return {**super().asked, "knobs": knobs, "sram_bytes": self.npu.sram_budget_bytes}

    @property
    def taken(self) -> tuple[TensorRecord, ...]:
        """The image as the model has it: `mbv3c run` quantizes it for the device."""
        return (replace(self.input, dtype=self.npu.image_dtype),)


def options_of(manifest: NpuManifest) -> NpuOptions:
    """Return how a bundle was asked for."""
    return NpuOptions(
        manifest.npu.knobs,
        manifest.npu.sram_budget_bytes,
        float_io=manifest.input.dtype == "float32",
        prefix=manifest.npu.prefix,
    )


def manifest_of(bundle: Bundle) -> NpuManifest:
    """Return the manifest of an NPU bundle."""
    assert isinstance(bundle.manifest, NpuManifest)
    return bundle.manifest
