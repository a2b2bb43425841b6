"""Reports: what is compared, what is refused, and which exit code a miss has."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbv3c.bundle import Bundle, write_manifest
from mbv3c.errors import SavedFileError, UsageError
from mbv3c.lowering.describe import MemoryRecord
from mbv3c.manifest import ModelRecord, TensorRecord
from mbv3c.parity.compare import Parity, compare
from mbv3c.parity.gate.baseline import (
    CYCLES,
    INSTRUCTIONS,
    TIME,
    Allowed,
    Report,
    compare_with,
    read_baseline,
    report_of,
    write_report,
)
from mbv3c.parity.gate.limits import measure_all
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.parity.verdict import exit_code
from mbv3c.targets import backend_for, open_bundle
from mbv3c.targets.ethos_u.devices import Knobs
from mbv3c.targets.ethos_u.manifest import NpuManifest, NpuRecord, NpuTargetRecord
from mbv3c.targets.ethos_u.vela import Cost
from mbv3c.targets.ethos_u.verdict import NpuParity, OperatorsAlone, StepInput
from mbv3c.targets.library.manifest import LibraryManifest, LibraryTargetRecord

LOGITS = np.linspace(0, 1, 10, dtype=np.float32).reshape(1, 10)  # range 1
RATIO = {
    "kind": TIME,
    "value": 0.5,
    "against": "onnxruntime",
    "against_version": "1.0",
    "threads": 1,
    "undisturbed": True,
}


MANIFEST = {
    "mbv3c": "0",
    "model": ModelRecord("model", {}),
    "input": TensorRecord("x", (1, 4), "float32"),
    "outputs": (),
    "passes": (),
    "keep_float": (),
    "tuned_kernels": (),
    "quantization": None,
    "parity": None,
    "tools": {},
}


def make_bundle(
    folder: Path, library: bytes = bytes(1000), weights: int = 500, arena: int = 400
) -> Bundle:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "model.so").write_bytes(library)
    (folder / "golden").mkdir()
    for name in ("input.npy", "output.npy", "tolerance.txt"):
        (folder / "golden" / name).write_bytes(b"golden")
    manifest = LibraryManifest(
        **MANIFEST,
        precision="fp32",
        target=LibraryTargetRecord("host_cpu:native", "x86_64-linux-gnu", "x86-64", 1),
        kernels=(),
        memory=MemoryRecord(weights, arena, arena, (), ()),
    )
    write_manifest(folder, manifest)
    return open_bundle(folder)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "b")


def verdict(error: float = 2e-6) -> Parity:
    y = LOGITS.copy()
    y[0, 0] += error
    references = [[ReferenceOutput("logits", LOGITS, 0.0, 1)]]
    return compare([[y]], references, TOLERANCES["fp32"], ran_on="a test", exact_program=True)


def report(bundle: Bundle, error: float = 2e-6, speed: dict[str, Any] | None = None) -> Report:
    parity = verdict(error)
    footprint = backend_for(bundle).footprint(bundle)
    return report_of(bundle, footprint, parity, measure_all(parity.pairs), speed)


def read(path: Path, bundle: Bundle) -> Report:
    return read_baseline(path, bundle, backend_for(bundle).footprint(bundle).cores)


def missed(before: Report, now: Report, **allowed: float) -> dict[str, int]:
    checks = compare_with(before, now, Allowed(**allowed))
    return {one.name: one.exit_code for one in checks if not one.passed}


def test_what_a_report_holds(bundle: Bundle) -> None:
    found = report(bundle, speed=RATIO)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["target"] == "host_cpu:native"
    assert found["sizes"] == {
        "bundle_bytes": 1023,
        "library_bytes": 1000,
        "weight_bytes": 500,
        "arena_bytes": 400,
    }
    (error,) = found["errors"]
    assert error["error"] == pytest.approx(2e-6, rel=1e-3)
    assert error["allowed"] == 1e-5
    assert found["metrics"][0]["max_abs"] == pytest.approx(2e-6, rel=1e-3)
    assert found["parity"]["passed"] is True


def test_is_read_back_as_a_baseline(bundle: Bundle, tmp_path: Path) -> None:
    write_report(tmp_path / "r.json", report(bundle, speed=RATIO))
    assert read(tmp_path / "r.json", bundle) == report(bundle, speed=RATIO)


def test_the_same_again_misses_nothing(bundle: Bundle) -> None:
    before = report(bundle, speed=RATIO)
    checks = compare_with(before, before, Allowed(0.0, 0.0, 0.0))
    assert [one.name for one in checks] == [
        "error of logits, input 0",
        TIME,
        *("bundle_bytes", "library_bytes", "weight_bytes", "arena_bytes"),
    ]
    assert all(one.passed for one in checks)
    assert exit_code(checks) == 0


@pytest.mark.parametrize(("value", "kept"), [(0.525, True), (0.526, False), (0.1, True)])
def test_slower_is_4(bundle: Bundle, value: float, kept: bool) -> None:
    before, now = (report(bundle, speed={**RATIO, "value": v}) for v in (0.5, value))
    assert missed(before, now, slowdown=0.05) == ({} if kept else {TIME: 4})


@pytest.mark.parametrize("kind", [INSTRUCTIONS, CYCLES])
def test_instructions_and_cycles_are_exact(bundle: Bundle, kind: str) -> None:
    before, now = (report(bundle, speed={"kind": kind, "value": v}) for v in (10**9, 10**9 + 1))
    assert missed(before, now, slowdown=0.0) == {kind: 4}
    assert missed(before, now, slowdown=1e-8) == {}


def test_larger_is_5(bundle: Bundle, tmp_path: Path) -> None:
    larger = make_bundle(tmp_path / "larger", bytes(1021))
    hungrier = make_bundle(tmp_path / "hungrier", arena=409)
    before = report(bundle)
    assert missed(before, report(larger)) == {"bundle_bytes": 5, "library_bytes": 5}
    assert missed(before, report(hungrier)) == {"arena_bytes": 5}
    assert missed(before, report(larger), growth=0.03) == {}


def test_an_error_may_grow_by_a_share_of_its_tolerance(bundle: Bundle) -> None:
    before = report(bundle)
    assert missed(before, report(bundle, 6.9e-6)) == {}
    assert missed(before, report(bundle, 7.2e-6)) == {"error of logits, input 0": 3}
    assert missed(before, report(bundle, 7.2e-6), error=0.6) == {}
    assert missed(before, report(bundle, float("nan"))) == {"error of logits, input 0": 3}


def test_of_several_misses_the_gravest_counts(bundle: Bundle, tmp_path: Path) -> None:
    larger = make_bundle(tmp_path / "larger", bytes(2000))
    before = report(bundle, speed=RATIO)
    slow = {**RATIO, "value": 2.0}
    both = compare_with(before, report(larger, speed=slow), Allowed())
    assert exit_code(both) == 4
    assert exit_code(compare_with(before, report(larger, speed=RATIO), Allowed())) == 5
    assert exit_code(compare_with(before, report(larger, 9e-6, slow), Allowed())) == 3


def test_a_busy_machine_is_named(bundle: Bundle) -> None:
    now = report(bundle, speed={**RATIO, "undisturbed": False})
    checks = compare_with(report(bundle, speed=RATIO), now, Allowed())
    (time,) = [one for one in checks if one.name == TIME]
    assert (
        time.finding == "0.500, was 0.500: +0.00% (allowed +5.00%); something else ran beside it"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", INSTRUCTIONS),
        ("against_version", "1.1"),
        ("threads", 2),
        ("against", "openvino"),
        ("on", "a GPU"),
    ],
)
def test_another_kind_of_speed_is_not_compared(bundle: Bundle, name: str, value: object) -> None:
    now = report(bundle, speed={**RATIO, name: value})
    with pytest.raises(UsageError, match=f"its speed's {name} was .* write another with --report"):
        compare_with(report(bundle, speed=RATIO), now, Allowed())


def test_other_outputs_are_not_compared(bundle: Bundle) -> None:
    now = report(bundle)
    now["errors"][0]["name"] = "boxes, input 0"
    with pytest.raises(UsageError, match="its outputs and inputs was"):
        compare_with(report(bundle), now, Allowed())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "arm_cpu:cortex-a76"),
        ("cores", 2),
        ("precision", "fp16"),
        ("model_sha256", "0" * 64),
    ],
)
def test_a_baseline_of_something_else(
    bundle: Bundle, tmp_path: Path, key: str, value: object
) -> None:
    write_report(tmp_path / "r.json", report(bundle) | {key: value})
    with pytest.raises(UsageError, match=f"is no baseline for .*: its {key} is {value}"):
        read(tmp_path / "r.json", bundle)


def test_a_baseline_that_missed(bundle: Bundle, tmp_path: Path) -> None:
    write_report(tmp_path / "r.json", report(bundle, 1.0))
    with pytest.raises(UsageError, match="missed parity; that is no baseline"):
        read(tmp_path / "r.json", bundle)


def drop(*keys: str) -> Callable[[Report], object]:
    def damage(found: Report) -> object:
        inner: Any = found
        for key in keys[:-1]:
            inner = inner[int(key) if key.isdecimal() else key]
        return inner.pop(keys[-1])

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("format"), "is no report of"),
        (lambda found: found.update(schema=2), "has schema 2, and this version reads 1"),
        (drop("parity", "passed"), "is damaged"),
        (drop("errors", "0", "error"), "is damaged"),
        (lambda found: found["errors"][0].update(error=None), "is damaged"),
        (drop("sizes"), "is damaged"),
        (lambda found: found.update(sizes=[1]), "is damaged"),
        (drop("speed", "value"), "is damaged"),
        (lambda found: found.update(speed="fast"), "is damaged"),
    ],
)
def test_a_damaged_baseline(
    bundle: Bundle, tmp_path: Path, damage: Callable[[Report], object], message: str
) -> None:
    found = copy.deepcopy(report(bundle, speed=RATIO))
    damage(found)
    write_report(tmp_path / "r.json", found)
    with pytest.raises(SavedFileError, match=message):
        read(tmp_path / "r.json", bundle)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\x00", b"[" * 100_000])
def test_a_file_that_is_no_report(bundle: Bundle, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r.json").write_bytes(data)
    with pytest.raises(SavedFileError):
        read(tmp_path / "r.json", bundle)


def test_no_baseline_there(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*--report"):
        read(tmp_path / "r.json", bundle)


def test_of_an_npu_bundle(tmp_path: Path) -> None:
    """Its errors are LSB, its memory and its cycles vela's estimates."""
    folder = tmp_path / "npu"
    folder.mkdir()
    for name in ("model.onnx", "model_vela.npz"):
        (folder / name).write_bytes(b"12345")
    cost = Cost(7, 0.1, 3, 0, 2, 10, ())
    npu = NpuRecord((), (), 0, {}, 0, 0, Knobs(), None, None, (), cost, True)
    device = NpuTargetRecord("npu:ethos-u55-128", 128, "system", "mode", 500)
    bundle = write_manifest(
        folder, NpuManifest(**MANIFEST, precision="int8", target=device, host=None, npu=npu)
    )
    backend = backend_for(bundle)
    steps = (StepInput(0.1, 0.99, 1.0, 1.0, lsb=2, allowed_lsb=3, spread_lsb=1),)
    parity = NpuParity(steps, OperatorsAlone(1, "conv", 0, 1), True, None, True, 2, "")
    speed = backend.known_speed(bundle)
    assert speed == {"kind": CYCLES, "value": 7}
    found = report_of(bundle, backend.footprint(bundle), parity, [], speed)
    assert found["sizes"] == {
        "bundle_bytes": 10,
        "stream_bytes": 5,
        "sram_bytes": 3,
        "dram_bytes": 0,
        "flash_bytes": 2,
    }
    assert found["errors"] == [{"name": "TOSA against QDQ, input 0", "error": 2, "allowed": 3}]
    worse = copy.deepcopy(found)
    worse["sizes"]["dram_bytes"], worse["errors"][0]["error"] = 1, 4
    assert missed(found, worse) == {"error of TOSA against QDQ, input 0": 3, "dram_bytes": 5}
