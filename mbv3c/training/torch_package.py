"""PyTorch, which `train` needs: whether it is here, and how to get it. It is not imported."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from mbv3c.execution.cache import package_version

# Another version may round otherwise, and adds nothing that is used.
TORCH_VERSION = "2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_REMEDY = (
    f"pip install torch=={TORCH_VERSION} --extra-index-url {CPU_INDEX} (200 MB; without that "
    "index, or for an NVIDIA GPU, about 3 GB with CUDA)"
)


@dataclass(frozen=True)
class TorchPackage:
    """The installed torch.

    Attributes:
        version: its version.
        cuda: version of CUDA that it was built for; empty for one that runs on CPUs only.
    """

    version: str
    cuda: str

    def __str__(self) -> str:
        return f"torch {self.version}, {f'CUDA {self.cuda}' if self.cuda else 'CPU only'}"


def torch_package() -> TorchPackage | None:
    """Return the installed torch; None if there is none."""
    version, spec = package_version("torch"), importlib.util.find_spec("torch")
    if version is None or spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(errors="replace")
    except OSError:
        text = ""
    cuda = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", text, re.MULTILINE)
    return TorchPackage(version, cuda.group(1) if cuda else "")
