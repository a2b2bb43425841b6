"""Which pass could have removed a node, and why it is still there."""

import numpy as np
import onnx
import pytest
from onnxscript.rewriter import pattern as onnxscript_pattern

from mbv3c.errors import ModelError
from mbv3c.job import Job
from mbv3c.lowering import onnx_import
from mbv3c.passes import PIPELINE, run_pipeline
from mbv3c.passes.leftovers import REMOVES, why_left
from mbv3c.passes.rewrite import Rewrite, _unused
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.library.building import lower_library
from tests.onnx_text import graph

DROPOUT = """
    g (float[1, 8] x) => (float[1, 8] y) <float half = {0.5}, bool yes = {1}> {
        [drop] d = Dropout(x, half, yes)
        y = Neg(d)
    }
"""


NO_REWRITE = "no rewrite takes it apart; write it in other operators, or end the export before it"


def left(model: onnx.ModelProto, op_type: str) -> list[str]:
    rewritten, reports = run_pipeline(model)
    nodes = rewritten.graph.node
    positions = [i for i, node in enumerate(nodes) if node.op_type == op_type]
    assert positions
    return why_left(rewritten, positions, reports)


def test_a_refusal_of_that_very_node_is_the_reason() -> None:
    assert left(graph(DROPOUT), "Dropout") == [
        "Dropout drop: drop_noops refused it: Dropout may be in training mode; "
        "simplify removes what needs constants only, and 'x' is no constant"
    ]


def test_a_node_without_a_name_is_not_taken_for_another_one() -> None:
    (line,) = left(graph(DROPOUT.replace("[drop]", "")), "Dropout")
    assert line.startswith("Dropout → d: drop_noops removes such nodes only where they pass on")


def test_an_operator_of_onnxruntimes_own_names_the_file_before() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[1, 8] x) => (float[1, 8] y) { [fused] y = com.microsoft.Unheard(x) }
    """)
    (line,) = why_left(model, [0], [])
    assert line.startswith("Unheard fused: it is onnxruntime's own, and no rewrite takes it apart")


def test_a_topk_that_stays_says_why() -> None:
    text = """
        g (float[1, 9] x) => (float[1, 3] y) {
            [best] y, i = TopK <sorted = 0> (x, k)
        }
    """
    rewritten, reports = run_pipeline(graph(text, k=np.array([3])))
    host = find_target("host_cpu")
    with pytest.raises(ModelError) as caught:
        lower_library(backend_of(host), rewritten, Job(host), reports)
    assert str(caught.value).endswith(
        "has no kernel for these operators: TopK (nodes: best)\n"
        "  TopK best: spell_topk refused it: it does not sort (sorted 0), and its order is "
        "onnxruntime's own; simplify removes what needs constants only, and 'x' is no constant"
    )


def test_what_no_pass_looked_at() -> None:
    text = "g (float[1, 8, 8] x) => (float[1] y) { [n] y = Det(x) }"
    assert left(graph(text), "Det") == [f"Det n: {NO_REWRITE}"]


def test_nodes_of_which_there_is_the_same_to_say_share_a_line() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
        g (float[1, 4] x) => (float[1, 4] y) {
            [one] a = my.domain.Twist(x) [two] b = my.domain.Dropout(a) y = my.domain.Twist(b)
        }"""
    )
    assert why_left(model, [0, 1, 2], []) == [
        f"Twist one, → y: {NO_REWRITE}",
        f"Dropout two: {NO_REWRITE}",
    ]


def test_what_was_not_computed_although_it_could() -> None:
    text = "g (float[1, 8] x) => (float[1, 8] y) { [r] n = Abs(k) y = Add(x, n) }"
    model = graph(text, k=np.ones(8, np.float32))
    assert why_left(model, [0], []) == [
        "Abs r: simplify removes what needs constants only, but did not compute this one"
    ]


@pytest.mark.parametrize("one", [one for one in PIPELINE if isinstance(one, Rewrite)])
def test_a_rewrite_removes_operators_of_its_patterns(one: Rewrite) -> None:
    matched = {
        node.op_identifier()[1]
        for spelling in one.patterns
        for node in onnxscript_pattern.RewriteRule(spelling, _unused)._target_pattern
    }
    assert one.removes.operators
    assert set(one.removes.operators) <= matched
    assert REMOVES[one.name] is one.removes


def test_every_name_is_that_of_a_pass() -> None:
    model = graph("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    names = {one(model)[1].name for one in PIPELINE}
    assert set(REMOVES) < names
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert {op for removal in REMOVES.values() for op in removal.operators} <= known


def test_the_error_of_compile_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """TVM imports what our passes remove; so take one importer away from it."""
    known = onnx_import._get_convert_map()
    monkeypatch.setattr(
        onnx_import,
        "_get_convert_map",
        lambda: {op: how for op, how in known.items() if op != "Dropout"},
    )
    rewritten, reports = run_pipeline(graph(DROPOUT))
    host = find_target("host_cpu")
    with pytest.raises(ModelError) as caught:
        lower_library(backend_of(host), rewritten, Job(host), reports)
    lines = str(caught.value).splitlines()
    assert "cannot import these operators: Dropout (nodes: drop)" in lines[0]
    assert lines[1].startswith("  Dropout drop: drop_noops refused it: Dropout may be in training")
