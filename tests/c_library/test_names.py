"""Names in C for what a model calls as it likes."""

import pytest

from mbv3c.c_library.names import check_prefix, distinct, identifier, prefix_for
from mbv3c.errors import UsageError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("logits", "logits"),
        ("serving_default_input:0", "serving_default_input_0"),
        ("320", "n320"),
        ("int", "int_"),
        ("typeof", "typeof_"),
        ("*/ int x; /*", "int_x"),
        ("картинка", ""),
        ("a" * 200, "a" * 60),
    ],
)
def test_identifiers_read_like_the_names(name: str, expected: str) -> None:
    assert identifier(name) == expected


def test_a_model_without_a_name_in_c_is_the_network() -> None:
    assert prefix_for("Сеть") == "network"
    assert prefix_for("MobileNet-V3 (small)") == "mobilenet_v3_small"


def test_tensors_keep_apart() -> None:
    assert distinct(["a.b", "a/b", "", "A b"], "input") == ["a_b", "a_b_2", "input_2", "a_b_3"]


@pytest.mark.parametrize("prefix", ["", "2nd", "while", "a-b", "a b", "x" * 61, "_x", "é"])
def test_no_name_in_c_is_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match="is no name in C"):
        check_prefix(prefix)
