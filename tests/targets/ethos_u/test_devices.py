import re
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import ethosu
import pytest

from mbv3c.errors import ToolError, UsageError
from mbv3c.targets import find_target
from mbv3c.targets.ethos_u.devices import (
    DEDICATED_SRAM,
    NPU_TARGETS,
    Knobs,
    NpuTarget,
    canonical,
    check_knobs,
    every_choice,
    legal_values,
    memories,
    sram_of,
)
from mbv3c.targets.ethos_u.doctor import NPU_INSTALL, require_npu_tools


@pytest.fixture(scope="module")
def vela_ini() -> ConfigParser:
    parser = ConfigParser()
    parser.read(Path(ethosu.__path__[0]) / "config_files" / "Arm" / "vela.ini")
    return parser


@pytest.mark.parametrize("target", NPU_TARGETS, ids=lambda target: target.device)
def test_figures_are_those_of_velas_file(target: NpuTarget, vela_ini: ConfigParser):
    system = vela_ini[f"System_Config.{target.system_config}"]
    assert float(system["core_clock"]) == target.clock_mhz * 1e6
    mode = vela_ini[f"Memory_Mode.{target.memory_mode}"]
    budget = mode.get("arena_cache_size")
    assert (int(budget) if budget else None) == target.sram_bytes
    assert all(f"Memory_Mode.{one}" in vela_ini for one in target.memory_modes)
    assert all(f"System_Config.{one}" in vela_ini for one in target.system_configs)


def test_modes_of_dedicated_sram_differ_in_its_size_only(vela_ini: ConfigParser):
    found = {
        name.removeprefix("Memory_Mode."): dict(section)
        for name, section in vela_ini.items()
        if section.get("inherit") == "Memory_Mode.Dedicated_Sram"
    }
    sizes = {name: int(section.pop("arena_cache_size")) for name, section in found.items()}
    assert sizes == DEDICATED_SRAM
    assert all(set(section) == {"inherit"} for section in found.values())


def test_choices_that_are_the_same_to_vela_have_one_form():
    u55, u65 = find_target("npu:ethos-u55-256"), find_target("npu:ethos-u65-256")
    assert canonical(Knobs(memory_mode="Shared_Sram"), u55) == Knobs()
    assert canonical(Knobs("Size", 1 << 17), u55) == Knobs("Size")
    assert canonical(Knobs(arena_cache_size=1 << 17), u55) == Knobs(arena_cache_size=1 << 17)
    assert canonical(Knobs(system_config=u55.system_config), u55) == Knobs()
    half = Knobs("Size", memory_mode="Dedicated_Sram_512KB")
    assert canonical(half, u65) == Knobs("Size", 512 << 10)
    assert canonical(Knobs(), u65) == Knobs(arena_cache_size=256 << 10)
    assert (memories(half, u65), sram_of(half, u65)) == ("Dedicated_Sram", 512 << 10)
    assert (memories(Knobs(), u55), sram_of(Knobs(), u55)) == ("Shared_Sram", None)
    for target in NPU_TARGETS:
        for knobs in every_choice(target):
            once = canonical(knobs, target)
            assert canonical(once, target) == once
            check_knobs(once, target)


def test_the_default_device_is_found_and_an_unknown_one_is_refused():
    assert find_target("npu").device == "ethos-u55-128"
    with pytest.raises(UsageError, match="nearest: npu:ethos-u55-32, npu:ethos-u55-64"):
        find_target("npu:ethos-u99")


def test_choices_are_legal_and_the_first_is_the_default():
    for target in NPU_TARGETS:
        choices = every_choice(target)
        assert choices[0] == Knobs(mean=legal_values(target)["mean"][0])
        for knobs in choices:
            check_knobs(knobs, target)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (Knobs(optimise="Speed"), "known: Performance, Size"),
        (Knobs(memory_mode="Dedicated_Sram_512KB"), "known: Shared_Sram, Sram_Only"),
        (Knobs(arena_cache_size=0), "makes no sense"),
    ],
)
def test_what_is_not_for_the_device_is_refused(knobs: Knobs, message: str):
    with pytest.raises(UsageError, match=message):
        check_knobs(knobs, find_target("npu:ethos-u55-32"))


def test_missing_tools_are_named_with_what_installs_them(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    wanted = re.escape(f"ethos-u-vela and tosa-tools: {NPU_INSTALL}")
    with pytest.raises(ToolError, match=wanted):
        require_npu_tools()
