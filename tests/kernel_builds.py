"""Kernels as their own tests build them: without the checks of arguments before each.

TVM writes code that checks shape, strides, type and place of every argument, which takes LLVM as
long as the kernels themselves. Bundles have it, in the tests of commands.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import tvm

from mbv3c.targets.opencl import backend as opencl

_UNCHECKED = {"tirx.disable_assert": True}


@contextmanager
def without_checks() -> Iterator[None]:
    """Leave the checks out of what is built meanwhile, for CPUs and GPUs."""
    with (
        mock.patch.dict(opencl._CONFIG, _UNCHECKED),
        tvm.transform.PassContext(config=_UNCHECKED),
    ):
        yield


def compiled(module: tvm.IRModule, target: tvm.target.Target, **options: Any) -> Any:
    """Compile a module without the checks; `options` are those of `tvm.compile`."""
    with without_checks():
        return tvm.compile(module, target=target, **options)
