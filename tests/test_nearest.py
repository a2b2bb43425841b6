import pytest

from mbv3c.nearest import among, nearest

KNOWN = {
    "cortex-a76": "arm_cpu:cortex-a76",
    "cortex-a72": "arm_cpu:cortex-a72",
    "Raspberry Pi 5": "rpi5",
    "rpi5": "rpi5",
    "mali": "mobile_gpu:mali",
}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Cortex A76", ["arm_cpu:cortex-a76", "arm_cpu:cortex-a72"]),
        ("raspberrypi5", ["rpi5"]),
        ("RPI-5", ["rpi5"]),
        ("mali-g610", ["mobile_gpu:mali"]),
        ("a76", ["arm_cpu:cortex-a76"]),
        ("pi", ["rpi5"]),
        ("", []),
        ("--", []),
        ("zzz", []),
        ("a7", []),
    ],
)
def test_nearest(written: str, meant: list[str]) -> None:
    assert nearest(written, KNOWN) == meant


def test_three_at_most_and_none_twice() -> None:
    known = {f"board{number}": f"board{number // 2}" for number in range(9)}
    assert len(nearest("board", known)) == 3


def test_an_error_names_the_nearest_and_then_all() -> None:
    assert among("larg", ("large", "small")) == "; nearest: large; known: large, small"
    assert among("zzz", ("large", "small")) == "; known: large, small"
    assert among("small-er", ("large", "small")) == "; nearest: small; known: large, small"
    assert among("int4", ("int8", "int16")) == "; known: int8, int16"
    assert among("zzz", ()) == "; known: none"
    others = {"medium": "network:medium"}
    assert among("mediun", ("large",), others) == "; nearest: network:medium; known: large"


def test_of_many_names_an_error_names_the_nearest_alone_and_what_lists_them() -> None:
    cores = [f"cortex-a{number}" for number in range(70, 79)]
    assert among("zzz", cores, listing="mbv3c targets") == "; all: `mbv3c targets`"
    # Little alike, but what is nearest: a part of the name.
    others = {"cortex-m7": "mcu:cortex-m7"}
    said = among("m99", cores, others, "mbv3c targets")
    assert said == "; nearest: mcu:cortex-m7; all: `mbv3c targets`"
    assert among("zzz", cores) == f"; known: {', '.join(cores)}"
