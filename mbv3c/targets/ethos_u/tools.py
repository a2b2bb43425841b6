"""The NPU's tools, which only users of that target need."""

from importlib import metadata

from mbv3c.errors import ToolError

NPU_TOOLS = ("ethos-u-vela", "tosa-tools")
NPU_INSTALL = (
    "pip install 'mbv3c[npu]', into an environment of its own, as they hold back numpy and onnx"
)


def require_npu_tools() -> None:
    """Make sure that vela and Arm's TOSA tools are installed.

    Raises:
        ToolError: one of them is not.
    """
    missing = []
    for name in NPU_TOOLS:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise ToolError(f"target npu needs {' and '.join(missing)}: {NPU_INSTALL}")
