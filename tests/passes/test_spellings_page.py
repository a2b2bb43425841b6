"""docs/spellings.md is what `optimize` does to the spellings that the tests hold.

    pytest tests/passes/test_spellings_page.py --update-docs

writes it anew.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mbv3c.graphs.load import model_input, static_shape
from mbv3c.graphs.spec import ModelSpec
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import error_of_range, run, session
from mbv3c.passes import PassReport
from tests.passes.exporters import EXPORTERS, optimized_by, own, written
from tests.passes.rewriting import error, operators
from tests.passes.spellings import PIECES, WRONG, hardswish, with_number
from tests.passes.test_pipeline import TOLERANCE, optimized

PAGE = Path(__file__).parents[2] / "docs" / "spellings.md"
HEAD = """\
# Spellings

Written by `pytest tests/passes/test_spellings_page.py --update-docs`: every row is a graph that
was optimised. The graphs are in `tests/passes/spellings.py` and `exporters.py`; mixtures of them,
the other orders of operands, and constants as initialisers, as Constant nodes, in fp16 behind a
Cast and of rank 0 to 2 are tested beside them. *Ends as* says what is left, *by* which passes
matched. Below each operator set, ✓ means that the spelling ends the same there, – that it does not
exist there.
"""
OPSETS = (9, 11, 13, 17, 18)
NEAR_MISS = "x · relu6(x + 3) / 6"


@cache
def ends_at(kind: str, key: str, opset: int) -> tuple[str, ...] | None:
    """Return what a spelling of this operator set ends as, or None where it does not exist."""
    model = at_opset(PIECES[kind][1](key), opset)
    if model is None:
        return None
    rewritten, _ = optimized(model)
    assert error(model, rewritten) <= TOLERANCE
    return tuple(operators(rewritten))


@pytest.mark.parametrize("kind", PIECES)
def test_ends_the_same_in_every_operator_set(kind: str) -> None:
    """Clip, Pad, Squeeze and ReduceMean take attributes here and inputs there."""
    for key in PIECES[kind][0]:
        ends = {opset: ends_at(kind, key, opset) for opset in OPSETS}
        assert set(ends.values()) <= {ends[17], None}, key


def test_the_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    page = "\n".join([HEAD, *lines()]) + "\n"
    if request.config.getoption("--update-docs"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run pytest with --update-docs"


def lines() -> Iterator[str]:
    for kind, (keys, make) in PIECES.items():
        writers = {"hard-swish": "swish", "hard-sigmoid": "gate"}.get(kind)
        yield f"## {kind[0].upper()}{kind[1:]}\n"
        heads = ["spelling", "ends as", "by", *(f"{opset}" for opset in OPSETS)]
        yield from table(heads + (["written by"] if writers else []))
        for key in keys:
            _, reports = optimized(make(key))
            ends = [ends_at(kind, key, opset) for opset in (17, *OPSETS)]
            cells = [key, ended(ends[0] or ()), matched(reports)]
            cells += ["–" if e is None else "✓" if e == ends[0] else ended(e) for e in ends[1:]]
            if writers:
                names = [n for n, e in EXPORTERS.items() if getattr(e, writers) == key]
                cells.append("; ".join(dict.fromkeys(",".join(n.split(",")[:2]) for n in names)))
            yield row(cells)
        yield ""
    yield f"## Near misses\n\nOf {NEAR_MISS}, each with one thing changed:\n"
    yield from table(["changed", "refused because"])
    for name, model in near_misses():
        _, reports = optimized(model)
        reasons = dict.fromkeys(r.reason for report in reports for r in report.refused)
        yield row([name, "; ".join(reasons)])
    yield "\n## Exporters\n\nMobileNetV3-Large as each tool writes it, and what is left of it.\n"
    yield from table(["exporter", "operators", "after", "more than of ours", "by"])
    for name, exporter in EXPORTERS.items():
        _, rewritten, reports = optimized_by(name)
        left = ", ".join(f"{count} {op}" for op, count in exporter.left.items())
        counts = [str(sum(exporter.operators.values())), str(len(rewritten.graph.node))]
        yield row([name, *counts, left or "nothing", matched(reports)])


def near_misses() -> Iterator[tuple[str, onnx.ModelProto]]:
    model = hardswish(NEAR_MISS)
    for name in [tensor.name for tensor in model.graph.initializer]:
        yield f"{name} is {WRONG[name]:g}", with_number(hardswish(NEAR_MISS), name, WRONG[name])
    shape = ", float[1, 4, 6, 6]"
    yield "the Clip is an output", hardswish(NEAR_MISS, f"{shape} pc")
    yield "the Clip is used elsewhere", hardswish(NEAR_MISS, f"{shape} z", "[other] z = Neg(pc)")


def ended(names: tuple[str, ...]) -> str:
    counts = Counter(names)
    return ", ".join(f"{count} {op}" if count > 1 else op for op, count in counts.items())


def matched(reports: list[PassReport]) -> str:
    return ", ".join(report.name for report in reports if report.matched)


def table(heads: list[str]) -> list[str]:
    return [row(heads), row(["---"] * len(heads))]


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto | None:
    """Return a model of opset 17 as another operator set has it, or None where that has it not."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if opset < 11 and node.op_type == "Clip":
            _to_attributes(node, arrays, "min", "max")
        if opset < 11 and node.op_type == "Pad":
            _to_attributes(node, arrays, "pads", "value")
        if opset < 13 and node.op_type in ("Squeeze", "Unsqueeze"):
            _to_attributes(node, arrays, "axes")
        if opset >= 18 and node.op_type == "ReduceMean":
            axes = next(a for a in node.attribute if a.name == "axes")
            name = f"{node.output[0]}_axes"
            model.graph.initializer.append(numpy_helper.from_array(np.array(axes.ints), name))
            node.attribute.remove(axes)
            node.input.append(name)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    model.opset_import[0].version = opset
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return model


def _to_attributes(node: onnx.NodeProto, arrays: dict[str, np.ndarray], *names: str) -> None:
    """Turn the constant inputs behind the first one into attributes; computed ones stay."""
    if not all(operand in arrays for operand in node.input[1:]):
        return
    for name, operand in zip(names, list(node.input[1:]), strict=False):
        node.attribute.append(helper.make_attribute(name, arrays[operand].tolist()))
    del node.input[1:]


# What the page says of exporters is checked here, where their networks are optimised already.
STAYS = "the shift stays: Conv pads with zeros behind it, which are other numbers before it"


@cache
def our_operators(spec: ModelSpec) -> Counter[str]:
    return Counter(operators(optimized(own(spec))[0]))


@pytest.mark.parametrize("name", EXPORTERS)
def test_ends_as_our_own(name: str) -> None:
    exporter = EXPORTERS[name]
    model = written(exporter)
    counts = Counter(operators(model))
    assert {op: n for op, n in counts.items() if op not in ("Identity", "Constant")} == dict(
        exporter.operators
    )
    read, rewritten, reports = optimized_by(name)
    onnx.checker.check_model(rewritten, full_check=True)
    assert Counter(operators(rewritten)) == our_operators(exporter.spec) + Counter(exporter.left)
    reasons = {refusal.reason for report in reports for refusal in report.refused}
    assert reasons == ({STAYS} if "Add" in exporter.left else set())
    shape = static_shape(model_input(model))
    assert shape is not None
    x = parity_inputs(shape)[0]
    # Where image and logits are the same as ours, so is what lies between them.
    wanted = read if exporter.left else own(exporter.spec)
    assert error_of_range(run(session(rewritten), x)[0], run(session(wanted), x)[0]) <= TOLERANCE
