"""MatMul and Add become Gemm where they are of matrices."""

import numpy as np
import pytest

from mbv3c.passes.fuse_gemm import FuseGemm
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, operators, refuses

TOLERANCE = 1e-6
DENSE = """
    g (float[2, 8] x) => (float[2, 4] y) {
        ["fc.matmul"] m = MatMul(x, weight)
        ["fc.add"] y = Add(m, bias)
    }
"""


def parameters(*bias: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "weight": rng.standard_normal((8, 4)).astype(np.float32),
        "bias": rng.standard_normal(bias or (4,)).astype(np.float32),
    }


@pytest.mark.parametrize("add", ["Add(m, bias)", "Add(bias, m)"])
@pytest.mark.parametrize("bias", [(4,), (1,), (1, 4), (2, 4), (2, 1)])
def test_fires(add: str, bias: tuple[int, ...]) -> None:
    model = graph(DENSE.replace("Add(m, bias)", add), **parameters(*bias))
    rewritten, report = fires(FuseGemm(), model, TOLERANCE)
    assert operators(rewritten) == ["Gemm"]
    assert report.matched == ("fc",)


def test_refuses_a_product_of_other_tensors() -> None:
    text = DENSE.replace("float[2, 8] x", "float[1, 2, 8] x").replace(
        "float[2, 4] y", "float[1, 2, 4] y"
    )
    reason = refuses(FuseGemm(), graph(text, **parameters()))
    assert reason == "Gemm multiplies two matrices; this is a product of other tensors"


def test_refuses_a_bias_that_widens_the_product() -> None:
    text = DENSE.replace("float[2, 4] y", "float[3, 2, 4] y")
    reason = refuses(FuseGemm(), graph(text, **parameters(3, 1, 4)))
    assert reason == "the bias is [3, 1, 4], the product [2, 4]"


def test_refuses_a_shared_product() -> None:
    text = DENSE.replace("4] y)", "4] y, float[2, 4] z)")
    text = text.replace('["fc.add"]', '[other] z = Neg(m) ["fc.add"]')
    reason = refuses(FuseGemm(), graph(text, **parameters()))
    assert reason == "intermediate 'm' is also used by 'other'"


def test_refuses_a_product_that_is_an_output() -> None:
    text = DENSE.replace("4] y)", "4] y, float[2, 4] m)")
    reason = refuses(FuseGemm(), graph(text, **parameters()))
    assert reason == "intermediate 'm' is an output of the graph"


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_ignores_what_is_not_constant(name: str) -> None:
    arrays = parameters()
    arrays["stored"] = arrays.pop(name)
    text = DENSE.replace('["fc.matmul"]', f'{name} = Neg(stored) ["fc.matmul"]')
    ignores(FuseGemm(), graph(text, **arrays))
