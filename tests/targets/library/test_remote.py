"""A bundle meets a served device: this machine, which takes libraries of its own only."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mbv3c.bundle import Bundle
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.place import Place
from mbv3c.targets.library.manifest import LibraryTargetRecord
from mbv3c.targets.library.verifying import open_device
from tests.manifests import LIBRARY

HERE = os.uname().machine
OTHER = "aarch64" if HERE != "aarch64" else "x86_64"


def bundle_for(arch: str) -> Bundle:
    target = LibraryTargetRecord("arm_cpu:cortex-a76", f"{arch}-linux-gnu", "cortex-a76", 1)
    return Bundle(Path("bundle"), replace(LIBRARY, target=target), {})


def test_a_device_of_the_architecture(place: Place) -> None:
    runner = open_device(bundle_for(HERE), place, opencl=False)
    assert runner.machine is not None
    assert runner.machine.architecture == HERE
    assert f"device {place.address}" in runner.description


def test_a_device_of_another_architecture(place: Place) -> None:
    with pytest.raises(
        UsageError,
        match=f"bundle has a library for {OTHER}, and the device .*; compile the model for {HERE}",
    ):
        open_device(bundle_for(OTHER), place, opencl=False)


def test_a_device_without_opencl(place: Place) -> None:
    with pytest.raises(ToolError, match="has no OpenCL device for arm_cpu:cortex-a76: no OpenCL"):
        open_device(bundle_for(HERE), place, opencl=True)
