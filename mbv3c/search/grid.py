"""What a sweep is asked for: networks, targets, precisions, from a YAML file or from options.

    networks:
      - variant: [small, large]     # any option of `mbv3c build`, a value or a list of values
        width: [0.5, 0.75, 1.0]
        resolution: 96
      - architecture: layers.json
      - model: own.onnx
    targets: [arm_cpu, npu:ethos-u55-128]
    precisions: [fp32, int8]
    images: photos
    train: {steps: 2000}

Paths are those of the file's own folder.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import msgspec

from mbv3c.errors import UsageError
from mbv3c.graphs.spec import ModelSpec, completed
from mbv3c.search.yaml_file import YamlFile
from mbv3c.training.plan import TrainPlan

MOST_NETWORKS = 10_000
_FILES = ("architecture", "weights")
# Fields of `GridFile` whose options are called otherwise.
_OPTIONS = {
    "networks": "networks",
    "targets": "--target",
    "precisions": "--precision",
    "train": "--train-steps",
}

# Returns where some field was asked for, from the names and numbers that lead to it.
Place = Callable[..., str]


class Networks(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Networks that are alike: every combination of the values of the fields.

    `model` is an ONNX file, which excludes all others but `name`; the others are the options of
    `mbv3c build`.
    """

    name: str | None = None
    model: str | list[str] | None = None
    network: str | list[str] | None = None
    architecture: str | list[str] | None = None
    weights: str | list[str] | None = None
    variant: str | list[str] | None = None
    width: float | list[float] | None = None
    width_rule: str | list[str] | None = None
    padding: str | list[str] | None = None
    minimalistic: bool | list[bool] | None = None
    dilated: bool | list[bool] | None = None
    reduced_tail: bool | list[bool] | None = None
    bn_epsilon: float | list[float] | None = None
    head: str | list[str] | None = None
    lraspp_pool: str | list[str] | None = None
    resolution: int | list[int] | None = None
    classes: int | list[int] | None = None
    seed: int | list[int] | None = None


