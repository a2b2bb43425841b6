"""The manifest of a bundle that was never compiled."""

from mbv3c.lowering.describe import MemoryRecord
from mbv3c.manifest import ModelRecord, TensorRecord
from mbv3c.targets.library.manifest import LibraryManifest, LibraryTargetRecord

LIBRARY = LibraryManifest(
    mbv3c="0.0.0",
    model=ModelRecord("network", {}),
    target=LibraryTargetRecord("arm_cpu:cortex-a76", "aarch64-linux-gnu", "cortex-a76", 4),
    precision="fp32",
    input=TensorRecord("input", (1, 3, 224, 224), "float32"),
    outputs=(TensorRecord("logits", (1, 10), "float32"),),
    passes=(),
    keep_float=(),
    tuned_kernels=(),
    quantization=None,
    parity=None,
    tools={"onnx": "1.0"},
    kernels=(),
    memory=MemoryRecord(0, 0, 0, (), ()),
)
