"""A network that an Ethos-U and a Cortex-M55 compute in turns, as one C library."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c import inference
from mbv3c.errors import BundleError, ToolError, UsageError
from mbv3c.parity.reference import run, session
from mbv3c.targets import open_bundle
from mbv3c.targets.ethos_u.compiling import run_tosa
from mbv3c.targets.ethos_u.devices import NpuOptions
from mbv3c.targets.ethos_u.verify import check_stream
from mbv3c.targets.mcu.kit import require_kit
from mbv3c.targets.one_chip.backend import BACKEND
from mbv3c.targets.one_chip.building import check_sram
from mbv3c.targets.one_chip.files import other_files
from mbv3c.targets.one_chip.record import firmware_of
from mbv3c.targets.one_chip.runner import runner_of
from mbv3c.targets.one_chip.verdict import FirmwareParity
from mbv3c.targets.one_chip.verify import Subject, other_constants, subject_of
from tests.built_once import built_once
from tests.c_library.tampering import changed, replaced
from tests.command_line import document, mbv3c

EXAMPLE = Path(__file__).parents[3] / "examples" / "ethos-u"
# Max of two maps is not for the NPU, nor is what follows Abs; both sides of Max are.
TEXT = """<ir_version: 8, opset_import: ["" : 17]>
middle (float[1, 3, 16, 16] input) => (float[1, 10] output) {
    a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(input, stem)
    b = Relu(a)
    s = Conv(b, side)
    m = Max(b, s)
    c = Conv(m, expand)
    d = Relu(c)
    f = GlobalAveragePool(d)
    g = Flatten(f)
    l = Gemm<transB = 1>(g, head)
    n = Abs(l)
    t = ReduceMax<axes = [1]>(n)
    output = Div(l, t)
}"""
SIZES = {"stem": (8, 3, 3, 3), "side": (8, 8, 1, 1), "expand": (16, 8, 1, 1), "head": (10, 16)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parsed = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in SIZES.items():
        values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        parsed.graph.initializer.append(numpy_helper.from_array(values, name))
    path = tmp_path_factory.mktemp("model") / "middle.onnx"
    onnx.save(parsed, path)
    return path


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with a library called `network`, which was verified."""

    def compile_to(place: Path) -> None:
        done = mbv3c(
            *("compile", model, "--target", "npu:ethos-u55-256", "--artifact", "c"),
            *("--prefix", "network", "-o", place, "--force", "--json"),
        )
        shown = document(done)
        parity, library = shown["parity"]["c_library"], shown["c_library"]
        assert shown["parity"]["passed"]
        assert shown["parity"]["stream_bit_equal"] is True
        assert (parity["inputs"], parity["calls"], parity["differing"]) == (2, 2, 0)
        assert parity["integers"] == 2 * (3 * 16 * 16 + 8 * 8 * 8)
        assert parity["max_error_of_range"] < 1e-6
        assert [part["on"] for part in library["parts"]] == ["cpu", "npu", "cpu", "npu", "cpu"]
        assert library["arena_bytes"] == library["arena_lower_bound"]
        assert library["needs"] == []
        sizes = library["arena_bytes"], 3 * 16 * 16 * 4, 10 * 4, library["stack_bytes"]
        assert sum(sizes) <= library["sram_bytes"] <= sum(sizes) + 1024

    return built_once(tmp_path_factory, "one chip", compile_to)


@pytest.fixture(scope="module")
def subject(bundle: Path) -> Subject:
    opened = open_bundle(bundle)
    return subject_of(opened, BACKEND.device_of(opened))


def test_it_says_what_it_is(bundle: Path) -> None:
    said = mbv3c("inspect", bundle).stdout
    assert "on the CPU, " in said
    assert "Max (Max_m)" in said
    assert "c/lib/libnetwork.a for mcu:cortex-m55: CPU, NPU, CPU, NPU, CPU" in said
    assert "0 of 2,560 integers to the NPU differ from onnxruntime's" in said
    opened = open_bundle(bundle)
    assert not BACKEND.native
    assert opened.manifest.has_code
    record = firmware_of(opened)
    assert record is not None
    assert BACKEND.footprint(opened).sizes["sram_bytes"] == record.sram_bytes
    job = BACKEND.job_of(opened)
    assert (job.options.artifact, job.options.host) == ("c", "mcu:cortex-m55")


