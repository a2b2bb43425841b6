"""The Python interface: its names, and the examples of docs/api.md."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mbv3c
from mbv3c import api
from mbv3c.errors import UsageError
from tests.onnx_text import graph

PAGE = Path(__file__).parents[1] / "docs/api.md"
EXAMPLES, LATER = (
    re.findall(r"```python\n(.*?)```", part, flags=re.S)
    for part in PAGE.read_text().split("## Training")
)


def test_the_package_has_every_name_of_the_interface() -> None:
    assert set(mbv3c.__all__) == {*api.__all__, "__version__"}
    assert all(getattr(mbv3c, name) is getattr(api, name) for name in api.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, mbv3c; print(sorted({'tvm', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_other_names_are_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'mbv3c' has no attribute 'nothing'"):
        _ = mbv3c.nothing


def test_every_function_is_in_the_page() -> None:
    functions = [name for name in api.__all__ if name[0].islower()]
    missing = [name for name in functions if f"mbv3c.{name}(" not in PAGE.read_text()]
    assert missing == []


@pytest.mark.parametrize(
    "examples", [EXAMPLES[:5], EXAMPLES, LATER], ids=["first", "to tuning", "from training"]
)
def test_the_examples_of_the_page_run(
    examples: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each goes on where the one before it ended."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)


def test_a_bundle_that_is_compiled_again_at_its_place_is_the_one_that_runs(tmp_path: Path) -> None:
    """dlopen knows a library by its path; a process may compile and run several, one by one."""
    x = np.ones((1, 8, 9, 7), np.float32)
    for factor in (2.0, 3.0):
        model = graph(
            "g (float[1, 8, 9, 7] x) => (float[1, 8, 9, 7] y) { y = Mul(x, k) }",
            k=np.array(factor, np.float32),
        )
        mbv3c.compile(model, "host_cpu", tmp_path / "bundle", force=True)
        ran = mbv3c.run(tmp_path / "bundle", {"x": x})
        np.testing.assert_allclose(ran.arrays["y"], factor * x)
    with pytest.raises(UsageError, match="named image; name them as the bundle's inputs: x"):
        mbv3c.run(tmp_path / "bundle", {"image": x})
    with pytest.raises(UsageError, match="holds a list where a numpy array belongs"):
        mbv3c.run(tmp_path / "bundle", {"x": x.tolist()})
