"""What the C library of NPU and CPU computes, compared part by part and end to end.

fp32 model ─ cosine ─► QDQ ─ each region, its operators by themselves ─► TOSA ─ bits ─► streams
C library on a board, streams interpreted ─ integers to the NPU, outputs ─► onnxruntime's parts
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.bundle import Bundle, read_bundled, read_listed
from mbv3c.c_library.archive import ArchiveObject
from mbv3c.c_library.driver import constant_block
from mbv3c.errors import BundleError
from mbv3c.feeds import Array, Feed, only_array
from mbv3c.graphs.load import model_input
from mbv3c.lowering.quantization import Quantization
from mbv3c.parity.compare import agreement
from mbv3c.parity.inputs import USUAL_INPUTS, inputs_of
from mbv3c.parity.reference import ReferenceOutput, error_of_range, run_reference
from mbv3c.parity.verdict import Pair, Pairs
from mbv3c.progress import Progress
from mbv3c.targets.ethos_u import c_source
from mbv3c.targets.ethos_u.compiling import lowering, run_tosa
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.ethos_u.host_parity import HostParity, OutputsAndIntegers
from mbv3c.targets.ethos_u.lowering.device_graph import device_graph
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.made_again import other_versions
from mbv3c.targets.ethos_u.manifest import manifest_of, options_of
from mbv3c.targets.ethos_u.verdict import MadeAgain, OperatorsAlone
from mbv3c.targets.ethos_u.verify import Seen, check_stream, operators_alone, steps_of
from mbv3c.targets.mcu.kit import require_kit
from mbv3c.targets.one_chip.board import FirmwareRunner, host_of
from mbv3c.targets.one_chip.building import stream_changes
from mbv3c.targets.one_chip.chain import Answer, Chain, Remembered
from mbv3c.targets.one_chip.files import other_files
from mbv3c.targets.one_chip.lowering import FirmwareLowered, in_parts, kernels_of
from mbv3c.targets.one_chip.memory import ALIGNMENT
from mbv3c.targets.one_chip.parts import Network
from mbv3c.targets.one_chip.record import library_of, model_name, record_of, tosa_and_stream
from mbv3c.targets.one_chip.runner import answer_of, streams_in
from mbv3c.targets.one_chip.verdict import FirmwareParity, OneChipParity

_ON_BOARD = 2  # inputs


@dataclass(frozen=True)
class Subject:
    """A bundle that is checked, with its model in parts as it gives them again."""

    bundle: Bundle
    device: NpuTarget
    lowered: FirmwareLowered

    @property
    def network(self) -> Network:
        return self.lowered.network

    @property
    def models(self) -> Mapping[int, onnx.ModelProto]:
        """The parts of the CPU, by the number of the part."""
        return self.lowered.models

    def tosa(self, number: int) -> bytes:
        return read_listed(self.bundle, tosa_and_stream(number)[0])


def verify(
    bundle: Bundle,
    device: NpuTarget,
    progress: Progress,
    inputs: list[Feed] | None = None,
    *,
    again: bool,
) -> OneChipParity:
    """Check a bundle, using only the files in the bundle; `inputs` are the user's own.

    `again` has vela compile the streams once more, for comparison.

    Raises:
        Mbv3cError: a tool fails, or the bundle is damaged.
    """
    subject = subject_of(bundle, device)
    given = read_bundled(bundle.model)
    inputs = inputs or inputs_of(given)[:USUAL_INPUTS]
    references = list(run_reference(given, inputs))
    found = _streams(subject, inputs, references)
    progress(f"running the C library on an emulated {host_of(record_of(bundle).host).cpu}")
    firmware = FirmwareParity(not_run="a stream is not what TOSA computes")
    if found.stream_equal is not False:
        firmware = _on_board(subject, inputs[:_ON_BOARD], interpreted=found.stream_equal)
    firmware = replace(firmware, other_constants=tuple(other_constants(subject)))
    made = None
    if again:
        progress("writing the files in C once more")
        made = made_again(subject)
    return replace(found, firmware=firmware, again=made)


def made_again(subject: Subject) -> MadeAgain:
    """Make the files of a bundle once more, and compare.

    Raises:
        Mbv3cError: vela fails, or a file is damaged.
    """
    bundle, device = subject.bundle, subject.device
    differing = (
        *stream_changes(bundle, device, subject.network.regions),
        *other_files(bundle, subject.lowered, device),
    )
    return MadeAgain(differing, other_versions(manifest_of(bundle)) if differing else "")


def subject_of(bundle: Bundle, device: NpuTarget) -> Subject:
    """Cut a bundle's model again.

    Raises:
        BundleError: the bundle is damaged, or has other parts than its model gives.
    """
    options, record = options_of(manifest_of(bundle)), record_of(bundle)
    options = replace(options, float_io=False, artifact="c", host=record.host)
    quantized = device_graph(read_bundled(bundle.compiled_model))
    parts = partition(quantized, lowering(options.knobs.mean, device), may_cut=False)
    network, models = in_parts(quantized, parts)
    if len(network.regions) != len(record.streams):
        raise BundleError(f"{bundle.path} is cut into other parts than its model gives")
    kernels = kernels_of(network, host_of(record.host))
    return Subject(bundle, device, FirmwareLowered(network, parts, models, kernels, options))


def _streams(
    subject: Subject, inputs: list[Feed], references: list[list[ReferenceOutput]]
) -> OneChipParity:
    """Check all but the C library."""
    network, quantized = subject.network, subject.network.model
    regions = network.regions
    given = [name for region in regions for name in region.reads]
    made = [end.made_by for region in regions for end in region.outputs]
    start = _start(quantized, inputs[0])
    seen = Seen(quantized, start, [], [*made, *given])
    plain = seen.plain(inputs)
    both = [(outputs, integers[: len(made)]) for outputs, integers in plain]
    taken = [_by_region(network, integers[len(made) :]) for _, integers in plain]
    tosa = Remembered(lambda number, x: run_tosa(subject.tosa(number), x))
    wanted = [
        [array for number, x in enumerate(own) for array in tosa(number, x)] for own in taken
    ]
    shown = Seen(quantized, start, [], made)
    steps = steps_of(shown, inputs, both, wanted, references)
    chain = Chain(network, subject.models)
    ends = [chain.run(x, tosa) for x in inputs]
    outputs = [[tensors[name] for name in network.outputs] for tensors in ends]
    host = _host(subject, inputs, both, outputs, references)
    alone = max(
        (operators_alone(quantized, region, inputs[0]) for region in regions),
        key=lambda one: one.lsb - one.allowed_lsb,
    )
    count = sum(len(region.single_operators) for region in regions)
    alone = OperatorsAlone(count, alone.worst, alone.lsb, alone.allowed_lsb)
    same = all(subject.tosa(number) == region.tosa for number, region in enumerate(regions))
    near = agreement([y for y, _ in both], references, len(references), [])
    pairs = _pairs(both, outputs, references)
    stream: tuple[bool | None, int, str]
    if not subject.device.interpreted:
        stream = None, 0, "the interpreter knows Ethos-U55 and Ethos-U65-256 only; see docs/npu.md"
    else:
        stream = _interpreted(subject, taken[0], tosa)
    return OneChipParity(steps, alone, same, host, *stream, near, pairs)


def _by_region(network: Network, integers: Sequence[NDArray[Any]]) -> list[list[NDArray[np.int8]]]:
    left = list(integers)
    return [
        [left.pop(0).reshape(end.device_shape) for end in region.inputs]
        for region in network.regions
    ]


def _start(quantized: onnx.ModelProto, x: Feed) -> Quantization:
    """Return the steps of the model's input; without any, those of its range."""
    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    image = model_input(quantized).name
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] == image:
            scale, zero = (
                onnx.numpy_helper.to_array(stored[name]).reshape(()) for name in node.input[1:3]
            )
            return Quantization(float(scale), int(zero))
    return Quantization(max(float(np.ptp(only_array(x))) / 255, 1e-6), 0)


