"""Kernels as their own tests build them: without the checks of arguments before each.

Bundles have them where an input is read: tests/lowering/test_unchecked.py.
"""

from typing import Any

import tvm

from mbv3c.lowering.unchecked import without_checks


def compiled(module: tvm.IRModule, target: tvm.target.Target, **options: Any) -> Any:
    """Compile a module; `options` are those of `tvm.compile`."""
    with without_checks():
        return tvm.compile(module, target=target, **options)
