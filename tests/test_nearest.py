import pytest

from mbv3c.nearest import nearest

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
