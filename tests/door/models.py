"""Models that ask for more than they hold, each a few hundred bytes long."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Nodes = Sequence[onnx.NodeProto]


def integers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def number(name: str, value: float | int | bool, dtype: str = "int64") -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def value(name: str, shape: Sequence[int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Nodes,
    stored: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Return a model from x to y, both of shape [1, 4]."""
    graph = helper.make_graph(nodes, "g", [value("x", [1, 4])], [value("y", [1, 4])], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def added(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return nodes that make `big`, and what adds its largest element to the input."""
    largest = helper.make_node("ReduceMax", ["big"], ["m"], keepdims=0)
    return [*nodes, largest, helper.make_node("Add", ["x", "m"], ["y"])]


def loop(stored: Sequence[onnx.TensorProto], count: str = "n") -> onnx.ModelProto:
    """Return a loop that gives back its condition."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["on"]),
            helper.make_node("Add", ["v", "v"], ["w"]),
        ],
        "body",
        [
            value("i", [], TensorProto.INT64),
            value("going", [], TensorProto.BOOL),
            value("v", [1, 4]),
        ],
        [value("on", [], TensorProto.BOOL), value("w", [1, 4])],
    )
    return model([helper.make_node("Loop", [count, "true", "x"], ["y"], body=body)], stored)


def calls(depth: int, each: int = 2) -> onnx.ModelProto:
    """Return functions that each call the one before several times."""
    functions = [
        helper.make_function(
            "own",
            f"f{level}",
            ["a"],
            [f"t{each}"],
            [
                helper.make_node(
                    f"f{level - 1}" if level else "Relu",
                    ["a" if place == 0 else f"t{place}"],
                    [f"t{place + 1}"],
                    domain="own" if level else "",
                )
                for place in range(each)
            ],
            [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
        )
        for level in range(depth)
    ]
    return model([helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="own")], (), functions)


def chain(length: int) -> onnx.ModelProto:
    """Return many nodes in a row."""
    names = ["x", *(f"t{i}" for i in range(length - 1)), "y"]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
    return model(nodes)


def nested(depth: int) -> onnx.ModelProto:
    """Return graphs in each other."""
    made = [value("z", [1, 4])]
    graph = flat = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "b", [], made)
    for _ in range(depth):
        node = helper.make_node("If", ["true"], ["z"], then_branch=graph, else_branch=flat)
        graph = helper.make_graph([node], "b", [], made)
    node = helper.make_node("If", ["true"], ["y"], then_branch=graph, else_branch=flat)
    return model([node], [number("true", True, "bool")])


_HUGE = integers("s", 1 << 20, 1 << 20)
_ONE = number("c", 1.0, "float32")

# By name: the model, and a part of the reason for which it is refused.
BOMBS: dict[str, tuple[onnx.ModelProto, str]] = {
    "ConstantOfShape": (
        model(added(helper.make_node("ConstantOfShape", ["s"], ["big"])), [_HUGE]),
        "makes a tensor of 1048576x1048576",
    ),
    "Expand": (
        model(added(helper.make_node("Expand", ["c", "s"], ["big"])), [_HUGE, _ONE]),
        "makes a tensor of 1048576x1048576",
    ),
    "Tile": (
        model(added(helper.make_node("Tile", ["x", "s"], ["big"])), [_HUGE]),
        "has 1048576x4194304 elements",
    ),
    "Pad": (
        model(
            added(helper.make_node("Pad", ["x", "s"], ["big"])), [integers("s", 0, 0, 0, 1 << 40)]
        ),
        "elements, which is more than fits",
    ),
    "Reshape": (
        model(
            added(helper.make_node("Reshape", ["x", "s"], ["big"])),
            [integers("s", *[1] * 100_000)],
        ),
        "has 100,000 dimensions",
    ),
    "Range": (
        model(
            added(
                helper.make_node("Range", ["a", "b", "d"], ["r"]),
                helper.make_node("Cast", ["r"], ["big"], to=TensorProto.FLOAT),
            ),
            [number("a", 0), number("b", 1 << 40), number("d", 1)],
        ),
        "counts from 0 to 1099511627776 by 1",
    ),
    "many constants": (
        model(
            [
                *(helper.make_node("ConstantOfShape", ["s"], [f"b{i}"]) for i in range(9)),
                helper.make_node("Sum", [f"b{i}" for i in range(9)], ["big"]),
                *added(),
            ],
            [integers("s", 1 << 13, 1 << 13)],
        ),
        "make of constants alone takes 2,560 MiB",
    ),
    "an endless loop": (
        loop([number("n", 1 << 62), number("true", True, "bool")]),
        "4,611,686,018,427,387,904 times",
    ),
    "a loop without a count": (
        loop([number("true", True, "bool")], count=""),
        "turns without an end",
    ),
    "functions that double": (calls(64), "nodes, with those of its functions"),
    "functions without end": (calls(10_001, each=1), "call each other more than 1000 deep|items"),
    "many nodes": (chain(100_000), "it has 100,000 nodes"),
    "graphs in graphs": (nested(25), "nested deeper than 20 graphs"),
    "a long name": (
        model([helper.make_node("Relu", ["x"], ["y"], "n" * 1_000_000)]),
        "a name in it has 1,000,000 bytes",
    ),
    "a large input": (
        helper.make_model(
            helper.make_graph(
                [helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)],
                "g",
                [value("x", [1 << 20, 1 << 20])],
                [value("y", [])],
            )
        ),
        "the input 'x' has 1048576x1048576 elements",
    ),
}
