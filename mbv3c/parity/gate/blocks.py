"""Every block of a network by itself: how far it leads away from the reference.

A block of the library gets the tensors that onnxruntime computes for its inputs, within an
inference of the library, and computes on with what its own kernels make of them. What it hands on
is compared with what onnxruntime hands on there. So an error shows in the block that makes it, and
not in all that follow.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mbv3c.execution.runners import KernelCall, KernelRunner
from mbv3c.feeds import Feed
from mbv3c.lowering.describe import ArgumentRecord, KernelRecord
from mbv3c.parity.kernel_tensors import ReferenceTensors, arguments_of
from mbv3c.parity.metrics import finite
from mbv3c.parity.reference import error_of_range

_PAIR = ("QuantizeLinear", "DequantizeLinear")
# A bottleneck ends without an activation.
_COMPLETING = ("Add", "Clip", "HardSigmoid", "HardSwish", "Relu")
_LINEAR = ("Conv", "BatchNormalization", "Add")
_IMAGE = 4  # rank of [N, C, H, W]
_PART = re.compile(r"[^./]*[./]?")


@dataclass(frozen=True)
class Block:
    """Kernels that follow each other, up to the end of a bottleneck.

    Attributes:
        name: what the names of its nodes have in common, or the first and the last of them.
        first, end: which of the library's kernels it has, the end excluded.
    """

    name: str
    first: int
    end: int


@dataclass(frozen=True)
class BlockErrors:
    """What blocks by themselves have shown.

    Attributes:
        ran_on: what executed the library.
        blocks: the blocks, in the order in which they run.
        errors: per block and input the largest error of what it hands on, over the reference's
            range; None where the reference has no such tensor.
    """

    ran_on: str
    blocks: tuple[Block, ...]
    errors: tuple[tuple[float | None, ...], ...]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the documented keys; an error that is not finite becomes null."""
        return [
            {"block": block.name, "errors": finite(row)}
            for block, row in zip(self.blocks, self.errors, strict=True)
        ]


def find_blocks(model: onnx.ModelProto, kernels: Sequence[KernelRecord]) -> tuple[Block, ...]:
    """Cut the kernels of a library behind every linear convolution or sum with more than a pixel.

    A sum that only adds to what the kernel before it made belongs to that one, and so do an
    activation and a change of layout. What comes before the first depthwise convolution is a
    block, too: the stem.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    ends = [
        index + 1
        for index, kernel in enumerate(kernels)
        if any(_ends_block(tensor, producers) for tensor in _written(kernel))
        and not _is_completed(index, kernels, producers)
        and all(later.nodes for later in kernels[index + 1 : index + 2])  # none is a copy
    ]
    depthwise = (i for i, kernel in enumerate(kernels) if "depthwise" in kernel.kind)
    places = sorted({0, next(depthwise, 0), *ends, len(kernels)})
    return tuple(
        Block(_name([node for kernel in kernels[first:end] for node in kernel.nodes]), first, end)
        for first, end in pairwise(places)
    )


def check_blocks(
    model: onnx.ModelProto,
    kernels: Sequence[KernelRecord],
    inputs: Sequence[Feed],
    runner: KernelRunner,
    bundle: Path,
) -> BlockErrors:
    """Run every block of a bundle's library on the tensors that onnxruntime computes.

    Args:
        model: what the library was made of: rewritten, or quantized.
        kernels: the library's kernels, as its manifest has them.
        inputs: inputs of the model.
        runner: what runs the library.
        bundle: a folder with the library.

    Raises:
        Mbv3cError: the library fails, or is not the one that `kernels` describes.
    """
    blocks = find_blocks(model, kernels)
    columns = [_errors(model, kernels, blocks, x, runner, bundle) for x in inputs]
    return BlockErrors(runner.description, blocks, tuple(zip(*columns, strict=True)))


def _errors(
    model: onnx.ModelProto,
    kernels: Sequence[KernelRecord],
    blocks: Sequence[Block],
    x: Feed,
    runner: KernelRunner,
    bundle: Path,
) -> list[float | None]:
    reference = ReferenceTensors(model, kernels, x)
    calls: list[KernelCall] = []
    for block in blocks:
        inside = kernels[block.first : block.end]
        own = {written.writes for kernel in inside for written in _written(kernel)}
        given = reference.tensors.keys() - own
        handed = _handed_on(block, kernels, model) & reference.tensors.keys()
        calls += [reference.call(kernel, given, handed) for kernel in inside]
    made = runner.run_kernels(bundle, x, calls)
    worst = []
    for block in blocks:
        errors = [
            error_of_range(
                made[index][place].astype(np.float64),
                reference.in_memory(name, argument).ravel().astype(np.float64),
            )
            for index in range(block.first, block.end)
            for place, argument in arguments_of(kernels[index])
            if place in calls[index].wanted and (name := argument.writes) is not None
        ]
        worst.append(max(errors, default=None))
    return worst


def _handed_on(block: Block, kernels: Sequence[KernelRecord], model: onnx.ModelProto) -> set[str]:
    """Return the tensors that others read, or that are outputs of the model."""
    others = [*kernels[: block.first], *kernels[block.end :]]
    read = {
        argument.reads
        for kernel in others
        for _, argument in arguments_of(kernel)
        if argument.reads is not None
    }
    return read | {output.name for output in model.graph.output}


def _written(kernel: KernelRecord) -> list[ArgumentRecord]:
    return [argument for _, argument in arguments_of(kernel) if argument.writes is not None]


def _ends_block(argument: ArgumentRecord, producers: Mapping[str, onnx.NodeProto]) -> bool:
    shape = argument.shape
    height_width = shape[1:3] if argument.channels_last else shape[2:]
    image = len(shape) == _IMAGE and max(height_width) > 1
    return image and _operator(argument.writes, producers) in _LINEAR


def _operator(tensor: str | None, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Return which operator makes a tensor, whatever pairs stand between."""
    node = producers.get(tensor or "")
    while node is not None and node.op_type in _PAIR:
        node = producers.get(node.input[0])
    return node.op_type if node is not None else ""


def _is_completed(
    index: int, kernels: Sequence[KernelRecord], producers: Mapping[str, onnx.NodeProto]
) -> bool:
    """Say whether the next kernel only adds to what one makes, or bends it, for nobody else."""
    made = {argument.writes for argument in _written(kernels[index])}
    readers = [
        later
        for later in kernels[index + 1 :]
        if any(argument.reads in made for _, argument in arguments_of(later))
    ]
    return (
        len(readers) == 1
        and readers[0] is kernels[index + 1]
        and len(readers[0].nodes) == 1
        and all(_operator(made.writes, producers) in _COMPLETING for made in _written(readers[0]))
    )


def _name(nodes: Sequence[str]) -> str:
    """Return what names have in common, up to a dot or a slash, or the first and the last."""
    if not nodes:
        return "(no node)"
    parts = [_PART.findall(node) for node in nodes]
    shared = takewhile(lambda same: len(set(same)) == 1, zip(*parts, strict=False))
    name = "".join(same[0] for same in shared).rstrip("./")
    return name or f"{nodes[0]} … {nodes[-1]}"
