"""`mbv3c inspect` as a user runs it."""

import json
from pathlib import Path

import onnx
import pytest

from mbv3c.commands.inspect import layer_lines
from mbv3c.graphs.count import NodeCost
from tests.command_line import Done, mbv3c
from tests.costs.networks import block


def inspect(*arguments: object) -> Done:
    return mbv3c("inspect", *arguments)


def strict(text: str) -> dict:
    """Read JSON that holds no NaN or Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def small_file(small: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "small.onnx"
    onnx.save(small, path)
    return path


def test_json(small_file: Path) -> None:
    done = inspect(small_file, "--json")
    assert done.returncode == 0, done.stderr
    found = strict(done.stdout)
    assert {"params", "madds", "layers", "peak_activation_bytes", "architecture", "passes"} == set(
        found
    )
    assert (found["params"], found["madds"]) == (2_542_856, 56_510_400)
    assert found["peak_activation_bytes"] == 3 * 16 * 112 * 112 * 4
    assert sum(layer["params"] for layer in found["layers"]) == found["params"]
    assert sum(layer["madds"] for layer in found["layers"]) == found["madds"]
    assert found["layers"][0] == {
        "name": "features.0.conv",
        "operator": "Conv",
        "output_shape": [1, 16, 112, 112],
        "params": 432,
        "madds": 5_419_008,
        "activation_bytes": 802_816,
    }
    assert found["architecture"] == {
        "recognized": True,
        "network": "mobilenet_v3",
        "variant": "small",
        "width": 1.0,
        "width_rule": None,
        "resolution": [224, 224],
        "batch": 1,
        "head": "classify",
        "classes": 1000,
        "blocks": 11,
        "se_blocks": 9,
        "activations": {"hardsigmoid": 9, "hardswish": 19, "relu": 14},
        "minimalistic": False,
        "dilated": False,
        "reduced_tail": False,
    }
    matched = {one["name"]: len(one["matched"]) for one in found["passes"]}
    assert (matched["fold_batchnorm"], matched["fuse_hardswish"], matched["fold_se"]) == (
        34,
        19,
        9,
    )


def test_table(small_file: Path) -> None:
    done = inspect(small_file)
    assert done.returncode == 0, done.stderr
    assert "MobileNetV3-Small, width 1, 224x224, batch 1, 1000 classes, 11 blocks" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [
        *("features.0.conv", "Conv", "1x16x112x112"),
        *("432", "5,419,008", "802,816"),
    ] in rows
    assert "total: 2,542,856 parameters, 56,510,400 multiply-adds" in done.stdout
    assert "2,408,448 bytes, computed and not measured" in done.stdout
    assert ["fuse_hardswish", "19", "0"] in [row[:3] for row in rows]
    assert done.stderr == ""


def test_input_shape(small: onnx.ModelProto, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(small)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, tmp_path / "dynamic.onnx")
    done = inspect(tmp_path / "dynamic.onnx", "--json")
    assert done.returncode == 1
    assert "--input-shape 1,3,224,224" in strict(done.stdout)["error"]["message"]
    done = inspect(tmp_path / "dynamic.onnx", "--input-shape", "2,3,96,128", "--json")
    assert done.returncode == 0, done.stderr
    found = strict(done.stdout)
    assert found["architecture"]["resolution"] == [96, 128]
    assert found["architecture"]["batch"] == 2


def test_another_network_and_what_would_be_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y)
        <float three = {2.9}, float zero = {0.0}, float six = {6.0}>
        {
            [add] a = Add(x, three)
            [clip] c = Clip(a, zero, six)
            [mul] m = Mul(x, c)
            [div] y = Div(m, six)
        }"""
    )
    onnx.save(model, tmp_path / "near.onnx")
    reason = "it has no depthwise convolution"
    done = inspect(tmp_path / "near.onnx")
    assert done.returncode == 0, done.stderr
    assert f"not recognised as a MobileNetV3: {reason}" in done.stdout
    assert "fuse_hardswish would refuse div: Add's constant must be 3, got 2.9" in done.stdout
    found = strict(inspect(tmp_path / "near.onnx", "--json").stdout)
    assert found["architecture"] == {"recognized": False, "reason": reason}
    assert (found["params"], found["madds"]) == (0, 0)
    refused = {one["name"]: one["refused"] for one in found["passes"]}
    assert refused["fuse_hardswish"] == [
        {"node": "div", "reason": "Add's constant must be 3, got 2.9"}
    ]


