"""`mbv3c targets` as a user runs it."""

from pathlib import Path

from tests.command_line import document, mbv3c


def test_targets_lists_what_is_there() -> None:
    listed = document(mbv3c("targets", "--json"))
    names = {target["name"] for target in listed["targets"]}
    assert {"arm_cpu:cortex-a76", "arm_cpu:cortex-a53-android", "host_cpu:native"} <= names
    assert {"mobile_gpu:mali", "mobile_gpu:adreno-android", "mobile_gpu:generic_opencl"} <= names
    assert {target["name"] for target in listed["npu_targets"]} > {"npu:ethos-u55-128"}
    lines = mbv3c("targets").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    told = {line.split()[0].removesuffix("*") for line in lines if line and line[0].isalpha()}
    assert told == {"target", *(row["name"] for rows in listed.values() for row in rows)}
    assert listed.keys() == {"targets", "npu_targets", "mcu_targets"}


def test_targets_lists_boards() -> None:
    rows = {row["name"]: row for row in document(mbv3c("targets", "--board", "--json"))["boards"]}
    assert rows["rpi5"]["parts"][0]["target"] == "arm_cpu:cortex-a76"
    assert rows["imx93"]["parts"][1]["name"] == "imx93:npu"
    assert rows["rpi5"]["memory_kib"][0] == 2 << 20
    lines = mbv3c("targets", "--board").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:3] == ["rpi5", "arm_cpu:cortex-a76", "4"] for line in lines)
    assert sum(map(len, (row["parts"] for row in rows.values()))) == len(lines) - 2


def test_a_board_is_named_with_its_target_before_work_begins(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"\x08\x08")
    done = mbv3c("compile", broken, "--target", "rpi5")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].endswith("s] rpi5 = arm_cpu:cortex-a76, 4 cores")
