"""Precisions are found by their names."""

import pytest

from mbv3c.errors import UsageError
from mbv3c.precision import find_precision


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown precision 'fp8'; known: fp32, fp16, bf16, int8"):
        find_precision("fp8")
