"""Where tensors lie, and what moves them."""

import pytest

from mbv3c.lowering.plan import Value
from mbv3c.lowering.qdq import QuantizedGraph
from mbv3c.lowering.quantization import Quantization
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.memory import Deferred, Memory
from mbv3c.targets.cpu.cores import CORES
from mbv3c.targets.cpu.kernels import CpuKernels
from mbv3c.targets.cpu.select_integers import rounding_kernels
from tests.onnx_text import graph as parsed

HERE = CORES["cortex-a76"]


def memory(steps: Quantization | None = None, shape: str = "[1, 8, 5, 5]") -> Memory:
    """Return the memory of a graph whose input x is held, and y is not."""
    model = parsed(f"g (float{shape} x) => (float{shape} y) {{ y = Relu(x) }}")
    graph = Graph(QuantizedGraph(model, {"y": steps} if steps else {}))
    return Memory(graph, CpuKernels(HERE), rounding_kernels(HERE))


def kinds(known: Memory) -> list[str]:
    return [step.kind for step in known.plan.steps]


def test_a_form_is_made_once() -> None:
    known = memory()
    assert known.value("x", "float32", channels_last=False) == "x"
    assert not known.has_channels_last("x")
    last = known.value("x", "float32", channels_last=True)
    assert known.value("x", "float32", channels_last=True) == last
    assert known.has_channels_last("x")
    assert kinds(known) == ["transpose"]
    assert known.plan.values[last].shape == (1, 5, 5, 8)


def test_a_type_is_made_of_the_layout_that_is_there() -> None:
    known = memory()
    last = known.value("x", "float32", channels_last=True)
    half = known.value("x", "float16", channels_last=True)
    assert kinds(known) == ["transpose", "cast"]
    assert known.plan.steps[-1].arguments == (last, half)
    assert known.made_type("x") == "float32"


@pytest.mark.parametrize("shape", ["[1, 8, 1, 1]", "[3, 1, 5, 5]", "[2, 3]", "[2, 3, 4]", ""])
def test_what_is_no_image_of_several_places_lies_in_both_layouts(shape: str) -> None:
    known = memory(shape=shape)
    assert known.has_channels_last("x")
    assert known.value("x", "float32", channels_last=True) == "x"
    assert not known.add_result("y", "float32")
    assert known.plan.values["y"] == known.plan.values["x"]


def test_ends_of_integers_lie_with_their_channels_last() -> None:
    """A graph whose input is its output: int8 comes in and leaves, in memory of its own."""
    model = parsed("g (float[1, 8, 5, 4] x) => (float[1, 8, 5, 4] x) { y = Relu(x) }")
    both, steps = frozenset({"x"}), {"x": Quantization(0.1, 3)}
    graph = Graph(QuantizedGraph(model, steps, {}, both, both))
    known = Memory(graph, CpuKernels(HERE), rounding_kernels(HERE))
    assert known.plan.input_shapes == ((1, 5, 4, 8),)
    assert (known.made_type("x"), known.has_channels_last("x")) == ("int8", True)
    known.write_output("x")
    assert kinds(known) == ["copy"]
    (output,) = known.plan.outputs
    assert known.plan.values[output] == known.plan.values["x"] == Value((1, 5, 4, 8), "int8")
    assert known.value("x", "float32", channels_last=False) == "x.nchw"
    assert kinds(known) == ["copy", "dequantize", "transpose"]


def test_a_tensor_with_steps_is_rounded_when_it_is_held() -> None:
    known = memory(Quantization(0.1, 3))
    known.add_result("y", "float32")
    known.hold("y", "y", channels_last=True)
    assert known.made_type("y") == "int8"
    assert kinds(known) == ["quantize"]
    known.value("y", "float32", channels_last=False)
    assert kinds(known) == ["quantize", "dequantize", "transpose"]


def test_a_deferred_tensor_is_made_by_its_first_reader() -> None:
    known = memory()

    def make() -> None:
        known.add_result("y", "float32")
        known.hold("y", "y", channels_last=True)

    known.deferred["y"] = Deferred(make, channels_last=True)
    assert known.has_channels_last("y")
    assert not known.is_ready("y")
    assert known.value("y", "float32", channels_last=True) == "y"
    assert known.is_ready("y")
    assert not known.deferred


def test_an_output_has_memory_of_its_own() -> None:
    known = memory()
    known.hold("y", "x", channels_last=False)
    known.write_output("y")
    assert known.plan.outputs == ("y.copy",)
    assert kinds(known) == ["copy"]


def test_memory_that_another_tensor_lies_in_is_shared_while_that_is_wanted() -> None:
    known = memory()
    known.hold("y", "x", channels_last=False)
    assert known.is_shared("x", "x")  # y is an output
    assert known.is_shared("x", "y")  # x is to be read
    known.covered.add("y")
    assert not known.is_shared("x", "y")


def test_names_of_new_values_begin_no_other_name() -> None:
    known = memory()
    first, second = (known.add_value("x.copy", (1,), "float32") for _ in range(2))
    assert (first, second) == ("x.copy", "x.copy'")
