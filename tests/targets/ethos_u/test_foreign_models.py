"""Models that people bring, on an NPU, as docs/networks.md says.

    pytest -m long tests/targets/ethos_u/test_foreign_models.py --update-docs

writes the page's tables for NPUs anew.
"""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests import networks_page
from tests.foreign_models import MODELS, QUANTIZED
from tests.typed_models import INPUTS, OUTPUTS

CASES = {
    name: {**MODELS, **QUANTIZED, **INPUTS, **OUTPUTS}[name]
    for name in (
        "nothing odd",
        "initialisers listed as inputs (torch)",
        "NHWC pixels, normalised in the graph (Keras)",
        "one number out",
        "scores of nearly 0 everywhere",
        "tokens and back to a map",
        "one tensor as two outputs",
        "an output, and once more by another name",
        "maps of several strides as outputs",
        "a label (ArgMax, int64)",
        "frames of uint8, NHWC",
        "an image and a vector",
        "a map of labels, as floats",
        "uint8 activations",
        "uint8 weights",
        "scales as Constant nodes, Casts (torch)",
        "weights of nine bits",
        "weights of nine bits, zero points of channels",
        "BatchNormalization between pairs",
        "a pair for every reader",
    )
}
TARGET = "npu:ethos-u55-128"
seen: dict[str, str] = {}


@pytest.mark.parametrize(("name", "build"), CASES.items(), ids=CASES)
def test_it_is_right_or_refused_in_words(
    name: str,
    build: Callable[[], onnx.ModelProto],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    seen[name] = networks_page.tried(build(), tmp_path, TARGET)
    if not request.config.getoption("--update-docs"):
        assert f"| {name} | {seen[name]} |" in networks_page.PAGE.read_text()


def test_the_page_says_so(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for number, (name, build) in enumerate(CASES.items()):
        if name not in seen:  # as where CI tries it
            seen[name] = networks_page.tried(build(), tmp_path / str(number), TARGET)
    networks_page.check("npu", {f"`{TARGET}`": [(name, seen[name]) for name in CASES]}, request)
