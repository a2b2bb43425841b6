"""`mbv3c targets` as a user runs it."""

from tests.command_line import document, mbv3c


def test_targets_lists_what_is_there() -> None:
    listed = document(mbv3c("targets", "--json"))
    names = {target["name"] for target in listed["targets"]}
    assert {"arm_cpu:cortex-a76", "arm_cpu:cortex-a53-android", "host_cpu:native"} <= names
    assert {"mobile_gpu:mali", "mobile_gpu:adreno-android", "mobile_gpu:generic_opencl"} <= names
    assert {target["name"] for target in listed["npu_targets"]} > {"npu:ethos-u55-128"}
    assert listed.keys() == {"targets", "npu_targets", "mcu_targets"}
