"""What a sweep is asked for, in YAML or by options; what is wrong is named with its line."""

from pathlib import Path

import pytest

from mbv3c.errors import UsageError
from mbv3c.search.grid import Grid, from_options, read_grid

GRID = """
networks:
  - variant: [small, large]
    width: [0.5, 0.75]
    resolution: 64
  - network: mobilenet_v2
    resolution: [32, 64]
    classes: 10
  - model: own.onnx
targets: [host_cpu, arm_cpu]
precisions: fp32
images: photos
test: 0.2
train:
  steps: 30
  augment: [crop]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "own.onnx").touch()
    return tmp_path


def read(folder: Path, text: str) -> Grid:
    path = folder / "grid.yaml"
    path.write_text(text)
    return read_grid(path)


def test_every_combination_of_a_file_is_there(folder: Path) -> None:
    grid = read(folder, GRID)
    assert [network.name for network in grid.networks] == [
        "mobilenet_v3_small_0.5@64",
        "mobilenet_v3_small_0.75@64",
        "mobilenet_v3_large_0.5@64",
        "mobilenet_v3_large_0.75@64",
        "mobilenet_v2@32",
        "mobilenet_v2@64",
        "own",
    ]
    assert [network.says_classes for network in grid.networks[3:5]] == [False, True]
    assert grid.networks[0].family == grid.networks[1].family != grid.networks[2].family
    assert grid.networks[-1].model == folder / "own.onnx"
    assert grid.targets == ("host_cpu", "arm_cpu")
    assert grid.precisions == ("fp32",)
    assert grid.images is not None
    assert (grid.images.source, grid.images.test) == (folder / "photos", 0.2)
    assert grid.plan is not None
    assert (grid.plan.steps, grid.plan.augment) == (30, ("crop",))


def test_options_say_what_a_file_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    asked = {"variant": ["small"], "width": [0.5, 0.75], "resolution": [64], "model": ["own.onnx"]}
    grid = from_options({**asked, "targets": ["npu"], "images": "photos", "train": {"steps": 3}})
    names = [network.name for network in grid.networks]
    assert names == ["own", "mobilenet_v3_small_0.5@64", "mobilenet_v3_small_0.75@64"]
    assert grid.precisions == (None,)
    assert from_options({"model": ["own.onnx"], "targets": ["npu"]}).networks[0].name == "own"
    with pytest.raises(UsageError, match="--target: name at least one of the targets"):
        from_options({"model": ["own.onnx"], "targets": []})


def test_one_name_means_one_network(folder: Path) -> None:
    text = "networks: [{seed: [0, 1, 0], variant: small}]\ntargets: npu"
    names = [network.name for network in read(folder, text).networks]
    assert names == ["mobilenet_v3_small@224", "mobilenet_v3_small@224#2"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "width: [0.5, 0.75]",
            "widht: 1",
            "line 4, networks[0].widht: unknown field widht; nearest: width",
        ),
        ("width: [0.5, 0.75]", "width: wide", "width: expected a number or a list, got text"),
        ("targets: [host", "target: [host", "line 10, target: unknown field target; nearest: t"),
        ("  - model: own.onnx", "  - own.onnx", "networks[2]: expected names with values, got"),
        ("test: 0.2", "labels: no.csv", "line 13, labels: no such file"),
        ("width: [0.5, 0.75]", "width: 9", "line 3, networks[0]: width must be 0.35 to 1.25"),
        (
            "    classes: 10",
            "    classes: 10\n    width: 1\n    width: 1",
            "line 10: width stands",
        ),
        ("own.onnx", "other.onnx", "line 9, networks[2]: no such file"),
        ("model: own.onnx", "model: own.onnx\n    width: 1", "leave width out"),
        ("targets: [host_cpu, arm_cpu]\n", "", "line 1: the field targets is missing"),
        ("[host_cpu, arm_cpu]", "[]", "line 10, targets: name at least one of the targets"),
        ("images: photos", "images: pictures", "line 12, images: no such folder or file"),
        ("images: photos\n", "", "line 13, train: training needs images"),
        (
            "  steps: 30",
            "  stops: 30",
            "line 14, train: a plan of training has no field 'stops'; nearest: steps; kn",
        ),
        ("  steps: 30", "  steps: 0", "line 14, train: --steps must be at least 1"),
        ("test: 0.2", "test: !!python/name:os.system x", "anchors and tags are not read"),
        ("test: 0.2", "test: [", "is no YAML"),
        ("test: 0.2", "test: 1.5", "line 13, test: 1.5 is no share from 0 to 0.9"),
        ("test: 0.2", "limit: 1", "line 13, limit: 1 is too few; take 2 or more"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    folder: Path, old: str, new: str, message: str
) -> None:
    assert old in GRID
    with pytest.raises(UsageError) as caught:
        read(folder, GRID.replace(old, new))
    assert message in str(caught.value)


def test_networks_of_nothing_and_of_too_much_are_refused(folder: Path) -> None:
    targets = "targets: host_cpu\n"
    with pytest.raises(UsageError, match="name at least one of the networks"):
        read(folder, targets + "networks: [{model: []}]")
    seeds = list(range(1000))
    fields = f"{{seed: {seeds}, classes: {seeds[2:]}}}"
    with pytest.raises(UsageError, match="more than 10,000 networks"):
        read(folder, f"{targets}networks: [{fields}]")


def test_no_two_networks_have_one_name(folder: Path) -> None:
    names = (("a", 0), ("a", 1), ("a@224#2", 2), ("a", 3))
    entries = ", ".join(f"{{name: '{name}', seed: {seed}}}" for name, seed in names)
    found = read(folder, f"targets: host_cpu\nnetworks: [{entries}]").networks
    assert [one.name for one in found] == ["a@224", "a@224#2", "a@224#2@224", "a@224#3"]


def test_what_is_no_grid_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_grid(folder / "nothing.yaml")
    for text in (
        "",
        "- 1",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "&a [*a]",
        "x: " + "[" * 2000,
        "a: {b: \x00}",
        "[" * 30 + "]" * 30,
    ):
        with pytest.raises(UsageError, match=r"grid\.yaml"):
            read(folder, text)
