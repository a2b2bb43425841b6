"""The general schedule: what it changes, and that the result stays."""

import numpy as np
import onnx
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from tvm.tirx import PrimFunc

from mbv3c.lowering.onnx_import import import_onnx, legalize
from mbv3c.lowering.schedules import general
from mbv3c.targets import find_target
from mbv3c.targets.library.target import resolve, tvm_target
from tests.kernel_builds import compiled

TOLERANCE = 1e-5  # sums in another order
HOST = tvm_target(resolve(find_target("host_cpu")))
FOUR_CORES = tvm.target.Target({**HOST.export(), "num-cores": 4})
IMAGE = (1, 16, 12, 20)
ODD = (2, 6, 7, 5)

# By name: operators on an image x of B×C×H×W.
OPERATORS = {
    "max pool": "MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)",
    "strided max pool": "MaxPool<kernel_shape = [2, 3], strides = [2, 2]>(x)",
    "average pool": "AveragePool<kernel_shape = [3, 3], pads = [1, 0, 1, 2]>(x)",
    "resize": 'Resize<mode = "linear">(x, "", twice)',
    "resize to nearest": 'Resize<mode = "nearest">(x, "", twice)',
    "softmax of channels": "Softmax<axis = 1>(x)",
    "softmax of rows": "Softmax<axis = 3>(x)",
    "concat": "Concat<axis = 1>(e, x, e)",
    "concat of rows": "Concat<axis = 3>(e, x)",
    "transpose": "Transpose<perm = [0, 2, 3, 1]>(x)",
    "grouped": "Conv<group = 2, pads = [1, 1, 1, 1]>(x, grouped)",
    "strided and dilated": "Conv<group = 2, strides = [2, 1], dilations = [1, 2]>(x, grouped)",
    "depthwise with multiplier": "Conv<group = c, pads = [1, 1, 1, 1]>(x, multiplied)",
    "mean of places": "ReduceMean<axes = [2, 3]>(x)",
    "mean of channels": "ReduceMean<axes = [1]>(x)",
    "mean of rows": "ReduceMean<axes = [3], keepdims = 0>(x)",
    "mean of all": "ReduceMean<keepdims = 0>(x)",
    "largest of rows": "ReduceMax<axes = [3]>(x)",
    "place of the largest": "ArgMax<axis = 1>(x)",
    "place of the largest of a row": "ArgMax<axis = 3>(x)",
    "sigmoid": "Sigmoid(x)",
    "chain": "Pow(e, two)",
    "erf": "Erf(x)",
    "slice": "Slice(x, one, minus, last)",
    "cast": "Cast<to = 7>(x)",
    "compare": "Greater(x, two)",
    "matrix product": "MatMul(x, square)",
}


