"""Every constant in a library is the model's, by an independent rule and to the last bit."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from mbv3c.bundle import LIBRARY, MAIN
from mbv3c.errors import BundleError
from mbv3c.execution.executable import LinkedCall, read_calls
from mbv3c.execution.native.layout import MAGIC
from mbv3c.job import Job
from mbv3c.lowering.describe import KernelRecord, kernels_of
from mbv3c.lowering.lower import Lowered
from mbv3c.parity.constants import Packed, check_constants
from mbv3c.precision import FP32, INT8
from mbv3c.prepare import rewritten_for
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.cpu.backend import build
from mbv3c.targets.library.building import build_library
from tests.execution.native.libraries import build_for_vm, small
from tests.quantized_networks import HOST_TARGET, quantized, random

ARM = replace(find_target("arm_cpu:cortex-a76"), cores=1)
LANES = 4  # of fp32 in a vector of NEON

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def graph(blocks: onnx.ModelProto) -> onnx.ModelProto:
    return rewritten_for(blocks, FP32)[0]


@pytest.fixture(scope="module")
def library(
    graph: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Lowered]:
    """Return a library for a processor that this machine may not have, and what it was made of."""
    path = tmp_path_factory.mktemp("arm") / LIBRARY
    return path, build_library(backend_of(ARM), graph, Job(ARM, FP32), path).lowered


def panels(columns: int, most: int) -> list[range]:
    """Return the columns of every panel: as even as at most so many vectors allow."""
    vectors = columns // LANES
    count = 1
    while count * most < vectors:
        count += 1
    starts, first = [], 0
    for panel in range(count):
        starts.append(first)
        while first * count < vectors * (panel + 1):
            first += 1
    return [
        range(start * LANES, end * LANES)
        for start, end in zip(starts, [*starts[1:], vectors], strict=True)
    ]


def packed_slowly(kernel: KernelRecord, weights: Floats) -> list[float]:
    """Write weights [N, C, R, S] one after the other in the order in which a kernel reads them."""
    outputs, inputs, down, right = weights.shape
    if kernel.kind == "depthwise":
        return [
            float(weights[c, 0, r, s])
            for r in range(down)
            for s in range(right)
            for c in range(outputs)
        ]
    return [
        float(weights[n, c, r, s])
        for panel in panels(outputs, kernel.knobs["vectors"])
        for c in range(inputs)
        for r in range(down)
        for s in range(right)
        for n in panel
    ]


def test_weights_lie_as_an_independent_rule_says(
    graph: onnx.ModelProto, library: tuple[Path, Lowered]
) -> None:
    stored = {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}
    convolutions = {node.name: node for node in graph.graph.node if node.op_type == "Conv"}
    kinds = set()
    path, lowered = library
    for kernel, call in zip(kernels_of(lowered), read_calls(path, MAIN), strict=True):
        assert call.kernel == kernel.kernel
        arrays = [one.values.ravel() for one in call.arguments if one is not None]
        nodes = [convolutions[name] for name in kernel.nodes if name in convolutions]
        for index, node in enumerate(nodes):
            weights, bias = stored[node.input[1]], stored[node.input[2]]
            np.testing.assert_array_equal(arrays[2 * index], packed_slowly(kernel, weights))
            np.testing.assert_array_equal(arrays[2 * index + 1], bias)
            kinds.add(kernel.kind)
    assert kinds == {"convolution", "depthwise", "pointwise", "squeeze_excite"}


def records_and_packed(lowered: Lowered) -> tuple[tuple[KernelRecord, ...], list[Packed]]:
    return kernels_of(lowered), [step.constants for step in lowered.plan.steps]


def test_integers_are_compared_too(tmp_path: Path) -> None:
    path = tmp_path / LIBRARY
    job = Job(HOST_TARGET, INT8)
    model = quantized(
        "g (float[1, 8, 4, 4] x) => (float[1, 16, 4, 4] y) { [one] y = Conv(x, w) }",
        w=random(16, 8, 1, 1),
    )
    built = build_library(backend_of(HOST_TARGET), model, job, path)
    records, packed = records_and_packed(built.lowered)
    found = check_constants(records, packed, read_calls(path, MAIN))
    assert found.passed
    assert found.count == sum(map(len, packed)) > 0
    constant = next(
        one
        for record, call in zip(records, read_calls(path, MAIN), strict=True)
        if record.kind == "integer_pointwise"
        for one in call.arguments
        if one is not None
    )
    data = bytearray(path.read_bytes())
    data[constant.offset] ^= 1  # one step
    path.write_bytes(data)
    (fault,) = check_constants(records, packed, read_calls(path, MAIN)).faults
    assert (fault.differing, fault.values) == (1, constant.values.size)


def test_one_bit_is_named(library: tuple[Path, Lowered], tmp_path: Path) -> None:
    path, lowered = library
    records, packed = records_and_packed(lowered)
    at, place = next(
        (at, place)
        for at, record in enumerate(records)
        if record.kind == "squeeze_excite"
        for place in packed[at]
    )
    constant = read_calls(path, MAIN)[at].arguments[place]
    assert constant is not None
    data = bytearray(path.read_bytes())
    data[constant.offset + 4] ^= 1  # the last bit of the second weight
    forged = tmp_path / LIBRARY
    forged.write_bytes(data)
    found = check_constants(records, packed, read_calls(forged, MAIN))
    (fault,) = found.faults
    assert (fault.kernel, fault.nodes) == (records[at].kernel, records[at].nodes)
    assert (fault.argument, fault.differing) == (place, 1)
    assert f"differs in 1 of {constant.values.size} elements, first at [1]" in fault.said
    assert found.to_json()["passed"] is False


def test_calls_of_other_kernels_and_constants(library: tuple[Path, Lowered]) -> None:
    path, lowered = library
    records, packed = records_and_packed(lowered)
    calls = read_calls(path, MAIN)
    swapped = (calls[1], calls[0], *calls[2:])
    assert "other kernels" in check_constants(records, packed, swapped).missed[0]
    bare = (LinkedCall(calls[0].kernel, tuple(None for _ in calls[0].arguments)), *calls[1:])
    assert len(check_constants(records, packed, bare).faults) == len(packed[0])
    assert "is missing" in check_constants(records, packed, bare).missed[0]
    narrow = [{place: one.astype(np.float16) for place, one in each.items()} for each in packed]
    assert "and the model gives float16" in check_constants(records, narrow, calls).missed[0]


def test_what_is_no_program_is_refused(library: tuple[Path, Lowered], tmp_path: Path) -> None:
    data = library[0].read_bytes()
    forged = tmp_path / LIBRARY
    refused_of(data, MAGIC, 1500, forged)
    with pytest.raises(BundleError, match="it has 0 functions 'main_7'"):
        read_calls(library[0], "main_7")


def refused_of(data: bytes, magic: bytes, reach: int, forged: Path) -> None:
    """Damage a program, and demand that each fault that is seen is told in words."""
    start = data.index(magic)
    broken = [data[:start], data + data[start : start + 8], data[: start + reach]]
    rng = np.random.default_rng(0)
    for _ in range(50):
        flipped = bytearray(data)
        flipped[start + 8 + int(rng.integers(reach - 8))] ^= 1 << int(rng.integers(8))
        broken.append(bytes(flipped))
    refused = 0
    for each in broken:
        forged.write_bytes(each)
        try:
            read_calls(forged, MAIN)
        except BundleError as error:
            assert "compile it again" in str(error)
            refused += 1
    assert refused > 3


def test_libraries_without_a_driver_are_read_too(tmp_path: Path) -> None:
    """GPUs' are such, and those in bundles of mbv3c before."""
    lowered, paths = small(), (tmp_path / "old.so", tmp_path / "new.so")
    build_for_vm(lowered, paths[0])
    build(lowered.module, HOST_TARGET, paths[1])
    old, new = (read_calls(path, MAIN) for path in paths)
    assert [call.kernel for call in old] == [call.kernel for call in new] == [*lowered.kernels]
    records, packed = records_and_packed(lowered)
    for calls in (old, new):
        assert check_constants(records, packed, calls).passed
    magic = struct.pack("<Q", 0xD225DE2F4214151E)
    refused_of(paths[0].read_bytes(), magic, 1000, tmp_path / LIBRARY)
