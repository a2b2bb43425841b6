"""A quantized model in a precision of floats: what is stored is a constant, as in any other."""

import pytest

from mbv3c.job import Job
from mbv3c.prepare import prepare
from mbv3c.targets import backend_of, find_target
from tests.quantized_networks import network


@pytest.mark.parametrize("name", ["host_cpu", "mobile_gpu:mali"])
def test_weights_are_constants_of_our_kernels(name: str) -> None:
    said: list[str] = []
    job = Job(find_target(name))
    backend = backend_of(job.target)
    prepared = prepare(network(), job, said.append, None)
    plan = backend.lower(prepared, job, said.append).plan
    layers = {node.name for node in prepared.graph.graph.node if node.op_type in ("Conv", "Gemm")}
    ours = {node for step in plan.steps if step.kind != "fallback" for node in step.nodes}
    assert len(layers) == 10
    assert layers <= ours
    assert not [step.kind for step in plan.steps if step.kind == "copy"]
    (warning,) = (text for text in said if "quantized" in text)
    assert warning.startswith("warning: the model is quantized, and fp32 computes")
    assert ("--precision int8" in warning) == (name == "host_cpu")
