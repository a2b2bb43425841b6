"""The rewrites keep what random models compute. `--variations 500` tries more than CI does."""

import numpy as np
import onnx
import pytest

from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.metrics import over_range
from mbv3c.parity.reference import run, session
from mbv3c.passes import run_pipeline
from tests.variations import variation

TOLERANCE = 1e-5


@pytest.mark.parametrize("part", [0, 1], ids=["even", "odd"])
def test_random_models_keep_their_outputs(part: int, request: pytest.FixtureRequest) -> None:
    wrong: dict[int, str] = {}
    for seed in range(part, request.config.getoption("--variations"), 2):
        model = variation(seed)
        given = model.SerializeToString()
        rewritten, reports = run_pipeline(model)
        onnx.checker.check_model(rewritten)
        assert model.SerializeToString() == given, seed
        assert [y.name for y in rewritten.graph.output] == [y.name for y in model.graph.output]
        opened, x = (session(model), session(rewritten)), inputs_of(model)[0]
        for wanted, ours in zip(*(run(each, x) for each in opened), strict=True):
            error = over_range(float(np.abs(ours - wanted).max()), float(np.ptp(wanted)))
            if not error <= TOLERANCE:
                changed = [report.name for report in reports if report.changed]
                wrong[seed] = f"{error:.1e} of range after {', '.join(changed)}"
    assert not wrong
