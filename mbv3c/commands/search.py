"""The command `mbv3c search`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.engines import engine_options, take_engine
from mbv3c.commands.options import (
    PATH,
    Progress,
    all_of,
    device_options,
    echo,
    json_option,
    place_of,
    print_json,
    taken,
)
from mbv3c.commands.options_images import (
    augment_option,
    augmentations,
    batch_option,
    image_options,
    take_images,
)
from mbv3c.commands.places import target_option
from mbv3c.commands.wrapping import columns_of
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from mbv3c.execution.device.place import Place
    from mbv3c.search.halving import Halving
    from mbv3c.search.plan import SearchPlan
    from mbv3c.training.plan import TrainPlan

_ROUNDS = "200,600"

_plan_options = all_of(
    click.option(
        "--sampler",
        default="tpe",
        show_default=True,
        help="Draw networks by tpe, nsga2 or random.",
    ),
    click.option(
        "--batches", type=int, default=3, show_default=True, help="Ask the sampler so many times."
    ),
    click.option(
        "--asked", type=int, default=48, show_default=True, help="Draw so many networks each time."
    ),
    click.option(
        "--trained",
        type=int,
        default=12,
        show_default=True,
        help="Train so many of these at most.",
    ),
    click.option(
        "--rounds",
        default=_ROUNDS,
        show_default=True,
        help="Train for so many steps in each round; the best third goes on.",
    ),
    click.option(
        "--bands",
        type=int,
        default=3,
        show_default=True,
        help="Compare in so many bands of like cost.",
    ),
    click.option(
        "--repeats",
        type=int,
        default=3,
        show_default=True,
        help="Measure the noise with so many seeds.",
    ),
    click.option(
        "--finalists", type=int, default=3, show_default=True, help="Train so many networks long."
    ),
    click.option(
        "--final-steps",
        type=int,
        default=2000,
        show_default=True,
        help="Train these for so many steps.",
    ),
    click.option(
        "--final-seeds",
        type=int,
        default=3,
        show_default=True,
        help="Train these from so many seeds.",
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Draw sampler and trainings from this seed.",
    ),
)
_TRAINING = ("batch", "rate", "decay", "smoothing", "average", "augment")
_training_options = all_of(
    batch_option,
    click.option("--rate", type=float, help="Learn at this rate at most.  [default: 0.2]"),
    click.option("--decay", type=float, help="Decay weights by this.  [default: 4e-5]"),
    click.option("--smoothing", type=float, help="Smooth labels by this.  [default: 0.1]"),
    click.option(
        "--average",
        type=float,
        help="Average weights with this decay; 0: do not.  [default: 0.999]",
    ),
    augment_option,
    click.option("--train-on", help="Train on cpu or cuda.  [default: cpu]"),
)


@click.command()
@target_option
@click.option(
    "--precision", help="Compute in fp32, fp16, bf16 or int8.  [default: the target's own]"
)
@image_options(required=True)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    help="Take at most 0.6x of MobileNetV3's, 2.5ms, 1.2Mcycles, 300KiB; several by commas.",
)
@click.option(
    "--reward",
    type=float,
    help="Make the budget soft: ACC (COST/BUDGET)^REWARD, such as -0.07 or -0.15.",
)
@click.option(
    "--least",
    type=float,
    default=0.5,
    show_default=True,
    help="Leave out networks below this share of the budget.",
)
@click.option(
    "--variant", default="small", show_default=True, help="Search around small or large."
)
@click.option(
    "--resolution",
    type=int,
    multiple=True,
    help="Take images of this side; may be repeated.  [default: 224]",
)
@click.option(
    "--grain", type=int, default=8, show_default=True, help="Round channels to multiples of this."
)
@_plan_options
@_training_options
@click.option(
    "--judged",
    type=int,
    default=1000,
    show_default=True,
    help="Run so many test images on each bundle.",
)
@click.option(
    "--costs", type=PATH, help="Keep known costs in this folder.  [default: in the cache]"
)
@click.option(
    "-o", "--output", type=PATH, help="Write the result to this folder.  [default: search-TARGET]"
)
@device_options
@engine_options
@json_option
def search(
    target: str,
    precision: str | None,
    budgets: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Search for the best networks of a target and a budget, around MobileNetV3, on your images.

    Interrupt it whenever you like: what was found is kept, and the same command goes on.
    """
    from mbv3c.search.report import search_lines
    from mbv3c.search.request import document, run_search
    from mbv3c.search.space import Space
    from mbv3c.search.specs import SearchSpec
    from mbv3c.training.train import require_torch

    request = SearchSpec(
        target,
        take_images(given),
        budgets,
        precision,
        space=Space(given.pop("variant"), given.pop("resolution") or (224,), given.pop("grain")),
        plan=_plan(given),
        training=_training(given),
        database=given.pop("costs"),
        place=_place(given),
        **taken(given, "reward", "least", "judged"),
    ).request()
    if given["cluster"] is None:
        require_torch()
    device = request.device
    folder = output or Path(f"search-{device.target.family}-{device.target.device}")
    progress = Progress()
    with take_engine(given, progress) as where:
        found = run_search(request, folder, where, progress)
    if as_json:
        print_json(document(found, device))
        return
    echo("\n".join(search_lines(found, columns_of(sys.stdout))))
    echo(f"{folder}: the networks, their layers and bundles, the front and the journal")


def _plan(given: dict[str, Any]) -> "SearchPlan":
    """Take the options of the plan out of what was given.

    Raises:
        UsageError: a value makes no sense.
    """
    from mbv3c.search.plan import SearchPlan
    from mbv3c.search.sample import check_sampler

    check_sampler(method := given.pop("sampler"))
    halving = _halving(given)
    names = ("batches", "asked", "trained", "repeats", "final_steps", "final_seeds", "seed")
    return SearchPlan(halving, method, **taken(given, *names))


def _halving(given: dict[str, Any]) -> "Halving":
    from mbv3c.search.halving import Halving

    text = given.pop("rounds")
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--rounds {text!r} are no numbers of steps; write them like {_ROUNDS}"
        ) from error
    return Halving(steps, bands=given.pop("bands"), least=given.pop("finalists"))


def _place(given: dict[str, Any]) -> "Place | None":
    """Take out of what was given where the device is whose time is the cost.

    Raises:
        UsageError: the options do not go together.
    """
    if given["device"] in ("cpu", "cuda"):
        raise UsageError(
            f"--device is where a board is served, HOST:PORT, whose time is the cost; to train on "
            f"another device give --train-on {given['device']}"
        )
    return place_of(given)


def _training(given: dict[str, Any]) -> "TrainPlan":
    from mbv3c.training.plan import TrainPlan

    asked = {name: value for name, value in taken(given, *_TRAINING).items() if value is not None}
    if (device := given.pop("train_on")) is not None:
        asked["device"] = device
    if "augment" in asked:
        asked["augment"] = augmentations(asked["augment"])
    return TrainPlan(steps=1, **asked)
