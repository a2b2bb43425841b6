"""oclgrind finds what kernels must not do, and only that."""

import numpy as np
import pytest
import tvm

from mbv3c.errors import ToolError
from mbv3c.execution.opencl.kit import OpenCLKit
from tests.execution.opencl import modules
from tests.execution.opencl.oclgrind import LocalMemory, Unwritten, check_kernel

pytestmark = pytest.mark.usefixtures("opencl_kit")

SHIFT = """\
kernel void shift(global const float* x, global float* y, int n, local float* s) {
  int i = get_local_id(0);
  s[i] = x[get_global_id(0)];
  BARRIER
  y[get_global_id(0)] = s[(i + 1) % n];
}
"""
X = np.arange(8, dtype=np.float32)


def _shift(source: str) -> list[tuple[str, int]]:
    arguments = (X, Unwritten(32), np.int32(4), LocalMemory(16))
    findings = check_kernel(source, "shift", arguments, (8,), (4,))
    return sorted({(finding.kind, finding.line) for finding in findings})


def test_clean_kernel_has_no_findings() -> None:
    assert _shift(SHIFT.replace("BARRIER", "barrier(CLK_LOCAL_MEM_FENCE);")) == []


def test_missing_barrier_is_a_race() -> None:
    kinds = {kind for kind, _ in _shift(SHIFT.replace("BARRIER", ""))}
    assert "race" in kinds


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("y[i] = x[i];", []),
        (
            "y[i] = x[i + 1];",
            [("out of bounds", 3, "y[i] = x[i + 1];"), ("uninitialised", 3, "y[i] = x[i + 1];")],
        ),
        ("y[i + 1] = x[i];", [("out of bounds", 3, "y[i + 1] = x[i];")]),
        ("y[0] = x[i];", [("race", 3, "y[0] = x[i];")]),
        ("float z; if (x[i] < 2) z = x[i]; y[i] = z + y[i];", None),
    ],
)
def test_findings_name_the_line(
    statement: str, expected: list[tuple[str, int, str]] | None
) -> None:
    source = f"""kernel void f(global const float* x, global float* y) {{
  int i = get_global_id(0);
  {statement}
}}
"""
    findings = check_kernel(source, "f", (X, Unwritten(32)), (8,), (4,))
    found = sorted({(one.kind, one.line, one.code) for one in findings})
    if expected is None:
        assert {kind for kind, _, _ in found} == {"uninitialised"}
    else:
        assert found == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kernel_that_tvm_wrote_is_clean(dtype: str) -> None:
    compiled = tvm.compile(modules.scale(2.0, 64, dtype), target=modules.TARGET)
    source = compiled.mod.imports[0].inspect_source()
    x = np.ones(64, dtype)
    assert check_kernel(source, "scale_kernel", (x, Unwritten(256)), (16,), (4,)) == []
    findings = check_kernel(source, "scale_kernel", (x[:60], Unwritten(256)), (16,), (4,))
    assert "out of bounds" in {finding.kind for finding in findings}


def test_many_findings_end_early() -> None:
    source = "kernel void f(global float* x) { x[get_global_id(0) + 8] = 1; }"
    findings = check_kernel(source, "f", (X,), (4096,), (64,))
    assert 20 <= len(findings) <= 25
    assert findings[0].kind == "out of bounds"


def test_half_kernel_is_checked_as_float() -> None:
    source = """kernel void f(global const half* x, global half* y) {
  int i = get_global_id(0);
  vstore4(convert_half4(exp(convert_float4(vload4(i, x)))), i, y + OFFSET);
}
"""
    x = np.ones(16, np.float16)
    clean, beyond = (source.replace("OFFSET", text) for text in ("0", "1"))
    assert check_kernel(clean, "f", (x, Unwritten(64)), (4,), (2,)) == []
    findings = check_kernel(beyond, "f", (x, Unwritten(64)), (4,), (2,))
    assert {(finding.kind, finding.line) for finding in findings} >= {("out of bounds", 3)}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("kernel void f(global float* x) { x[0] = ; }", "expected expression"),
        ("kernel void g(global float* x) { }", "Failed to create kernel f"),
    ],
)
def test_kernel_that_cannot_run_is_named(source: str, message: str) -> None:
    with pytest.raises(ToolError, match="could not run the kernel f") as caught:
        check_kernel(source, "f", (X,), (8,), (8,))
    assert message in str(caught.value)


def test_without_oclgrind_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: str, opencl_kit: OpenCLKit
) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="mbv3c doctor --fetch"):
        check_kernel(SHIFT, "shift", (), (8,), (8,))
