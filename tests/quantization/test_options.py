import pytest

from mbv3c.errors import UsageError
from mbv3c.quantization.options import KeepFloat, QuantizeOptions, from_given, parse_keep_float


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", KeepFloat(0)),
        ("3", KeepFloat(3)),
        ("auto:40dB", KeepFloat(budget_db=40.0)),
        ("auto:40", KeepFloat(budget_db=40.0)),
        ("auto:-3.5 db", KeepFloat(budget_db=-3.5)),
    ],
)
def test_what_stays_float_is_read(text: str, wanted: KeepFloat) -> None:
    assert parse_keep_float(text) == wanted


@pytest.mark.parametrize("text", ["", "-1", "1.5", "auto", "auto:", "auto:nan", "auto:1x", "3:4"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a number of layers"):
        parse_keep_float(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"activations": "int4"}, "unknown activations 'int4'; known: int8, int16"),
        ({"method": "mse"}, "unknown method 'mse'; known: minmax, percentile, entropy"),
        ({"method": "percentile", "percentile": 50.0}, "above 50"),
        ({"percentile": 99.0}, "belongs to --method percentile"),
        ({"method": "entropy", "percentile": 99.0}, "belongs to --method percentile"),
    ],
)
def test_options_that_make_no_sense_are_refused(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_given(given)


def test_nothing_given_is_the_defaults() -> None:
    assert from_given({"method": None, "percentile": None}) == QuantizeOptions()