def test_no_such_file(tmp_path: Path) -> None:
    done = inspect(tmp_path / "none.onnx")
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def bundle(small_file: Path) -> tuple[Path, str]:
    """Return a bundle of Small and what `compile --explain` printed."""
    path = small_file.parent / "bundle"
    done = mbv3c("compile", small_file, "--target", "host_cpu", "-o", path, "--explain")
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def test_explain_accounts_for_every_node(bundle: tuple[Path, str], small: onnx.ModelProto) -> None:
    path, explained = bundle
    found = strict(inspect(path, "--json").stdout)
    assert sum(one["madds"] for one in found["kernels"]) == 56_510_400
    covered = [node for one in found["kernels"] for node in one["nodes"]]
    assert len(covered) == len(set(covered))
    assert {node.name for node in small.graph.node if node.op_type == "Conv"} <= set(covered)
    assert not [one for one in found["kernels"] if one["kind"] in ("fallback", "transpose")]
    assert all(node in explained for node in covered)
    assert "56,510,400  in 46 calls" in explained


def test_a_bundle_tells_its_memory(bundle: tuple[Path, str]) -> None:
    path, _ = bundle
    memory = strict(inspect(path, "--json").stdout)["memory"]
    assert memory["arena_bytes"] == sum(memory["arena_blocks"])
    assert (
        memory["arena_lower_bound"] <= memory["arena_bytes"] <= 1.3 * memory["arena_lower_bound"]
    )
    done = inspect(path)
    assert done.returncode == 0, done.stderr
    assert f"activation arena: {memory['arena_bytes']:,} bytes" in done.stdout
    assert all(one["value"] in done.stdout for one in memory["values"])


def test_options_of_a_model_do_not_suit_a_bundle(bundle: tuple[Path, str]) -> None:
    done = inspect(bundle[0], "--batch", "2")
    assert done.returncode == 2
    assert "belong to a model" in done.stderr


def test_costs(tmp_path: Path) -> None:
    onnx.save(block(expand=64), tmp_path / "block.onnx")
    given = (tmp_path / "block.onnx", "--cost", "mobile_gpu", "--costs", tmp_path / "costs")
    done = inspect(*given, "--json")
    assert done.returncode == 0, done.stderr
    found = strict(done.stdout)["cost"]
    assert (found["target"], found["precision"]) == ("mobile_gpu:mali", "fp32")
    assert (found["kind"], found["time"]) == ("estimated", "cycles")
    total = found["resources"]["cycles"]
    assert sum(layer["resources"]["cycles"] for layer in found["layers"]) == pytest.approx(total)
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert [row["block"] for row in found["blocks"]] == ["stem", "block 1", "head"]
    assert sum(row["cycles"] for row in found["blocks"]) == pytest.approx(total)
    assert found["grain"] in (4, 8, 16, 32)
    (saving,) = (row for row in found["savings"] if row["kind"] == "expansion")
    assert (saving["site"], saving["channels"]) == ("expand", 64)
    assert saving["share"] == pytest.approx(saving["saved"] / total)
    text = inspect(*given)
    assert text.returncode == 0, text.stderr
    assert "estimated" in text.stdout
    assert f"64 → {saving['fewer']}" in text.stdout


def test_what_says_how_costs_are_found_needs_them(tmp_path: Path) -> None:
    onnx.save(block(), tmp_path / "block.onnx")
    for option, value, named in (
        ("--precision", "fp16", "--precision"),
        ("--device", "127.0.0.1:9", "--device or --tracker"),
    ):
        done = inspect(tmp_path / "block.onnx", option, value)
        assert done.returncode == 2
        assert f"{named} is for --cost TARGET: give that, too" in done.stderr


LAYERS = (
    NodeCost("features.0.conv", "Conv", (1, 16, 112, 112), 432, 5_419_008, 802_816),
    NodeCost("features.0.bn", "BatchNormalization", (1, 16, 112, 112), 32, 0, 802_816),
    NodeCost("a/name/that/torch/gave/to/classifier/Gemm", "Gemm", (1, 1000), 999_950, 999_499, 40),
)


def test_layers_are_exact_where_there_is_room() -> None:
    exact = list(layer_lines(LAYERS, None))
    assert list(layer_lines(LAYERS, 200)) == exact
    assert exact[1].split() == [
        "features.0.conv",
        "Conv",
        "1x16x112x112",
        *("432", "5,419,008", "802,816"),
    ]
    assert len({len(line) for line in exact}) == 1


def test_layers_fit_a_terminal_in_three_digits() -> None:
    head, first, second, third = layer_lines(LAYERS, 80)
    assert [len(line) for line in (head, first, second, third)] == [80] * 4
    assert first.split() == ["features.0.conv", "Conv", "1x16x112x112", "432", "5.42M", "803k"]
    assert second.split()[3:] == ["32", "0", "803k"]
    assert third.split()[0] == "a/name/that/…sifier/Gemm"
    assert third.split()[3:] == ["1.00M", "999k", "40"]
