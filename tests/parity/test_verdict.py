"""How a verdict reads."""

from typing import Any

from mbv3c.parity.verdict import sentence

OUTPUTS = (
    "max error 1.2e-02 of range in logits (allowed 4.9e-01; onnxruntime itself spreads by "
    "1.2e-01), cosine 0.999000000, top-1 agreement 100%, over 2 inputs"
)


def verdict(**more: Any) -> str:
    row = {"passed": True}
    parity = {
        "passed": True,
        "ran_on": "emulated cortex-a76",
        "worst_output": "logits",
        "max_error_of_range": 0.012,
        "tolerance": 0.49,
        "reference_spread": 0.12,
        "cosine": 0.999,
        "top1_agreement": 1.0,
        "inputs": [row, row],
        "constants": {"passed": True, "count": 9},
    }
    return sentence({**parity, **more})


def test_floats_are_proven_by_the_outputs() -> None:
    kernels = {"passed": True, "count": 5, "values": 0, "differing": 0, "max_error_of_range": 1e-6}
    assert verdict(kernels_alone=kernels) == (
        f"passed on emulated cortex-a76: {OUTPUTS}; its 9 constants are the model's; each of 5 "
        "kernels by itself: max error 1.0e-06 of range"
    )


def test_integers_are_proven_by_the_kernels_which_come_first() -> None:
    kernels = {"passed": True, "count": 5, "values": 1234, "differing": 2}
    assert verdict(kernels_alone=kernels) == (
        "passed on emulated cortex-a76: each of 5 kernels by itself: 2 of 1,234 values differ, "
        f"all at ties; its 9 constants are the model's; the outputs, which prove less: {OUTPUTS}"
    )
    wrong = kernels | {"passed": False, "missed": ["conv is off"]}
    missed = verdict(kernels_alone=wrong, passed=False)
    assert missed.startswith("MISSED on emulated cortex-a76: WRONG by themselves: conv is off; ")


def test_without_kernels_the_outputs_come_first() -> None:
    assert verdict(not_checked="no emulator").startswith(
        f"passed on emulated cortex-a76: {OUTPUTS}; its 9"
    )