def functions(operator: str, shape: tuple[int, ...]) -> list[PrimFunc]:
    """Return what TVM makes of an operator, unscheduled."""
    channels, columns = shape[1], shape[3]
    arrays = {
        "twice": np.array([1, 1, 2, 2], np.float32),
        "grouped": weights(channels, channels // 2, 3, 3),
        "multiplied": weights(2 * channels, 1, 3, 3),
        "square": weights(columns, columns),
        "two": np.array(2, np.float32),
        "one": np.array([1]),
        "minus": np.array([-1]),
        "last": np.array([3]),
    }
    kind = "int64" if "ArgMax" in operator or "to = 7" in operator else "float"
    kind = "bool" if "Greater" in operator else kind
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float{list(shape)} x) => ({kind}[n] y) {{
            e = Exp(x)
            y = {operator.replace("group = c", f"group = {channels}")}
        }}"""
    )
    for node in model.graph.node:
        node.input[:] = ["" if name == '""' else name for name in node.input]
    for name, array in arrays.items():
        if any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    module = legalize(import_onnx(model), HOST)
    return [one for _, one in module.functions_items() if isinstance(one, PrimFunc)]


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def keeps_results(pairs: list[tuple[PrimFunc, PrimFunc]]) -> None:
    """Run functions before and after scheduling on the same input, and compare all arguments."""
    named = {f"f{i}_{j}": one for i, pair in enumerate(pairs) for j, one in enumerate(pair)}
    module = tvm.IRModule(
        {name: one.with_attr("global_symbol", name) for name, one in named.items()}
    )
    library = compiled(module, HOST)
    rng = np.random.default_rng(0)
    for i, (before, _) in enumerate(pairs):
        arrays = [
            rng.standard_normal([int(size) for size in one.shape]).astype(str(one.dtype))
            for one in before.params
        ]
        results = []
        for j in (0, 1):
            tensors = [tvm.runtime.tensor(array) for array in arrays]
            library[f"f{i}_{j}"](*tensors)
            results.append([one.numpy().astype(np.float64) for one in tensors])
        for wanted, got in zip(*results, strict=True):
            scale = max(1.0, float(np.abs(wanted).max()))
            np.testing.assert_allclose(got / scale, wanted / scale, rtol=0, atol=TOLERANCE)


@pytest.fixture(autouse=True)
def every_block_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(general, "_PARALLEL_TURNS", 0)


@pytest.mark.parametrize("shape", [IMAGE, ODD], ids=["even", "odd"])
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
def test_results_stay(operator: str, shape: tuple[int, ...]) -> None:
    made = functions(operator, shape)
    assert made
    keeps_results([(one, general.schedule(one, FOUR_CORES)) for one in made])


@settings(max_examples=4, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 2), st.sampled_from([2, 4, 16]), st.integers(4, 20), st.integers(4, 40)
    ),
    names=st.lists(st.sampled_from(sorted(OPERATORS)), min_size=4, max_size=4, unique=True),
)
def test_results_stay_on_any_shape(shape: tuple[int, ...], names: list[str]) -> None:
    made = [one for name in names for one in functions(OPERATORS[name], shape)]
    keeps_results([(one, general.schedule(one, FOUR_CORES)) for one in made])


@pytest.mark.parametrize(
    "name", ["grouped", "mean of places", "mean of channels", "matrix product", "max pool"]
)
def test_reductions_keep_vectors_of_sums(name: str) -> None:
    (function,) = functions(OPERATORS[name], IMAGE)
    text = general.schedule(function, HOST).script()
    assert "T.vectorized" in text
    assert 'scope="local"' in text
    assert "T.parallel" not in text


@pytest.mark.parametrize("name", ["sigmoid", "grouped", "concat", "place of the largest"])
def test_cores_share_what_is_worth_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = functions(OPERATORS[name], IMAGE)[-1]
    assert "T.parallel" in general.schedule(function, FOUR_CORES).script()
    assert "T.parallel" not in general.schedule(function, HOST).script()
    monkeypatch.setattr(general, "_PARALLEL_TURNS", 10**9)
    assert "T.parallel" not in general.schedule(function, FOUR_CORES).script()


def test_a_map_of_odd_sides_is_one_row_where_places_do_not_matter() -> None:
    (function,) = functions("Sigmoid(x)", (1, 16, 7, 7))
    assert "T.vectorized(T.int64(16))" in general.schedule(function, HOST).script()


def test_a_block_is_inlined_where_nothing_is_computed_twice() -> None:
    chained, resized = (
        functions(operator, IMAGE)[-1]
        for operator in ("Sqrt(e)", 'Resize<mode = "linear">(e, "", twice)')
    )
    assert blocks(chained) == 2
    assert blocks(general.schedule(chained, HOST)) == 1
    assert blocks(general.schedule(resized, HOST)) == blocks(resized)


@pytest.mark.parametrize("name", ["resize", "resize to nearest"])
def test_a_resize_computes_a_vector_of_places_for_all_channels(name: str) -> None:
    loops = general.schedule(functions(OPERATORS[name], IMAGE)[-1], HOST).script()
    last = loops[loops.rindex(" in T.grid(") :]
    # Batch and channels, of which the places are independent, stand inside of rows and columns.
    assert last.startswith(" in T.grid(T.int64(24), T.int64(5), T.int64(1), T.int64(16))")
    assert "T.vectorized(T.int64(8))" in last


@pytest.mark.parametrize("name", ["transpose", "strided max pool"])
def test_places_that_are_far_apart_are_not_gathered_into_vectors(name: str) -> None:
    function = functions(OPERATORS[name], IMAGE)[-1]
    assert "T.vectorized" not in general.schedule(function, HOST).script()


def test_a_function_without_blocks_stays() -> None:
    function = functions("Sigmoid(x)", IMAGE)[0].without_attr("s_tir")
    assert general.schedule(function, HOST).same_as(function)


def blocks(function: PrimFunc) -> int:
    return function.script().count("T.sblock(") - 1  # the root