def _host(
    subject: Subject,
    inputs: Sequence[Feed],
    both: Sequence[OutputsAndIntegers],
    outputs: Sequence[Sequence[Array]],
    references: list[list[ReferenceOutput]],
) -> HostParity:
    """Check the parts of the CPU in onnxruntime: as files, and on the integers of QDQ."""
    network, bundle = subject.network, subject.bundle
    same = all(
        read_listed(bundle, model_name(number)) == model.SerializeToString(deterministic=True)
        for number, model in subject.models.items()
    )
    chain, worst = Chain(network, subject.models), 0.0
    for x, (wanted, integers) in zip(inputs, both, strict=True):
        tensors = chain.run(x, partial(_as_seen, network, integers))
        for name, y in zip(network.outputs, wanted, strict=True):
            worst = max(worst, error_of_range(tensors[name], y))
    finite = all(np.isfinite(y).all() for own in outputs for y in own)
    cosine = agreement(list(map(list, outputs)), references).cosine if finite else 0.0
    return HostParity(same, worst, cosine)


def _as_seen(
    network: Network,
    integers: Sequence[NDArray[Any]],
    number: int,
    inputs: Sequence[NDArray[np.int8]],
) -> list[NDArray[Any]]:
    """Answer for a part of the NPU with what the QDQ model has there."""
    counts = [len(region.outputs) for region in network.regions]
    first = sum(counts[:number])
    return list(integers[first : first + counts[number]])


