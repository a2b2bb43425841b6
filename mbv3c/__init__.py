"""mbv3c: compile MobileNetV3 for edge accelerators and prove that it still computes the same.

The functions and values of `mbv3c.api` are here, too; they are imported when one of them is first
used, so that `import mbv3c` alone imports neither onnx nor TVM.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mbv3c.version import __version__

if TYPE_CHECKING:
    from mbv3c.api import *

# onnxruntime's Linux wheels send telemetry from 1.29 on, unless this is set before it is imported
# (docs/security.md). Processes that are started get it, too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "AdaptSpec",
    "BenchRequest",
    "Bundle",
    "Compiled",
    "Ends",
    "Finishing",
    "Frame",
    "GateRequest",
    "GateResult",
    "Halving",
    "Images",
    "InputsRequest",
    "Job",
    "JobSpec",
    "Outputs",
    "Overrides",
    "Place",
    "Precision",
    "QuantizeOptions",
    "Report",
    "ReportFiles",
    "ReportRequest",
    "Sampling",
    "SearchPlan",
    "SearchSpec",
    "Space",
    "Target",
    "TrainPlan",
    "Trained",
    "TrustError",
    "TuneRequest",
    "__version__",
    "adapt",
    "bench",
    "bench_shapes",
    "build",
    "compile",
    "cost_of",
    "find_precision",
    "find_target",
    "job_of",
    "ladder",
    "open_bundle",
    "optimize",
    "quantize",
    "run",
    "search_networks",
    "sweep",
    "train",
    "tune",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = import_module("mbv3c.api")
    globals().update({public: getattr(api, public) for public in api.__all__})
    return getattr(api, name)
