"""BatchNormalization disappears in the convolution before it."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.passes.fold_batchnorm import FoldBatchNorm
from tests.onnx_text import graph
from tests.passes.rewriting import (
    error,
    fires,
    ignores,
    initializers,
    leaves_alone,
    operators,
    refuses,
)

# Folding changes the order of fp32 roundings; the same limit as for the whole network.
TOLERANCE = 1e-5
HALF_TOLERANCE = 5e-3  # eleven bits, in weights and in sums of 27 products

CONV_BN = """
    g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {
        ["block.conv"] c = Conv(x, weight)
        ["block.bn"] y = BatchNormalization <epsilon = 0.001> (c, scale, shift, mean, variance)
    }
"""
CONV_BIAS_BN = CONV_BN.replace("Conv(x, weight)", "Conv(x, weight, bias)")


def parameters(
    seed: int = 0, shape: tuple[int, ...] = (4, 3, 3, 3), dtype: type = np.float32
) -> dict[str, np.ndarray]:
    """Return a weight of this shape and statistics that a trained network might have."""
    rng = np.random.default_rng(seed)
    channels = shape[0]
    values = {
        "weight": rng.standard_normal(shape),
        "scale": rng.uniform(0.5, 1.5, channels) * rng.choice([-1, 1], channels),
        "shift": rng.standard_normal(channels),
        "mean": rng.standard_normal(channels),
        "variance": rng.uniform(0.01, 2.0, channels),
    }
    return {name: value.astype(dtype) for name, value in values.items()}


def with_bias(seed: int = 0, **changes: tuple[int, ...]) -> dict[str, np.ndarray]:
    arrays = parameters(seed, **changes)
    bias = np.random.default_rng(seed + 1).standard_normal(len(arrays["scale"]))
    return arrays | {"bias": bias.astype(np.float32)}


def test_fires_without_bias() -> None:
    rewritten, report = fires(FoldBatchNorm(), graph(CONV_BN, **parameters()), TOLERANCE)
    assert operators(rewritten) == ["Conv"]
    assert rewritten.graph.node[0].name == "block.conv"
    assert report.matched == ("block",)
    assert report.refused == ()


def test_fires_with_bias() -> None:
    rewritten, _ = fires(FoldBatchNorm(), graph(CONV_BIAS_BN, **with_bias()), TOLERANCE)
    assert operators(rewritten) == ["Conv"]


def test_folds_by_the_formula_in_the_names_of_the_old_tensors() -> None:
    given_arrays = with_bias()
    rewritten, _ = FoldBatchNorm()(graph(CONV_BIAS_BN, **given_arrays))
    a = {name: array.astype(np.float64) for name, array in given_arrays.items()}
    factor = a["scale"] / np.sqrt(a["variance"] + 0.001)
    wanted_bias = (a["bias"] - a["mean"]) * factor + a["shift"]
    after = initializers(rewritten)
    # One rounding to fp32.
    np.testing.assert_allclose(after["weight"], a["weight"] * factor[:, None, None, None], 1e-7)
    np.testing.assert_allclose(after["bias"], wanted_bias, 1e-6)


def test_bias_takes_the_name_of_the_shift_where_there_was_none() -> None:
    rewritten, _ = FoldBatchNorm()(graph(CONV_BN, **parameters()))
    assert list(rewritten.graph.node[0].input) == ["x", "weight", "shift"]


def test_uses_the_default_epsilon_where_none_is_given() -> None:
    arrays = parameters()
    arrays["variance"][:] = 1e-5  # as small as the default epsilon, so that it shows
    text = CONV_BN.replace("<epsilon = 0.001> ", "")
    fires(FoldBatchNorm(), graph(text, **arrays), TOLERANCE)


def test_keeps_the_attributes_of_the_convolution() -> None:
    text = CONV_BN.replace(
        "Conv(x, weight)",
        "Conv <strides = [2, 1], pads = [1, 0, 1, 2], dilations = [1, 2], group = 3> (x, weight)",
    ).replace("float[1, 4, 6, 6]", "float[1, 6, 4, 6]")
    model = graph(text, **parameters(shape=(6, 1, 3, 3)))
    rewritten, _ = fires(FoldBatchNorm(), model, TOLERANCE)
    before, after = model.graph.node[0], rewritten.graph.node[0]
    assert {a.name: a for a in after.attribute} == {a.name: a for a in before.attribute}


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 4),
    inputs_per_group=st.integers(1, 3),
    outputs_per_group=st.integers(1, 3),
    kernel=st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3)]),
    stride=st.integers(1, 2),
    batch=st.integers(1, 2),
    epsilon=st.sampled_from([1e-5, 1e-3, 0.1]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_convolution_folds(
    groups: int,
    inputs_per_group: int,
    outputs_per_group: int,
    kernel: tuple[int, int],
    stride: int,
    batch: int,
    epsilon: float,
    bias: bool,
    seed: int,
) -> None:
    channels_in, channels_out = groups * inputs_per_group, groups * outputs_per_group
    shape = (channels_out, inputs_per_group, *kernel)
    arrays = with_bias(seed, shape=shape)
    if not bias:
        del arrays["bias"]
    model = graph(
        f"""
        g (float[{batch}, {channels_in}, 9, 9] x) => (float[{batch}, {channels_out}, h, w] y) {{
            c = Conv <group = {groups}, strides = [{stride}, {stride}]>
                (x, weight{", bias" if bias else ""})
            y = BatchNormalization <epsilon = {epsilon}> (c, scale, shift, mean, variance)
        }}
        """,
        **arrays,
    )
    rewritten, _ = fires(FoldBatchNorm(), model, TOLERANCE)
    assert operators(rewritten) == ["Conv"]


def test_fires_in_fp16() -> None:
    model = graph(
        """
        g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {
            h = Cast <to = 10> (x)
            c = Conv(h, weight)
            b = BatchNormalization <epsilon = 0.001> (c, scale, shift, mean, variance)
            y = Cast <to = 1> (b)
        }
        """,
        **parameters(dtype=np.float16),
    )
    rewritten, _ = fires(FoldBatchNorm(), model, HALF_TOLERANCE)
    assert operators(rewritten) == ["Cast", "Conv", "Cast"]
    assert {array.dtype for array in initializers(rewritten).values()} == {np.dtype(np.float16)}


def test_tensors_shared_by_two_blocks_are_folded_for_each() -> None:
    arrays = parameters(shape=(3, 3, 3, 3))
    model = graph(
        """
        g (float[1, 3, 8, 8] x) => (float[1, 3, 4, 4] y) {
            a = Conv(x, weight)
            b = BatchNormalization(a, scale, shift, mean, variance)
            c = Conv(b, weight)
            y = BatchNormalization(c, other, shift, mean, variance)
        }
        """,
        **arrays,
        other=2 * arrays["scale"],
    )
    rewritten, _ = fires(FoldBatchNorm(), model, TOLERANCE)
    assert operators(rewritten) == ["Conv", "Conv"]


def test_a_weight_that_another_convolution_uses_stays_as_it_is() -> None:
    arrays = parameters()
    model = graph(
        """
        g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {
            a = Conv(x, weight)
            b = BatchNormalization(a, scale, shift, mean, variance)
            c = Conv(x, weight)
            y = Add(b, c)
        }
        """,
        **arrays,
    )
    rewritten, _ = fires(FoldBatchNorm(), model, TOLERANCE)
    np.testing.assert_array_equal(initializers(rewritten)["weight"], arrays["weight"])


def test_refuses_training_mode() -> None:
    text = CONV_BN.replace("=> (float[1, 4, 6, 6] y)", "=> (float[1, 4, 6, 6] y, float[4] m)")
    text = text.replace(
        "y = BatchNormalization <", "y, m, v = BatchNormalization <training_mode = 1, "
    )
    reason = refuses(FoldBatchNorm(), graph(text, **parameters()))
    assert reason == "BatchNormalization is in training mode"


def trained(outputs: str, use: str = "") -> onnx.ModelProto:
    """Return a graph of opset 13, where more than one output means training mode."""
    text = CONV_BN.replace("float[1, 4, 6, 6] y", f"float[1, 4, 6, 6] y{outputs}")
    text = text.replace("y = Batch", "y, m, v, saved_m, saved_v = Batch").replace(
        "variance)", f"variance) {use}"
    )
    return graph(text, opset=13, **parameters())


def test_refuses_statistics_that_are_used() -> None:
    reason = refuses(FoldBatchNorm(), trained(", float[4] z", use="z = Neg(m)"))
    assert reason == "BatchNormalization's running statistics are used as outputs"


def test_refuses_statistics_that_are_outputs_of_the_graph() -> None:
    leaves_alone(FoldBatchNorm(), trained(", float[4] m"))


def test_refuses_training_mode_of_opset_13_whose_statistics_nobody_uses() -> None:
    leaves_alone(FoldBatchNorm(), trained(""))


@pytest.mark.parametrize("name", ["weight", "bias", "scale", "shift", "mean", "variance"])
def test_refuses_a_tensor_that_is_not_constant(name: str) -> None:
    arrays = with_bias()
    arrays["stored"] = arrays.pop(name)
    text = CONV_BIAS_BN.replace('["block.conv"]', f'{name} = Abs(stored) ["block.conv"]')
    reason = refuses(FoldBatchNorm(), graph(text, **arrays))
    assert reason == f"{name} '{name}' is not a constant"


def test_refuses_a_constant_that_the_user_may_override() -> None:
    """An initialiser that is also listed as input is only a default."""
    arrays = parameters()
    text = CONV_BN.replace("8] x)", "8] x, float[4] mean)")
    reason = refuses(FoldBatchNorm(), graph(text, **arrays))
    assert reason == "mean 'mean' is not a constant"


def test_refuses_a_shared_intermediate() -> None:
    text = CONV_BN.replace("6] y)", "6] y, float[1, 4, 6, 6] z)")
    text = text.replace('["block.bn"]', '[other] z = Neg(c) ["block.bn"]')
    reason = refuses(FoldBatchNorm(), graph(text, **parameters()))
    assert reason == "intermediate 'c' is also used by 'other'"


def test_refuses_an_intermediate_that_is_an_output() -> None:
    text = CONV_BN.replace("6] y)", "6] y, float[1, 4, 6, 6] c)")
    reason = refuses(FoldBatchNorm(), graph(text, **parameters()))
    assert reason == "intermediate 'c' is an output of the graph"


def test_ignores_a_batchnorm_after_something_else() -> None:
    text = CONV_BN.replace('["block.bn"]', 'r = Relu(c) ["block.bn"]').replace("(c, s", "(r, s")
    ignores(FoldBatchNorm(), graph(text, **parameters()))


@pytest.mark.parametrize(("rank", "size"), [(1, "8"), (3, "8, 8, 8")])
def test_convolutions_of_one_and_three_dimensions_stay_right(rank: int, size: str) -> None:
    model = graph(
        f"""
        g (float[1, 3, {size}] x) => (float[1, 4, {", ".join("abc"[:rank])}] y) {{
            c = Conv(x, weight)
            y = BatchNormalization(c, scale, shift, mean, variance)
        }}
        """,
        **parameters(shape=(4, 3, *[3] * rank)),
    )
    rewritten, _ = FoldBatchNorm()(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert error(model, rewritten) <= TOLERANCE


def test_weight_in_a_constant_node_folds() -> None:
    arrays = parameters(shape=(1, 1, 1, 1))
    del arrays["weight"]
    model = graph(
        """
        g (float[1, 1, 8, 8] x) => (float[1, 1, 8, 8] y) {
            weight = Constant <value = float[1, 1, 1, 1] weight {0.7}> ()
            c = Conv(x, weight)
            y = BatchNormalization(c, scale, shift, mean, variance)
        }
        """,
        **arrays,
    )
    fires(FoldBatchNorm(), model, TOLERANCE)
