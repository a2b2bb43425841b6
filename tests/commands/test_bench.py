"""`mbv3c bench` and `compile --cores` as a user runs them. No test looks at how long it took."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mbv3c.commands.bench import _print_instructions
from mbv3c.execution.emulator.llvm import Llvm
from mbv3c.speed.measure import Cycles, Instructions
from mbv3c.speed.profile import CountedKernel
from tests.command_line import document, mbv3c
from tests.commands.conftest import SMALL

KEYS = {
    *(
        "bundle",
        "bundle_sha256",
        "median_ms",
        "min_ms",
        "against",
        "against_median_ms",
        "against_min_ms",
        "ratio",
    ),
    *(
        "ratio_quartiles",
        "runs",
        "interruptions",
        "undisturbed",
        "threads",
        "cpu",
        "emulated",
        "versions",
        "instructions",
    ),
    *("classes", "estimated_cycles", "kernels"),
}


def test_host_bundle_is_timed_beside_onnxruntime(host_bundle: Path) -> None:
    found = document(mbv3c("bench", host_bundle, "--runs", 12, "--profile", "--json"))
    assert found.keys() == KEYS
    assert found["against"] == "onnxruntime"
    assert found["versions"].keys() == {"apache-tvm", "onnxruntime"}
    assert (found["runs"], found["threads"], found["emulated"]) == (12, 1, False)
    assert found["instructions"] is found["estimated_cycles"] is None
    assert 0 < found["min_ms"] <= found["median_ms"]
    lower, upper = found["ratio_quartiles"]
    assert lower <= found["ratio"] <= upper
    nodes = [node for kernel in found["kernels"] for node in kernel["nodes"]]
    assert "stem.conv" in nodes
    assert "head" in nodes
    assert len(nodes) == len(set(nodes))
    assert sum(kernel["share"] for kernel in found["kernels"]) == pytest.approx(1)


def test_host_bundle_prints_what_was_compared(host_bundle: Path) -> None:
    done = mbv3c("bench", host_bundle, "--runs", 5)
    assert done.returncode == 0, done.stderr
    assert "below 1 is faster than onnxruntime), 5 runs each, threads 1" in done.stdout
    assert "onnxruntime 1." in done.stdout


def test_emulated_bundle_is_counted_and_never_timed(arm_bundle: Path, llvm: Llvm) -> None:
    found = document(mbv3c("bench", arm_bundle, "--profile", "--json"))
    assert found.keys() == KEYS
    assert (found["cpu"], found["emulated"], found["threads"]) == ("cortex-a76", True, 1)
    for key in (
        "median_ms",
        "min_ms",
        "against",
        "ratio",
        "ratio_quartiles",
        "runs",
        "undisturbed",
    ):
        assert found[key] is None
    assert sum(found["classes"].values()) == found["instructions"]
    assert sum(kernel["instructions"] for kernel in found["kernels"]) == found["instructions"]
    assert found["classes"]["vector_fmla"] > 100_000
    assert found["kernels"][0]["nodes"][0] == "stem.conv"
    assert found["kernels"][-1]["kernel"] == "elsewhere"
    cycles = found["estimated_cycles"]
    assert cycles["model"] == f"llvm-mca {llvm.version} with the model of neoverse-n1"
    assert sum(kernel["estimated_cycles"] for kernel in found["kernels"]) == cycles["total"]
    # Two vector pipes at most, eight instructions at most.
    assert found["classes"]["vector_fmla"] / 2 < cycles["total"]
    assert found["instructions"] / 8 < cycles["total"] < 2 * found["instructions"]
    assert cycles["left_out"] < found["instructions"] / 100

    done = mbv3c("bench", arm_bundle)
    assert f"{found['instructions']:,} instructions executed per inference" in done.stdout
    assert " ms" not in done.stdout
    assert "counted, not timed" in done.stdout


def test_cycles_are_printed_as_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    kernel = CountedKernel("pool_1", "pool", 1, ("pool",), 8, 4000, 1.0, 0.1, 3000)
    cycles = Cycles(3000, "llvm-mca 19.1.7 with the model of cortex-a55", 7)
    counted = Instructions("cortex-a76", 4000, {"integer": 4000}, {}, [kernel], cycles)
    _print_instructions(Path("b"), counted, "")
    printed = capsys.readouterr().out
    assert "est. cycles" in printed
    assert "  3,000 100.0%  pool" in printed
    assert (
        "estimated, not measured: 3,000 cycles per inference, by llvm-mca 19.1.7 with the model "
        "of cortex-a55; caches are not modelled; 7 instructions left out\n"
    ) in printed
    _print_instructions(Path("b"), replace(counted, cycles=None), "")
    printed = capsys.readouterr().out
    assert "est. cycles" not in printed
    assert "llvm-mca is not here; `mbv3c doctor --fetch=cycles`" in printed


def test_half_precision_takes_fewer_instructions(arm_small: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    options = ("--target", "arm_cpu", "--cores", 2, "--precision", "fp16", "--no-verify")
    assert mbv3c("compile", *SMALL, *options, "-o", half).returncode == 0
    single = document(mbv3c("bench", arm_small, "--json"))
    found = document(mbv3c("bench", half, "--profile", "--json"))
    assert found["instructions"] < 0.7 * single["instructions"]
    assert found["classes"]["vector_fmla"] < 0.6 * single["classes"]["vector_fmla"]
    assert sum(kernel["instructions"] for kernel in found["kernels"]) == found["instructions"]
    assert max(kernel["madds_per_instruction"] for kernel in found["kernels"]) > 4
    verified = document(mbv3c("verify", half, "--json"))
    assert verified["passed"]
    assert verified["ran_on"] == "emulated cortex-a76"
    assert verified["tolerance"] == 2e-2
    shown = document(mbv3c("inspect", half, "--json"))
    assert shown["precision"] == "fp16"
    assert {shown["input"]["dtype"], *(one["dtype"] for one in shown["outputs"])} == {"float32"}
    weights = json.loads((arm_small / "manifest.json").read_text())["memory"]["weight_bytes"]
    assert 2 * shown["memory"]["weight_bytes"] == weights


def test_cores_are_recorded(emulator_kit: object, blocks_file: Path, tmp_path: Path) -> None:
    options = ("--target", "arm_cpu", "--cores", 2, "--json")
    found = document(mbv3c("compile", blocks_file, *options, "-o", tmp_path / "b"))
    assert found["parity"]["ran_on"] == "emulated cortex-a76"
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["target"]["cores"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--against", "tensorrt"), "unknown runtime 'tensorrt'; known: onnxruntime, openvino"),
        (("--runs", 0), "--runs 0 is not possible"),
        (("--threads", 0), "--threads 0 is not possible"),
        (("--threads", 2), "the bundle was compiled for 1; compile it with --cores 2"),
    ],
)
def test_wrong_usage_on_the_host(
    host_bundle: Path, arguments: tuple[object, ...], message: str
) -> None:
    done = mbv3c("bench", host_bundle, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--against", "--threads", "--runs"])
def test_what_belongs_to_time_is_refused_when_emulated(arm_bundle: Path, option: str) -> None:
    value = "onnxruntime" if option == "--against" else 1
    done = mbv3c("bench", arm_bundle, option, value, "--json")
    assert document(done, code=2)["error"]["kind"] == "usage"
    assert f"{option} cannot be used here" in done.stderr


@pytest.mark.parametrize("cores", [0, 65])
def test_cores_out_of_range(cores: int, tmp_path: Path) -> None:
    done = mbv3c("compile", "--target", "host_cpu", "--cores", cores, "-o", tmp_path / "b")
    assert done.returncode == 2
    assert f"--cores {cores} is not possible; choose 1 to 64" in done.stderr
    assert not list(tmp_path.iterdir())
