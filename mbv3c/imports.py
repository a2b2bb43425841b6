"""Import TVM and onnxsim without PyTorch, which both import wherever it is installed.

Neither needs it for what is done here, and it takes three seconds. Whoever imports torch
afterwards, as training does, gets it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_TORCH = "torch"
# The packages that try to import it: TVM for its tensors, onnxsim for tools that are not used.
_TRYING = frozenset({"tvm", "tvm_ffi", "onnxsim"})


def without_torch() -> None:
    """Have packages that would only try to import torch do without it, in this process."""
    if not any(isinstance(finder, _WithoutTorch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithoutTorch())


class _WithoutTorch(MetaPathFinder):
    """Finds the packages of `_TRYING` as others do, and loads them in its own way."""

    def __init__(self) -> None:
        self._looking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _TRYING or self._looking or _TORCH in sys.modules:
            return None
        self._looking = True
        try:
            spec = find_spec(name)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Hiding(spec.loader)
        return spec


class _Hiding(Loader):
    """Loads a module while torch cannot be imported."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        hidden: dict[str, ModuleType | None] = {_TORCH: None}
        sys.modules.update(hidden)  # type: ignore[arg-type]  # None: an import of it fails
        try:
            self._loader.exec_module(module)
        finally:
            if sys.modules.get(_TORCH, module) is None:
                del sys.modules[_TORCH]

    def __getattr__(self, name: str) -> object:  # what importlib.resources and others ask for
        return getattr(self._loader, name)
