"""The command `mbv3c adapt`."""

from math import isfinite
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
    force_option,
    json_option,
    load_given,
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
from mbv3c.commands.places import MODEL, OneOf, check_different, target_option

if TYPE_CHECKING:
    from mbv3c.search.specs import AdaptSpec


class _Rate(click.FloatRange):
    """A learning rate."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        rate: float = super().convert(value, param, ctx)
        if not isfinite(rate):
            self.fail(f"{value} is no number above 0", param, ctx)
        return rate


_RATE = _Rate()

# Of the short training of each proposal, and of the last one.
training_options = all_of(
    click.option(
        "--tune-steps",
        type=click.IntRange(1),
        default=50,
        show_default=True,
        help="Train each proposal for so many steps.",
    ),
    click.option(
        "--tune-rate",
        type=_RATE,
        default=0.05,
        show_default=True,
        help="Learn at this rate at most in these trainings.",
    ),
    click.option(
        "--finish",
        type=OneOf(["scratch", "finetune", "none"]),
        default="scratch",
        show_default=True,
        help="Train the result from fresh weights, or from those it has.",
    ),
    click.option(
        "--finish-steps",
        type=click.IntRange(1),
        help="Train for so many steps in the end.  [default: 10 times through the images]",
    ),
    click.option(
        "--finish-rate",
        type=_RATE,
        help="Learn at this rate at most in the end.  [default: 0.2; finetune 0.05]",
    ),
    batch_option,
    augment_option,
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Draw all trainings from this seed."
    ),
)


@click.command()
@click.argument("model", type=MODEL)
@target_option
@click.option(
    "--precision", help="Compute in fp32, fp16, bf16 or int8.  [default: fp32, on npu int8]"
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    help="Cut to 0.7x, 2.5ms, 1.2Mcycles, 300KiB, weights=0.5x, …; may be repeated.",
)
@image_options(required=True)
@click.option("-o", "--output", type=PATH, required=True, help="Write this .onnx file.")
@click.option(
    "--saving",
    type=float,
    default=0.05,
    show_default=True,
    help="Save at least this share of the first cost in each step.",
)
@click.option(
    "--decay",
    type=float,
    default=0.98,
    show_default=True,
    help="Multiply the saving by this after each step.",
)
@click.option(
    "--grain",
    type=click.IntRange(1),
    help="Cut to multiples of so many channels.  [default: the target's]",
)
@click.option("--keep", "kept", multiple=True, help="Leave this site, or kind of site, alone.")
@training_options
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@click.option(
    "--database", type=PATH, help="Keep known costs in this folder.  [default: in the cache]"
)
@click.option(
    "--journal", type=PATH, help="Keep what was found in this folder.  [default: OUTPUT.adapt]"
)
@click.option("--plot", type=PATH, help="Draw the steps: a .png or .svg file.")
@click.option(
    "--save-architecture", type=PATH, help="Also write the layers, to a file for --architecture."
)
@device_options
@engine_options
@force_option
@json_option
def adapt(model: Path, output: Path, force: bool, as_json: bool, **given: Any) -> None:
    """Make a trained classifier fit a budget on a target, by NetAdapt: cut by cut.

    Interrupt it whenever you like: what was found is kept, and the next run goes on.
    """
    from mbv3c.atomic import beside, check_place, new_file
    from mbv3c.errors import EXIT_FAILED
    from mbv3c.figures import check_figure
    from mbv3c.graphs.architecture_file import architecture_text
    from mbv3c.search import adapt_report
    from mbv3c.search.adapt_run import adapt_model, outcome_json, outcome_lines
    from mbv3c.search.layers import layers_of
    from mbv3c.training.train import require_torch

    plot, layers = taken(given, "plot", "save_architecture").values()
    files = {"--output": output, "--save-architecture": layers, "--plot": plot}
    check_different(files, {f"--{one}": given[one] for one in ("journal", "store", "database")})
    for place in (output, layers):
        if place is not None:
            check_place(place, force=force)
    if plot is not None:
        check_figure(plot, force=force)
    progress = Progress()
    folder = given["journal"] or beside(output, ".adapt")
    request = _spec(given).request(folder)
    if given["cluster"] is None:
        require_torch()
    loaded = load_given(model, given["input_shape"])
    engine_words = taken(given, "cluster", "jobs", "store")
    with take_engine(engine_words, progress) as where:
        outcome = adapt_model(loaded, request, where, progress)
    adapted = outcome.adapted
    with new_file(output, force=force) as temporary:
        temporary.write_bytes(adapted.model.SerializeToString(deterministic=True))
    network = layers_of(adapted.model)
    written = layers if not isinstance(network, str) else None
    if written is not None and not isinstance(network, str):
        with new_file(written, force=force) as temporary:
            temporary.write_text(architecture_text(network), "utf-8")
    if plot is not None:
        adapt_report.draw(plot, adapted, request.target.name, force=force)
    if as_json:
        files = {"model": str(output), "architecture": str(written) if written else None}
        print_json({**files, **outcome_json(outcome)})
    else:
        echo("\n".join([*adapt_report.lines(adapted), *outcome_lines(outcome)]))
        echo(f"{output}: the network; {request.folder}: journal and the network of each step")
        for place, what in ((written, "the layers"), (plot, "the steps as a picture")):
            if place is not None:
                echo(f"{place}: {what}")
    if not adapt_report.met(adapted):
        click.get_current_context().exit(EXIT_FAILED)


def _spec(given: dict[str, Any]) -> "AdaptSpec":
    """Read what was given, apart from files to write.

    Raises:
        UsageError: an option makes no sense.
    """
    from mbv3c.search.adapt_run import Finishing
    from mbv3c.search.specs import AdaptSpec
    from mbv3c.training.plan import TrainPlan

    batch = {} if given["batch"] is None else {"batch": given["batch"]}
    tune = TrainPlan(
        given["tune_steps"],
        rate=given["tune_rate"],
        augment=augmentations(given["augment"]),
        seed=given["seed"],
        fresh=False,
        **batch,
    )
    return AdaptSpec(
        images=take_images(given),
        tune=tune,
        finish=Finishing(given["finish"], given["finish_steps"], given["finish_rate"]),
        **taken(given, "target", "precision", "budgets", "saving", "decay", "kept"),
        **taken(given, "grain", "database"),
        place=place_of(given),
    )
