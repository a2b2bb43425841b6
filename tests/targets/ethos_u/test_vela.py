from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.targets import find_target
from mbv3c.targets.ethos_u.c_source import read_layout
from mbv3c.targets.ethos_u.compiling import lowering, run_tosa
from mbv3c.targets.ethos_u.devices import NPU_TARGETS, Knobs, NpuTarget
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import read_program
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.lowering.tosa_graph import TosaGraph
from mbv3c.targets.ethos_u.placement import npu_part
from mbv3c.targets.ethos_u.vela import build, check_budget, estimate


@pytest.fixture(scope="module")
def tosa(quantized: onnx.ModelProto) -> bytes:
    return partition(quantized).regions[0].tosa


@pytest.mark.parametrize("target", NPU_TARGETS, ids=lambda target: target.device)
def test_every_device_compiles_with_nothing_left_to_the_cpu(target: NpuTarget, tosa: bytes):
    cost, feasible = estimate(tosa, target, Knobs())
    assert feasible
    assert cost.cpu_operators == 0
    assert cost.cycles > 100_000
    assert 0 < cost.sram_bytes <= (target.sram_bytes or 1 << 22)
    # The summary of the network also counts what its layers wait for.
    assert 0 < sum(layer.cycles for layer in cost.layers) <= 2 * cost.cycles


def test_layers_have_the_names_of_onnx_nodes(tosa: bytes, quantized: onnx.ModelProto):
    cost, _ = estimate(tosa, find_target("npu"), Knobs())
    nodes = {node.name for node in quantized.graph.node}
    assert {layer.name.partition("/")[0] for layer in cost.layers} <= nodes


def test_a_build_is_reproducible_and_can_be_read(tosa: bytes, tmp_path: Path):
    target = find_target("npu:ethos-u55-64")
    first, second = (build(tosa, target, Knobs()) for _ in range(2))
    assert first == second
    raw = tmp_path / "model.npz"
    raw.write_bytes(first.raw)
    program, layout = read_program(raw), read_layout(first.raw)
    assert program.accelerator.name == target.device
    assert layout.scratch == dict(program.scratch)
    assert layout.constants.startswith(program.constants.tobytes())
    assert layout.inputs == tuple((one.region, one.offset) for one in program.inputs)


def test_an_arena_that_vela_overshoots_is_not_feasible(tosa: bytes):
    cost, feasible = estimate(tosa, find_target("npu"), Knobs(arena_cache_size=8 << 10))
    assert cost.sram_bytes > 8 << 10
    assert not feasible


def test_a_budget_that_cannot_be_kept_says_what_is_needed(tosa: bytes):
    cost, _ = estimate(tosa, find_target("npu"), Knobs(), 8 << 10)
    with pytest.raises(Mbv3cError, match=r"needs \d+ KiB of SRAM .* allows 8 KiB; the least"):
        check_budget(cost, cost, find_target("npu"), 8 << 10)


def test_a_tuner_gets_cycles_and_sram_of_a_choice(quantized: onnx.ModelProto):
    target = find_target("npu")
    tosa = npu_part(partition(quantized, lowering("pool", target))).tosa
    fast, _ = estimate(tosa, target, Knobs(mean="pool"))
    small, _ = estimate(tosa, target, Knobs(mean="pool", optimise="Size"))
    assert small.sram_bytes < fast.sram_bytes
    assert small.cycles < 1.05 * fast.cycles


def test_what_vela_cannot_read_is_an_error():
    with pytest.raises(ToolError, match="vela failed"):
        build(b"no network", find_target("npu"), Knobs())


def test_convolutions_with_equal_weights_keep_their_biases(tmp_path: Path):
    """PP-OCR's detector v4 adds numbers behind its activations; vela mixed two of them up."""
    graph, weights = TosaGraph(), np.full((1, 1, 16, 1), 127, np.int8)
    y = x = graph.input("x", (1, 2, 2, 16))
    for bias in (300, 900, 600):
        sums = graph.convolution(y, weights, np.full(16, bias, np.int32), 0, depthwise=True)
        y = graph.rescale(sums, 1 / 127, 0, 0)
    tosa, raw = graph.finish([y]), tmp_path / "model.npz"
    raw.write_bytes(build(tosa, find_target("npu"), Knobs()).raw)
    image = np.arange(-32, 32, dtype=np.int8).reshape(x.shape)
    (expected,) = run_tosa(tosa, [image])
    np.testing.assert_array_equal(expected.ravel(), image.ravel() + 2 + 7 + 5)
    (streamed,) = interpret(read_program(raw), [image])
    np.testing.assert_array_equal(streamed.ravel(), expected.ravel())
