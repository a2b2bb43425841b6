"""What of an NPU bundle goes into firmware: C, TFLite, a chip's own memories."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from ethosu.vela.tflite import Model
from onnx import helper, numpy_helper

from mbv3c.errors import ToolError, UsageError
from mbv3c.lowering.quantization import Quantization
from mbv3c.targets import backend_for, open_bundle
from mbv3c.targets.ethos_u.devices import NPU_TARGETS, Knobs
from mbv3c.targets.ethos_u.lowering.region import Boundary
from mbv3c.targets.ethos_u.manifest import manifest_of
from mbv3c.targets.ethos_u.memories import memories_of, parse, with_config
from mbv3c.targets.ethos_u.tflite import with_quantization
from tests.command_line import mbv3c

CHIP = """\
[System_Config.My_Chip]
core_clock=400e6
axi0_port=Sram
axi1_port=Dram
Sram_clock_scale=1.0
Dram_clock_scale=0.5

[Memory_Mode.Base]
const_mem_area=Axi1
arena_mem_area=Axi1
cache_mem_area=Axi0

[Memory_Mode.My_Mode]
inherit=Memory_Mode.Base
arena_cache_size=131072
"""
ZIG = (sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi")
FLAGS = ("-mcpu=cortex_m55", "-Wall", "-Wextra", "-Werror", "-std=c99")


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "v": rng.normal(0, 0.3, (10, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], "conv", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["a"], ["c"], "pool"),
        helper.make_node("Flatten", ["c"], ["d"], "flat"),
        helper.make_node("Gemm", ["d", "v"], ["*/ y"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("*/ y", onnx.TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipping")
    onnx.save(model(), folder / "tiny.onnx")
    (folder / "chip.ini").write_text(CHIP)
    done = mbv3c(
        *("compile", folder / "tiny.onnx", "--target", "npu:ethos-u65-256", "-o", folder / "b"),
        *("--prefix", "tiny", "--vela-config", folder / "chip.ini", "--memory-mode", "My_Mode"),
    )
    assert done.returncode == 0, done.stderr
    return folder / "b"


def test_the_chip_is_that_of_the_file(bundle: Path):
    opened = open_bundle(bundle)
    record = manifest_of(opened).target
    assert (record.system_config, record.memory_mode, record.clock_mhz) == (
        "My_Chip",
        "My_Mode",
        400,
    )
    job = backend_for(opened).job_of(opened)
    assert job.target.vela_config == CHIP
    assert job.target.sram_bytes == 131072
    assert job.options.prefix == "tiny"


def test_tflite_says_what_its_integers_stand_for(bundle: Path):
    npu = json.loads((bundle / "manifest.json").read_text())["npu"]
    graph = Model.Model.GetRootAsModel((bundle / "model_vela.tflite").read_bytes(), 0).Subgraphs(0)
    for place, record in ((graph.Inputs(0), npu["inputs"]), (graph.Outputs(0), npu["outputs"])):
        steps = graph.Tensors(place).Quantization()
        assert steps.ScaleAsNumpy().tolist() == [np.float32(record[0]["scale"])]
        assert steps.ZeroPointAsNumpy().tolist() == [record[0]["zero_point"]]


def test_a_map_that_vela_has_as_a_row_gets_its_own_shape(bundle: Path):
    """Vela takes the pixels of a map for one row, where only 1x1 convolutions follow."""
    data = (bundle / "model_vela.tflite").read_bytes()
    graph = Model.Model.GetRootAsModel(data, 0).Subgraphs(0)
    count, outputs = (
        int(np.prod(graph.Tensors(place).ShapeAsNumpy()))
        for place in (graph.Inputs(0), graph.Outputs(0))
    )

    def ends(elements: int) -> list[Boundary]:
        shape = (1, elements, 1, 1)
        return [Boundary("end", shape, shape, Quantization(0.5, 3), "node")]

    described = with_quantization(data, ends(count), ends(outputs))
    tensor = Model.Model.GetRootAsModel(described, 0).Subgraphs(0).Tensors(graph.Inputs(0))
    assert tensor.ShapeAsNumpy().tolist() == [1, count, 1, 1]
    with pytest.raises(ToolError, match="vela's TFLite file has"):
        with_quantization(data, ends(count + 1), ends(outputs))


def test_regions_have_memories_and_sections(bundle: Path):
    text = (bundle / "tiny.h").read_text()
    assert '#define TINY_CONSTANTS_MEMORY "Dram"' in text
    assert '#define TINY_REGION_1_MEMORY "Dram"' in text
    assert '#define TINY_REGION_2_MEMORY "Sram"' in text
    assert '#define TINY_REGION_2_SECTION ".bss.tiny_region_2.sram"' in text


def test_two_networks_and_their_vectors_are_in_one_image(bundle: Path, tmp_path: Path):
    main = tmp_path / "main.c"
    main.write_text(
        "\n".join(
            [
                *('#include "tiny_golden.h"', '#include "other_golden.h"'),
                "static uint8_t scratch[TINY_REGION_2_SIZE]",
                "    __attribute__((section(TINY_REGION_2_SECTION), aligned(16)));",
                "int use(void);",
                "int use(void) {",
                "  scratch[0] = 1;",
                "  return scratch[0] + tiny_golden_input_0[0] + other_golden_output_0[0] +",
                "      (int)(tiny_commands[0] + other_constants[0]);",
                "}",
            ]
        )
    )
    for stem in ("tiny", "tiny_golden"):
        for end in (".c", ".h"):
            text = (bundle / f"{stem}{end}").read_text()
            other = text.replace("tiny", "other").replace("TINY", "OTHER")
            (tmp_path / f"{stem.replace('tiny', 'other')}{end}").write_text(other)
    sources = [str(path) for path in (main, *bundle.glob("*.c"), *tmp_path.glob("other*.c"))]
    folders = ("-I", str(bundle), "-I", str(tmp_path))
    image = tmp_path / "image.o"
    command = [*ZIG, *FLAGS, "-r", "-nostdlib", *folders, *sources, "-o", str(image)]
    subprocess.run(command, check=True)
    golden = np.load(bundle / "golden" / "input.npy")
    assert golden.tobytes() in image.read_bytes()
    assert np.load(bundle / "golden" / "output.npy").tobytes() in image.read_bytes()


@pytest.mark.parametrize(
    ("text", "system", "said"),
    [
        ("[nothing", None, "is no configuration of vela: File contains no section headers"),
        ("[System_Config.A]\n", None, r"no section \[Memory_Mode.NAME\]"),
        (CHIP, "B", "--system-config 'B' is not in the given vela.ini; it has My_Chip"),
        (CHIP, None, "has Base, My_Mode: choose one with --memory-mode"),
        (CHIP.replace("Mode.Base\narena", "Mode.C\narena"), None, "which is not there"),
        (CHIP.replace("Mode.Base\narena", "Mode.My_Mode\narena"), None, "more than 8 sections"),
        (CHIP.replace("400e6", "fast"), None, "has Base"),
    ],
)
def test_a_wrong_file_is_named(text: str, system: str | None, said: str):
    with pytest.raises(UsageError, match=said):
        with_config(NPU_TARGETS[4], text, system)


def test_a_clock_that_is_no_number():
    with pytest.raises(UsageError, match="core_clock 'fast' of My_Chip"):
        with_config(NPU_TARGETS[4], CHIP.replace("400e6", "fast"), None, "Base")


def test_memories_are_those_of_velas_own_file():
    u55, u65 = NPU_TARGETS[2], NPU_TARGETS[4]
    shared = {"constants": "OffChipFlash", "arena": "Sram", "cache": "Sram"}
    assert memories_of(u55, Knobs()) == shared
    assert memories_of(u65, Knobs()) == {"constants": "Dram", "arena": "Dram", "cache": "Sram"}
    assert memories_of(u65, Knobs(memory_mode="Sram_Only"))["arena"] == "Sram"
    assert parse(CHIP, "x").names("Memory_Mode") == ("Base", "My_Mode")


@pytest.mark.parametrize("path", ["nothing.ini", "/dev/zero", "."])
def test_what_is_no_file_is_refused(path: str, tmp_path: Path):
    given = tmp_path / path
    onnx.save(model(), tmp_path / "m.onnx")
    done = mbv3c(
        *("compile", tmp_path / "m.onnx", "--target", "npu", "-o", tmp_path / "b"),
        *("--vela-config", given),
    )
    assert done.returncode == 2, done.stderr
    assert str(given) in done.stderr
    assert not (tmp_path / "b").exists()
