"""Programs without TVM's checks of arguments, which take LLVM as long as the kernels."""

from contextlib import AbstractContextManager

import tvm


def without_checks() -> AbstractContextManager[None]:
    """Leave the checks out of every program that is built meanwhile.

    TVM checks shape, strides, type and place of each argument before a kernel runs. What is built
    to be run once on known arguments, and compared, needs no checks; a bundle has them.
    """
    context: AbstractContextManager[None] = tvm.transform.PassContext(
        config={**tvm.transform.PassContext.current().config, "tirx.disable_assert": True}
    )
    return context
