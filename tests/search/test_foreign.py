"""Blocks that people bring: what is found to be cut, can be cut."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from mbv3c.search.channels import Channels
from mbv3c.search.prune import Cutter
from tests.foreign_blocks import BLOCKS, with_block
from tests.foreign_models import MODELS
from tests.search.networks import all_outputs
from tests.search.test_prune import silenced
from tests.variations import variation

CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    **{name: lambda name=name: with_block(name) for name in BLOCKS},  # type: ignore[misc]
    **{name: make for name, make in MODELS.items() if "quantized" not in name},
    **{f"variation {n}": lambda n=n: variation(n) for n in range(40)},  # type: ignore[misc]
}
TOLERANCE = 1e-4  # of the range; one channel in each place is left out of sums of at most 1,440
HALF_TOLERANCE = 1e-2


@pytest.mark.parametrize("name", CASES)
def test_a_channel_that_nothing_reads_can_be_cut(name: str) -> None:
    model = CASES[name]()
    channels = Channels(model)
    assert all(each.reason for each in channels.uncut())
    several = [site for site in channels.sites() if site.channels > 1]
    quiet = silenced(model, {site.name: [0] for site in several})
    small = Cutter(quiet).cut({site: range(1, site.channels) for site in several})
    limit = HALF_TOLERANCE if "fp16" in name else TOLERANCE
    for wanted, got in zip(all_outputs(quiet), all_outputs(small), strict=True):
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= limit * max(np.ptp(wanted), 1e-30)
