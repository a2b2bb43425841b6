"""Libraries that look at the processor before they compute."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from elftools.elf.elffile import ELFFile

from mbv3c.errors import Mbv3cError
from mbv3c.execution.emulator.kit import native_arch
from mbv3c.execution.emulator.llvm import Llvm
from mbv3c.execution.features import FEATURES, features_of
from mbv3c.execution.host import HostRunner
from mbv3c.job import Job
from mbv3c.precision import FP32, INT8, Precision
from mbv3c.targets import find_target
from mbv3c.targets.cpu import backend as cpu
from mbv3c.targets.cpu import guard
from mbv3c.targets.cpu.cores import processor_of
from mbv3c.targets.library.target import LibraryTarget, resolve, tvm_target
from tests.onnx_text import graph, random
from tests.quantized_networks import quantized


@pytest.fixture(scope="module")
def sums() -> onnx.ModelProto:
    return graph(
        "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) { y = Conv(x, w) }",
        w=random(8, 8, 1, 1),
    )


def built(
    model: onnx.ModelProto, name: str, folder: Path, precision: Precision = FP32
) -> LibraryTarget:
    """Build a model for a target, as model.so in a folder."""
    target = resolve(replace(find_target(name), cores=1))
    assert isinstance(target, LibraryTarget)
    job = Job(target, precision)
    lowered = cpu.lower(model, processor_of(target), job)
    cpu.build(lowered.module, target, folder / "model.so")
    return target


def test_what_is_missing_is_said_at_each_call(
    sums: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that no processor has stands for what this one lacks."""
    first = FEATURES[native_arch()][0]
    wings = [replace(first, bit=62 + at, flag=f"wing{at}") for at in (0, 1)]
    monkeypatch.setattr(guard, "features_of", lambda target: (first, *wings))
    built(sums, "host_cpu", tmp_path)
    infer = HostRunner().opened(tmp_path)
    for _ in range(2):
        with pytest.raises(Mbv3cError) as caught:
            infer(random(1, 8, 4, 4))
        lacks = f"no {wings[0].words}, no {wings[1].words}; compile for a target that needs none"
        assert f"this library is for host_cpu:native, and the processor has {lacks}" in str(
            caught.value
        )
    monkeypatch.setattr(guard, "features_of", lambda target: (first,))
    built(sums, "host_cpu", tmp_path)
    infer = HostRunner().opened(tmp_path)
    results = [infer(random(1, 8, 4, 4))[0] for _ in range(2)]
    np.testing.assert_array_equal(*results)


def test_what_every_processor_runs_is_not_checked(sums: onnx.ModelProto) -> None:
    target = find_target("arm_cpu:cortex-a53")
    assert isinstance(target, LibraryTarget)
    module = cpu.lower(sums, processor_of(target), Job(target, FP32)).module
    checked = guard.guarded(module, target)
    assert (checked.module, checked.source) == (module, "")


def unreadable(library: Path, target: LibraryTarget, llvm: Llvm) -> int:
    """Count the instructions that are not of a processor with a target's features, and no more."""
    with library.open("rb") as file:
        code = ELFFile(file).get_section_by_name(".text").data()
    has = "".join(f",+{feature.llvm}" for feature in features_of(tvm_target(target)))
    words = [
        " ".join(f"0x{byte:02x}" for byte in code[at : at + 4]) for at in range(0, len(code), 4)
    ]
    done = subprocess.run(
        [*llvm.mc, "--disassemble", "-triple=aarch64", f"-mattr=+neon{has}"],
        input="\n".join(words),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "\tret" in done.stdout
    return done.stderr.count("invalid instruction encoding")


def test_no_instruction_is_missing_on_a_device_without_dot_products(
    llvm: Llvm, tmp_path: Path
) -> None:
    """Cortex-A55 of the Snapdragon 845 has none, though LLVM's core has them."""
    model = quantized(
        "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) { [only] y = Conv(x, w) }",
        w=random(8, 8, 1, 1),
    )
    without = built(model, "arm_cpu:cortex-a55-nodotprod-android", tmp_path, INT8)
    assert unreadable(tmp_path / "model.so", without, llvm) == 0
    dots = built(model, "arm_cpu:cortex-a55-android", tmp_path, INT8)
    assert unreadable(tmp_path / "model.so", dots, llvm) == 0
    assert unreadable(tmp_path / "model.so", without, llvm) > 0


def test_products_of_matrices_are_only_where_the_core_has_them(llvm: Llvm, tmp_path: Path) -> None:
    model = quantized(
        "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) { [only] y = Conv(x, w) }",
        w=random(8, 8, 1, 1),
    )
    library = tmp_path / "model.so"
    without = built(model, "arm_cpu:cortex-a76", tmp_path, INT8)
    assert unreadable(library, without, llvm) == 0
    has = built(model, "arm_cpu:cortex-a710", tmp_path, INT8)
    assert "i8mm" in [feature.llvm for feature in features_of(tvm_target(has))]
    assert unreadable(library, has, llvm) == 0
    hidden = replace(has, without=(*has.without, "i8mm"))
    assert unreadable(library, hidden, llvm) > 0
    assert processor_of(hidden).integers == "dotprod"
    assert processor_of(replace(has, without=("dotprod",))).integers == "neon"
