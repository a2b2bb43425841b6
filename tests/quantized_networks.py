"""Small quantized networks, and what every test of integer kernels does with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from mbv3c.execution.host import HostRunner
from mbv3c.job import Job
from mbv3c.lowering.arena import plan_arena
from mbv3c.lowering.lower import assemble
from mbv3c.lowering.plan import Plan
from mbv3c.lowering.qdq import read_pairs
from mbv3c.lowering.unchecked import without_checks
from mbv3c.parity.reference import run, session
from mbv3c.precision import INT8
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.cpu import backend as cpu
from mbv3c.targets.cpu.cores import Processor, processor_of
from mbv3c.targets.cpu.select_integers import select_quantized
from mbv3c.targets.library.building import build_library
from mbv3c.targets.library.target import resolve, tvm_target

Array = np.ndarray

HOST_TARGET = resolve(find_target("host_cpu"))
HOST = processor_of(HOST_TARGET)
# The loops of NEON without its instructions, which this machine has not.
LANES = replace(HOST, vector_bytes=16, registers=32, lane_operands=True, integers="portable")
PLAIN = replace(HOST, integers="portable")
TWO_CORES = replace(HOST, cores=2, parallel_madds=0)


def quantized(text: str, **initializers: Array) -> onnx.ModelProto:
    """Read a graph in ONNX text and quantize it on random inputs."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    made, _ = quantize(model, random_inputs(model, 4), rank_layers=False)
    return made


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network() -> onnx.ModelProto:
    """Return every kernel: channels that no vector divides, strides, clamps, sums, gates."""
    return quantized(
        """g (float[1, 3, 19, 22] x) => (float[1, 10] logits)
        <float low = {0.0}, float high = {1.0}, float six = {6.0}>
        {
            [stem] s0 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w_stem, b_stem)
            [stem_act] s = HardSwish(s0)
            [deep] d0 = Conv <group = 20, pads = [1, 1, 1, 1]> (s, w_deep, b_deep)
            [deep_act] d = Clip(d0, low, six)
            [expand] e0 = Conv(d, w_expand)
            [expand_act] e = HardSwish(e0)
            [five] f0 = Conv <group = 24, pads = [2, 2, 2, 2], strides = [2, 2]> (e, w_five)
            [five_act] f = HardSwish(f0)
            [pool] p = GlobalAveragePool(f)
            [squeeze] q0 = Conv(p, w_squeeze)
            [squeeze_act] q = Relu(q0)
            [excite] e1 = Conv(q, w_excite)
            [gate] g = Clip(e1, low, high)
            [scale] m = Mul(f, g)
            [project] j = Conv(m, w_project, b_project)
            [again] a0 = Conv(j, w_again)
            [again_act] a = Relu(a0)
            [back] b = Conv(a, w_back)
            [residual] t = Add(j, b)
            [last] l = GlobalAveragePool(t)
            [flatten] y = Flatten(l)
            [head] logits = Gemm <transB = 1> (y, w_head, b_head)
        }""",
        w_stem=random(20, 3, 3, 3, seed=1),
        b_stem=random(20, seed=2),
        w_deep=random(20, 1, 3, 3, seed=3),
        b_deep=random(20, seed=4),
        w_expand=random(24, 20, 1, 1, seed=5),
        w_five=random(24, 1, 5, 5, seed=6),
        w_squeeze=random(8, 24, 1, 1, seed=7),
        w_excite=random(24, 8, 1, 1, seed=8),
        w_project=random(21, 24, 1, 1, seed=9),
        b_project=random(21, seed=10),
        w_again=random(40, 21, 1, 1, seed=11),
        w_back=random(21, 40, 1, 1, seed=12),
        w_head=random(10, 21, seed=13),
        b_head=random(10, seed=14),
    )


def steps_apart(model: onnx.ModelProto, outputs: list[list[Array]], inputs: list[Array]) -> Array:
    """Return how many steps of the output ours and onnxruntime's results are apart."""
    (made,) = (n for n in model.graph.node if model.graph.output[0].name in n.output)
    (scale,) = (t for t in model.graph.initializer if t.name == made.input[1])
    reference = session(model)
    wanted = [run(reference, x)[0] for x in inputs]
    apart = [np.abs(y[0] - w) for y, w in zip(outputs, wanted, strict=True)]
    return np.rint(np.stack(apart) / numpy_helper.to_array(scale))


def inputs_of(model: onnx.ModelProto) -> list[Array]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return [2 * random(*shape, seed=seed) for seed in range(3)]


def plan_for(model: onnx.ModelProto, here: Processor) -> Plan:
    return select_quantized(read_pairs(model), here, tvm_target(HOST_TARGET))


def run_here(model: onnx.ModelProto, here: Processor, folder: Path) -> list[list[Array]]:
    """Run the kernels that are written for a machine on this one."""
    plan = plan_for(model, here)
    module, _ = assemble(plan, plan_arena(plan))
    with without_checks():
        cpu.build(module, HOST_TARGET, folder / "model.so")
    return HostRunner().run(folder, inputs_of(model))


def run_on(model: onnx.ModelProto, name: str, folder: Path) -> list[list[Array]]:
    """Compile for a target and run that, emulated or not."""
    target = replace(find_target(name), cores=1)
    backend = backend_of(target)
    build_library(backend, model, Job(target, INT8), folder / "model.so")
    runner = backend.runner_for(target, INT8)
    assert runner is not None
    return runner.run(folder, inputs_of(model))
