"""The Relax function that the virtual machine runs."""

import numpy as np

from mbv3c.lowering.lower import Lowered
from tests.onnx_text import graph, random
from tests.targets.cpu.networks import NEON, agrees, lower

CHAIN = """g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) {
    a = Conv(x, w)
    b = Conv(a, v)
    c = Conv(b, w)
    d = Relu(c)
    y = Conv(d, u)
}"""


def kernels(lowered: Lowered) -> list[str]:
    return sorted(v.name_hint for v in lowered.module.get_global_vars() if v.name_hint != "main")


def test_equal_kernels_are_one_function() -> None:
    w, v, u = (random(8, 8, 1, 1, seed=seed) for seed in range(3))
    lowered = agrees(graph(CHAIN, w=w, v=v, u=u))
    assert len([step for step in lowered.plan.steps if step.kind == "pointwise"]) == 4
    # The third takes the activation along.
    assert kernels(lowered) == ["pointwise_1", "pointwise_2", "transpose_1", "transpose_2"]


def test_kernels_of_several_types_stay_apart() -> None:
    text = """g (float[1, 8, 4, 4] x) => (
        float[1, 8, 4, 4] y, float[1, 8, 4, 4] z, int32[1, 8, 4, 4] i, int32[1, 8, 4, 4] j
    ) {
        y = Relu(x)
        z = Identity(y)
        i = Cast<to = 6>(x)
        j = Identity(i)
    }"""
    assert [name for name in kernels(agrees(graph(text))) if "copy" in name] == [
        "copy_1",
        "copy_2",
    ]


def test_memory_is_allocated_once_and_outputs_are_new_in_every_run() -> None:
    w, v, u = (random(8, 8, 1, 1, seed=seed) for seed in range(3))
    lowered = lower(graph(CHAIN, w=w, v=v, u=u), NEON)
    text = lowered.module["main"].script()
    assert text.count("R.memory.alloc_storage") == len(lowered.arena.blocks) == 2
    assert text.count("R.builtin.alloc_tensor") == 1


def test_arguments_lie_as_the_kernels_want_them() -> None:
    lowered = lower(
        graph(CHAIN, w=random(8, 8, 1, 1), v=random(8, 8, 1, 1), u=random(8, 8, 1, 1)), NEON
    )
    for step in lowered.plan.steps:
        for parameter, given in zip(step.function.params, step.arguments, strict=True):
            size = np.prod([int(extent) for extent in parameter.shape])
            held = (
                given if not isinstance(given, str) else np.empty(lowered.plan.values[given].shape)
            )
            assert held.size == size


def test_a_value_is_seen_in_several_shapes() -> None:
    """The output of the pool is an image, a row, and what the caller asked for."""
    text = """g (float[2, 8, 4, 4] x) => (float[2, 8] y, float[2, 8, 1, 1] z, float[16] f) {
        z = GlobalAveragePool(x)
        y = Flatten(z)
        r = Relu(y)
        f = Reshape(r, flat)
    }"""
    agrees(graph(text, flat=np.array([16])))
