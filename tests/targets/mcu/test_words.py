"""How weights are packed for Cortex-M, and what a table of cores says."""

from dataclasses import replace

import numpy as np
import pytest

from mbv3c.c_library.run import CLibrary
from mbv3c.errors import UsageError
from mbv3c.manifest import TensorRecord
from mbv3c.targets import find_target, read_options
from mbv3c.targets.mcu.devices import KIB, MCUS, McuOptions
from mbv3c.targets.mcu.firmware import ImageSizes
from mbv3c.targets.mcu.kernels import processor_of
from mbv3c.targets.mcu.memory import check_sram
from mbv3c.targets.mcu.schedules.words import chunks, pack

M7, M55 = (find_target(f"mcu:{device}") for device in ("cortex-m7", "cortex-m55"))


@pytest.mark.parametrize("target", [M7, M55], ids=lambda target: target.device)
@pytest.mark.parametrize("inputs", [4, 6, 21, 24, 47])
def test_every_weight_meets_its_input_once(target, inputs: int) -> None:
    processor, columns = processor_of(target), 4
    rng = np.random.default_rng(inputs)
    weights = rng.integers(-127, 128, (6, inputs), np.int8)
    x = rng.integers(-128, 128, inputs, np.int8).astype(int)
    packed = pack(weights, columns, processor).reshape(2, -1)
    sums = np.zeros((2, columns), int)
    for panel, row in enumerate(packed):
        at = 0
        for chunk in chunks(inputs, processor):
            for turn in range(chunk.turns):
                for column in range(columns):
                    start = chunk.start + turn * chunk.lanes
                    own = row[at : at + chunk.lanes].astype(int)
                    sums[panel, column] += own @ x[start : start + chunk.lanes]
                    at += chunk.lanes
        assert at == len(row)
    assert sums.ravel()[:6].tolist() == (weights.astype(int) @ x).tolist()
    assert not sums.ravel()[6:].any()


def test_units_are_those_of_the_cores() -> None:
    helium = {target.device for target in MCUS if target.helium}
    assert helium == {"cortex-m55", "cortex-m85"}
    assert all(target.dsp for target in MCUS)
    nearest = [target.device for target in MCUS if not target.is_emulated]
    assert nearest == ["cortex-m85"]  # qemu 7.2 has none


def test_options() -> None:
    assert read_options(M7, {"sram": 320, "prefix": "net"})[1] == McuOptions("net", 320 * KIB)
    for given, message in (
        ({"sram": 0}, "--sram 0 is not possible: give the KiB"),
        ({"artifact": "so"}, "unknown artifact 'so'; mcu:cortex-m7 has one: c"),
        ({"prefix": "int"}, "--prefix 'int' is no name in C"),
        ({"cores": 2}, "--cores is for CPUs; mcu:cortex-m7 has one core"),
        ({"memory_mode": "Sram_Only"}, "--memory-mode is for --target npu only"),
    ):
        with pytest.raises(UsageError, match=message):
            read_options(M7, given)


IMAGE = TensorRecord("x", (1, 3, 96, 96), "float32")
LIBRARY = CLibrary("net", *[None] * 2, (IMAGE,), (TensorRecord("y", (1, 1000), "float32"),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            150,
            r"needs 174,096 bytes .* may take 153,600 \(150 KiB\): 55,296 of arena, 110,592 of ",
        ),
        (150, "what would fit, by proportion: images of 64 pixels in the place of 96 or about "),
        (120, "images of 64 pixels in the place of 96$"),
        (10, "no smaller resolution or width of this network fits"),
        (512, ""),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(budget: int, message: str) -> None:
    sizes = ImageSizes(697_717, 174_096)
    if not message:
        check_sram(sizes, LIBRARY, 55_296, budget * KIB, M7)
        return
    with pytest.raises(UsageError, match=message):
        check_sram(sizes, LIBRARY, 55_296, budget * KIB, M7)
    own = replace(M7, sram_bytes=budget * KIB)
    with pytest.raises(UsageError, match="or --sram for a chip with more than ST STM32H743 has"):
        check_sram(sizes, LIBRARY, 55_296, budget * KIB, own)