def _pairs(
    both: Sequence[OutputsAndIntegers],
    outputs: Sequence[Sequence[Array]],
    references: list[list[ReferenceOutput]],
) -> Pairs:
    """Return the outputs that TOSA's integers stand for beside those of the QDQ model."""
    return tuple(
        tuple(
            Pair(y, replace(reference, output=output, spread=0.0))
            for y, output, reference in zip(own, model, given, strict=True)
        )
        for own, (model, _), given in zip(outputs, both, references, strict=True)
    )


def _interpreted(
    subject: Subject, taken: Sequence[Sequence[NDArray[np.int8]]], tosa: Answer
) -> tuple[bool | None, int, str]:
    """Interpret every stream on the integers of an input, and on noise."""
    worst: tuple[bool | None, int, str] = True, 0, ""
    rng = np.random.default_rng(20190506)
    for number, region in enumerate(subject.network.regions):
        noise = [rng.integers(-128, 128, x.shape).astype(np.int8) for x in taken[number]]
        given = [taken[number], noise]
        wanted = [list(tosa(number, x)) for x in given]
        raw = subject.bundle.path / tosa_and_stream(number)[1]
        equal, count, said = check_stream(raw, region, given, wanted)
        if equal is not True:
            return equal, count, f"stream {number}: {said}"
        worst = True, count, ""
    return worst


def _on_board(
    subject: Subject, inputs: Sequence[Feed], *, interpreted: bool | None
) -> FirmwareParity:
    """Run the C library on a board, and each part of the CPU in onnxruntime beside it."""
    bundle, network = subject.bundle, subject.network
    record, host = record_of(bundle), host_of(record_of(bundle).host)
    answer = Remembered(
        answer_of(bundle) if interpreted else lambda number, x: run_tosa(subject.tosa(number), x)
    )
    runner = FirmwareRunner(
        require_kit(), host, library_of(bundle), record.needs, streams_in(bundle), answer
    )
    traced = runner.traced(inputs)
    chain = Chain(network, subject.models)
    integers = differing = lsb = 0
    worst = 0.0
    for x, outputs, taken in zip(inputs, traced.outputs, traced.taken, strict=True):
        given: list[Sequence[NDArray[Any]]] = []
        tensors = chain.run(x, partial(_answered_as, answer, taken, given))
        for ours, theirs in zip(taken, given, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                apart = np.abs(a.ravel().astype(np.int32) - b.ravel())
                integers, differing = integers + a.size, differing + int((apart > 0).sum())
                lsb = max(lsb, int(apart.max(initial=0)))
        for name, y in zip(network.outputs, outputs, strict=True):
            worst = max(worst, error_of_range(y, tensors[name]))
    return FirmwareParity(
        runner.description,
        len(inputs),
        len(record.streams),
        integers,
        differing,
        lsb,
        worst,
        stack_bytes=traced.stack_bytes,
    )


def _answered_as(
    answer: Answer,
    taken: Sequence[Sequence[NDArray[np.int8]]],
    given: list[Sequence[NDArray[Any]]],
    number: int,
    inputs: Sequence[NDArray[np.int8]],
) -> Sequence[NDArray[Any]]:
    """Answer for what the board has handed to the NPU, and note what onnxruntime would."""
    given.append(inputs)
    return answer(number, taken[number])


def other_constants(subject: Subject) -> Iterator[str]:
    """Name what of streams and weights in the archive is not what the files and the model give."""
    bundle, record = subject.bundle, record_of(subject.bundle)
    archive = ArchiveObject(library_of(bundle).archive)
    for number in range(len(record.streams)):
        layout = c_source.read_layout(read_listed(bundle, tosa_and_stream(number)[1]))
        for kind in ("commands", "constants"):
            symbol, data = f"{record.prefix}_npu{number}_{kind}", getattr(layout, kind)
            if archive.stored(symbol, len(data)) != data:
                yield f"the {kind} of stream {number}"
    for number, lowered in subject.lowered.kernels.items():
        data = constant_block(lowered, ALIGNMENT).data
        if archive.weights(f"{record.prefix}_cpu{number}", len(data)) != data:
            yield f"the weights of part {number}"