class GridFile(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of the YAML file."""

    networks: list[Networks]
    targets: str | list[str]
    precisions: str | list[str] | None = None
    images: str | None = None
    labels: str | None = None
    validation: float = 0.1
    test: float = 0.0
    limit: int | None = None
    train: dict[str, Any] | None = None
    compile: bool = False


@dataclass(frozen=True)
class Images:
    """Labelled images, and how they are parted; fields as of `training.examples.open_examples`.

    Attributes:
        source: where they are.
        labels: CSV file with their classes.
        validation: share of them to validate with.
        test: share of them to test with.
        limit: how many of them to take.
    """

    source: Path
    labels: Path | None = None
    validation: float = 0.1
    test: float = 0.0
    limit: int | None = None


@dataclass(frozen=True)
class Network:
    """A network of a sweep.

    Attributes:
        name: what it is called.
        where: where it was asked for, for messages.
        spec: what is built; None for a file.
        model: the ONNX file; None for what is built.
        weights: trained weights of what is built.
        says_classes: whether the number of classes was asked for.
    """

    name: str
    where: str
    spec: ModelSpec | None = None
    model: Path | None = None
    weights: Path | None = None
    says_classes: bool = False

    @property
    def has_weights(self) -> bool:
        """Whether its weights may have been trained."""
        return self.model is not None or self.weights is not None

    @property
    def family(self) -> tuple[object, ...]:
        """What networks that differ in width only have in common."""
        spec = self.spec and replace(self.spec, width=1.0)
        return self.model, spec


@dataclass(frozen=True)
class Grid:
    """What a sweep is asked for: all combinations.

    Attributes:
        networks: the networks; no two have one name.
        targets: FAMILY[:DEVICE].
        precisions: names of precisions; None stands for the target's own.
        images: labelled images; None for costs only.
        plan: how networks without trained weights are trained; None for not at all.
        compile: whether to compile and verify each combination.
    """

    networks: tuple[Network, ...]
    targets: tuple[str, ...]
    precisions: tuple[str | None, ...] = (None,)
    images: Images | None = None
    plan: TrainPlan | None = None
    compile: bool = False


def read_grid(path: Path) -> Grid:
    """Read what a YAML file asks for.

    Raises:
        UsageError: there is no such file, or something in it makes no sense; the message names
            the field and its line.
    """
    file = YamlFile(path)
    asked = file.read(GridFile)
    return grid_of(asked, path.parent, lambda *steps: file.place(*steps))


def grid_of(asked: GridFile, folder: Path, place: Place) -> Grid:
    """Return a grid, checked.

    Args:
        asked: its fields.
        folder: the folder of relative paths.
        place: returns where some field was asked for, for messages.

    Raises:
        UsageError: something makes no sense.
    """
    networks = list[Network]()
    for index, entry in enumerate(asked.networks):
        where = place("networks", index)
        try:
            networks += islice(_networks(entry, folder, where), MOST_NETWORKS + 1)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        if len(networks) > MOST_NETWORKS:
            raise UsageError(f"{where}: these are more than {MOST_NETWORKS:,} networks")
    targets, precisions = _listed(asked.targets), _listed(asked.precisions)
    for name, values in (("networks", networks), ("targets", targets)):
        if not values:
            raise UsageError(f"{place(name)}: name at least one of the {name}")
    plan = None
    if asked.train is not None:
        try:
            plan = TrainPlan.from_json(asked.train)
        except (UsageError, TypeError) as error:
            raise UsageError(f"{place('train')}: {error}") from error
        if asked.images is None:
            raise UsageError(f"{place('train')}: training needs images; name their folder")
    images = None
    if asked.images is not None:
        labels = folder / asked.labels if asked.labels is not None else None
        source = folder / asked.images
        images = Images(source, labels, asked.validation, asked.test, asked.limit)
        for name, share in (("validation", asked.validation), ("test", asked.test)):
            if not 0 <= share <= 0.9:
                raise UsageError(f"{place(name)}: {share:g} is no share from 0 to 0.9 of images")
        if asked.limit is not None and asked.limit < 2:
            raise UsageError(f"{place('limit')}: {asked.limit} is too few; take 2 or more")
        if not source.exists():
            raise UsageError(f"{place('images')}: no such folder or file: {source}")
        if labels is not None and not labels.is_file():
            raise UsageError(f"{place('labels')}: no such file: {labels}")
    elif asked.labels is not None:
        raise UsageError(f"{place('labels')}: labels belong to images; name these, too")
    return Grid(
        tuple(_named(networks)),
        tuple(dict.fromkeys(targets)),
        tuple(dict.fromkeys(precisions)) or (None,),
        images,
        plan,
        asked.compile,
    )


def _networks(entry: Networks, folder: Path, where: str) -> Iterator[Network]:
    fields = {
        name: value
        for name in entry.__struct_fields__
        if (value := getattr(entry, name)) is not None
    }
    name = fields.pop("name", None)
    of_files = "model" in fields
    models = _listed(fields.pop("model", None))
    if of_files and fields:
        raise UsageError(
            f"leave {', '.join(fields)} out: `model` is a network that is built already"
        )
    for each in models:
        path = folder / each
        if not path.is_file():
            raise UsageError(f"no such file: {path}")
        yield Network(name or path.stem, where, model=path)
    if of_files:
        return
    names, values = list(fields), [_listed(value) for value in fields.values()]
    for chosen in product(*values):
        yield _built(dict(zip(names, chosen, strict=True)), name, folder, where)


def _built(fields: dict[str, Any], name: str | None, folder: Path, where: str) -> Network:
    for file in _FILES:
        if file in fields:
            fields[file] = folder / fields[file]
    weights = fields.pop("weights", None)
    if weights is not None and not weights.is_file():
        raise UsageError(f"no such file: {weights}")
    spec = completed(fields)
    return Network(
        f"{name or spec.name}@{spec.resolution}",
        where,
        spec=spec,
        weights=weights,
        says_classes="classes" in fields,
    )


def _named(networks: Sequence[Network]) -> Iterator[Network]:
    """Give networks of one name numbers; leave out what was asked for twice."""
    names: set[str] = set()
    seen: set[tuple[object, ...]] = set()
    for network in networks:
        what = network.spec, network.model, network.weights
        if what in seen:
            continue
        seen.add(what)
        name, number = network.name, 1
        while name in names:
            number += 1
            name = f"{network.name}#{number}"
        names.add(name)
        yield replace(network, name=name)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def from_options(given: Mapping[str, Any]) -> Grid:
    """Return the grid of a command line's options, as fields of `GridFile` and `Networks`.

    Raises:
        UsageError: something makes no sense; the message names the option.
    """
    of_networks = {key: given[key] for key in Networks.__struct_fields__ if given.get(key)}
    models = of_networks.pop("model", [])
    entries = [Networks(model=models)] if models else []
    if of_networks or not models:
        entries.append(msgspec.convert(of_networks, Networks))
    rest = {
        key: given[key] for key in GridFile.__struct_fields__ if given.get(key) not in (None, [])
    }
    asked = msgspec.convert({"targets": [], **rest, "networks": []}, GridFile)
    asked.networks = entries

    def place(*steps: str | int) -> str:
        return _OPTIONS.get(str(steps[0]), f"--{steps[0]}")

    return grid_of(asked, Path(), place)