def test_it_computes_what_the_quantized_model_does(bundle: Path) -> None:
    x = np.random.default_rng(5).normal(size=(1, 3, 16, 16)).astype(np.float32)
    ran = inference.run_bundle(bundle, x)
    (wanted,) = run(session(onnx.load(bundle / "quantized.onnx")), x)
    assert np.abs(ran.arrays["output"] - wanted).max() < 0.05 * np.ptp(wanted)
    assert "interpreter of the command stream in the place of the NPU" in ran.ran_on


def test_a_changed_constant_is_found(bundle: Path, subject: Subject, tmp_path: Path) -> None:
    """Change a weight of a stream that is in the archive alone."""
    with np.load(bundle / "model_1_vela.npz") as stream:
        weights = stream["weight_data"].tobytes()

    def change(copied: Path, manifest: dict[str, Any]) -> None:
        archive = copied / "c" / "lib" / "libnetwork.a"
        data = bytearray(archive.read_bytes())
        assert data.count(weights) == 1
        data[data.index(weights) + len(weights) // 2] ^= 1
        archive.write_bytes(data)

    opened = open_bundle(changed(bundle, tmp_path, change))
    assert [*other_constants(replace(subject, bundle=opened))] == ["the constants of stream 1"]
    assert [*other_constants(subject)] == []


def test_files_that_nothing_runs_are_written_once_more(
    bundle: Path, subject: Subject, tmp_path: Path
) -> None:
    vectors, header = "c/test/network_npu_golden.c", "c/include/network.h"
    assert [*other_files(subject.bundle, subject.lowered, subject.device)] == []

    def change(copied: Path, manifest: dict[str, Any]) -> None:
        replaced(copied / header, "ARENA_BYTES ", "ARENA_BYTES 1")
        replaced(copied / "c/test/network_golden.c", "e-", "e+")
        text = (copied / vectors).read_text()
        names = re.findall(r"\{\d+, \d+, \d+, (tensor_\d+)\}", text)
        own = rf"(static const int8_t {names[-1]}\[\d+\] = \{{\n  )(-?\d+)"
        other = re.sub(own, lambda found: f"{found[1]}{(int(found[2]) + 3) % 100}", text)
        assert other != text
        (copied / vectors).write_text(other.replace("return k + 1", "return k"))
        manifest["npu"]["outputs"][0]["offset"] += 16

    other = open_bundle(changed(bundle, tmp_path, change))
    said = [*other_files(other, subject.lowered, subject.device)]
    assert [each.split(":")[0].split(" is not")[0] for each in said] == [
        *("manifest.json", vectors, header, "c/test/network_golden.c", vectors)
    ]
    assert "call 1 gives other integers" in said[1]


def test_files_of_another_part_are_refused(subject: Subject) -> None:
    region, x = subject.network.regions[0], np.zeros((1, 8, 8, 8), np.int8)
    with pytest.raises(ToolError, match=r"does not run the network on inputs of \(1, 8, 8, 8\)"):
        run_tosa(region.tosa, [x])
    stream = subject.bundle.path / "model_vela.npz"
    equal, _, said = check_stream(stream, region, [[x]], [[x]])
    assert equal is False
    assert "an input of shape" in said


def test_a_golden_file_is_held_to_what_the_parts_give(
    bundle: Path, subject: Subject, tmp_path: Path
) -> None:
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        golden = np.load(copied / "golden" / "output.npy")
        np.save(copied / "golden" / "output.npy", golden[:, ::-1])

    other = open_bundle(changed(bundle, tmp_path, change))
    with pytest.raises(BundleError, match="of the range from what onnxruntime gives"):
        [*other_files(other, subject.lowered, subject.device)]


def test_what_the_npu_is_handed_is_compared(bundle: Path) -> None:
    """The program on the board takes what it is answered, and notes what it hands over."""
    runner = runner_of(open_bundle(bundle))
    x = np.zeros((1, 3, 16, 16), np.float32)
    silent = replace(
        runner,
        answer=lambda call, inputs: [
            np.full(end.shape, call, np.int8) for end in runner.streams[call].outputs
        ],
    )
    traced = silent.traced([x])
    assert not np.array_equal(traced.outputs[0][0], np.load(bundle / "golden" / "output.npy"))
    first, second = traced.taken[0]
    assert len(set(first[0].ravel().tolist())) == 1
    assert len(set(second[0].ravel().tolist())) == 1


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (FirmwareParity("a board", 1, 2, 1000, 2, 1), "2 of 1000 integers to the NPU"),
        (FirmwareParity("a board", 1, 2, 10_000, 1, 2), "up to 2 from onnxruntime's"),
        (FirmwareParity("a board", max_error_of_range=1e-4), "1.0e-04 of the range"),
        (FirmwareParity("a board", max_error_of_range=float("nan")), "nan of the range"),
        (FirmwareParity(not_run="no reason"), "was not run: no reason"),
        (FirmwareParity("a board", 1, 2, 10_000, 10, 1, 1e-6), None),
    ],
)
def test_what_is_too_far_is_said(found: FirmwareParity, said: str | None) -> None:
    assert (said in "".join(found.missed)) if said else found.missed == []


