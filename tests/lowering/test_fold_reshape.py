from collections.abc import Callable

import numpy as np
import pytest
from tvm import IRModule, relax
from tvm.ir.expr import GenericConst

from mbv3c.lowering.onnx_import import FoldReshape


def module_with(make: Callable[[relax.Var], relax.Expr]) -> IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 2, 2), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(make(x))
        builder.emit_func_output(result)
    return builder.get()


def test_reshape_of_a_constant_becomes_a_constant() -> None:
    bias = np.arange(4, dtype=np.float32)
    module = module_with(lambda x: x + relax.op.reshape(relax.const(bias), (1, 4, 1, 1)))
    assert "reshape" in module.script()
    folded = FoldReshape()(module)
    assert "reshape" not in folded.script()
    block = folded["main"].body.blocks[0]
    constants = [
        binding.value.value.numpy()
        for binding in block.bindings
        if isinstance(binding.value, GenericConst)
    ]
    assert len(constants) == 1
    assert constants[0].shape == (1, 4, 1, 1)
    np.testing.assert_array_equal(constants[0].ravel(), bias)


@pytest.mark.parametrize("shape", [(1, 16), (4, 4)])
def test_reshape_of_a_variable_stays(shape: tuple[int, ...]) -> None:
    module = module_with(lambda x: relax.op.reshape(x, shape))
    assert "reshape" in FoldReshape()(module).script()
