"""What cores can do at most, against LLVM's scheduling models."""

import re
from pathlib import Path

import pytest

from mbv3c.execution.emulator.llvm import Llvm
from mbv3c.execution.processes import require
from mbv3c.targets import find_target
from mbv3c.targets.cpu import cores
from mbv3c.targets.cpu.peaks import CORES, Core

# Rows of each instruction that do not wait for each other.
ROWS = {
    "fmla": "fmla v{}.4s, v30.4s, v31.4s",
    "loads": "ldr q{}, [x1, #{offset}]",
    "halves": "fmla v{}.8h, v30.8h, v31.8h",
    "sdot": "sdot v{}.4s, v30.16b, v31.16b",
    "smmla": "smmla v{}.4s, v30.16b, v31.16b",
    "bfmmla": "bfmmla v{}.4s, v30.8h, v31.8h",
    "smlal": "smlal v{}.4s, v30.4h, v31.4h",
}
COUNT, TIMES = 24, 100


@pytest.mark.parametrize("name", CORES)
def test_rates_are_those_of_the_scheduling_model(name: str, llvm: Llvm, tmp_path: Path) -> None:
    core: Core = CORES[name]
    text = []
    known = [kind for kind in ROWS if getattr(core, kind)]
    for kind in known:
        text.append(f"# LLVM-MCA-BEGIN {kind}")
        text += [ROWS[kind].format(i, offset=16 * i) for i in range(COUNT)]
        text.append("# LLVM-MCA-END")
    source = tmp_path / "rows.s"
    source.write_text("\n".join(text) + "\n")
    options = [
        "-mtriple=aarch64-linux-gnu",
        f"-mcpu={core.model}",
        "-mattr=+fullfp16,+dotprod,+i8mm,+bf16",
    ]
    command = [*llvm.mca, *options, f"-iterations={TIMES}", str(source)]
    said = require(command, doing="asking llvm-mca", remedy="", timeout=60).stdout
    cycles = [int(found) for found in re.findall(r"Total Cycles:\s+(\d+)", said)]
    assert len(cycles) == len(known)
    rates = {kind: COUNT * TIMES / taken for kind, taken in zip(known, cycles, strict=True)}
    assert {kind: round(rate) for kind, rate in rates.items()} == {
        kind: getattr(core, kind) for kind in known
    }


def test_a_core_has_the_instructions_and_the_model_of_its_row() -> None:
    for name, core in CORES.items():
        processor = cores.CORES[name]
        assert core.model in (cores.SCHEDULING_MODELS[name], "cortex-a57")
        assert (core.halves > 0) is processor.fp16
        assert (core.sdot > 0) is (processor.integers in ("dotprod", "i8mm"))
        assert (core.smmla > 0) is (processor.integers == "i8mm")
        assert (core.bfmmla > 0) is processor.bf16


def test_limits_of_targets() -> None:
    pi = find_target("arm_cpu:cortex-a76")
    found = {precision: pi.limits(precision) for precision in ("fp32", "fp16", "int8")}
    assert {key: each and each.madds_per_cycle for key, each in found.items()} == {
        "fp32": 8,
        "fp16": 16,
        "int8": 32,
    }
    assert found["fp32"] is not None and "LPDDR4X-4267" in found["fp32"].source
    old = find_target("arm_cpu:cortex-a53")
    assert old.limits("fp16") is None
    integers = old.limits("int8")
    assert integers is not None and integers.madds_per_cycle == 4
    new = find_target("arm_cpu:cortex-x4").limits("int8")
    assert new is not None and (new.madds_per_cycle, new.clock_mhz) == (4 * 32, 0)
    bfloats = find_target("arm_cpu:cortex-a710").limits("bf16")
    assert bfloats is not None and bfloats.madds_per_cycle == 2 * 16
    assert pi.limits("bf16") is None
    assert find_target("arm_cpu:apple-m1").limits("fp32") is None
    assert find_target("host_cpu:native").limits("fp32") is None
    npu = find_target("npu:ethos-u55-128").limits("int8")
    assert npu is not None and npu.madds_per_cycle == 128