def test_what_is_not_possible_is_told(model: Path, tmp_path: Path) -> None:
    for target, options, said in (
        ("npu:ethos-u55-256", ("--artifact", "app"), "has one: c"),
        ("npu:ethos-u55-256", ("--host", "cortex-m55"), "give --artifact c, too"),
        ("npu:ethos-u55-256", ("--artifact", "c", "--float-io"), "leave --float-io out"),
        (
            "npu:ethos-u55-256",
            ("--artifact", "c", "--host", "cortex-m4"),
            "unknown --host 'cortex-m4'; known: cortex-m55, cortex-m85",
        ),
        ("npu:ethos-u65-256", ("--artifact", "c"), "one arena: choose a --memory-mode"),
    ):
        done = mbv3c("compile", model, "--target", target, *options, "-o", tmp_path / "b")
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert not (tmp_path / "b").exists()


def test_the_whole_is_held_to_the_sram(bundle: Path) -> None:
    opened = open_bundle(bundle)
    record, target = firmware_of(opened), BACKEND.device_of(opened)
    assert record is not None
    check_sram(record, NpuOptions(sram_bytes=record.sram_bytes), target, opened.manifest)
    with pytest.raises(UsageError) as caught:
        check_sram(record, NpuOptions(sram_bytes=record.sram_bytes - 1), target, opened.manifest)
    assert f"needs {record.sram_bytes:,} bytes of SRAM" in str(caught.value)
    assert f"{record.arena_bytes:,} of arena, 3,072 of inputs, 40 of outputs" in str(caught.value)


def test_the_example(bundle: Path, tmp_path: Path) -> None:
    """Build it, and run it in the emulator with the NPU's recorded answers."""
    _run_example(bundle, tmp_path, "LIBS=-nostdlib")


def test_functions_of_math_h_are_named_and_linked(model: Path, tmp_path: Path) -> None:
    """Linking them has zig build its own runtime first, which takes minutes."""
    parsed = onnx.load(model)
    *_, divided = parsed.graph.node
    assert divided.op_type == "Div"
    parsed.graph.node.append(onnx.helper.make_node("Sin", ["quotient"], ["output"]))
    divided.output[0] = "quotient"
    onnx.save(parsed, tmp_path / "sine.onnx")
    done = mbv3c(
        *("compile", tmp_path / "sine.onnx", "--target", "npu:ethos-u55-256", "--artifact", "c"),
        *("--prefix", "network", "-o", tmp_path / "made", "--json"),
    )
    assert document(done)["c_library"]["needs"] == ["sinf"]
    assert "; it needs sinf" in mbv3c("inspect", tmp_path / "made").stdout
    _run_example(tmp_path / "made", tmp_path)


def _run_example(bundle: Path, tmp_path: Path, *options: str) -> None:
    for folder in (EXAMPLE, EXAMPLE.parent / "cortex-m55"):
        shutil.copytree(folder, tmp_path / folder.name)
    (tmp_path / "bundle").symlink_to(bundle)  # make knows no path with spaces
    command = [
        *("make", "-s", "-C", str(tmp_path / EXAMPLE.name), "run"),
        *(f"BUNDLE={tmp_path / 'bundle'}", f"ZIG={sys.executable} -m ziglang"),
        *(f"QEMU={' '.join(require_kit().command)}", "CFLAGS=-Os -Wall -Wextra -Werror -pedantic"),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    golden = np.load(bundle / "golden" / "output.npy")
    said = f"class {golden.argmax()}, as the golden output says"
    assert said in done.stdout + done.stderr
