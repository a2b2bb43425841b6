"""The options of labelled images and of training on them; several commands share them."""

from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import Decorator, all_of, taken
from mbv3c.commands.places import FILE, IMAGES

if TYPE_CHECKING:
    from mbv3c.search.grid import Images

_NAMES = ("labels", "validation", "test", "limit")

labels_option = click.option(
    "--labels",
    type=FILE,
    help="Read labels for a folder of images from a CSV with the columns file,label.",
)
limit_option = click.option("--limit", type=int, help="Take a sample of so many training images.")
batch_option = click.option(
    "--batch", type=int, help="Take so many images in a step.  [default: 128]"
)
augment_option = click.option(
    "--augment",
    help="Vary images by crop, flip (wrong for digits and text), colour; several with "
    "commas.  [default: none]",
)


def image_options(*, required: bool) -> Decorator:
    """Return the options that say which labelled images there are; `take_images` reads them."""
    return all_of(
        click.option(
            "--images",
            type=IMAGES,
            required=required,
            help="Take labelled images, as --data of `train`.",
        ),
        labels_option,
        click.option(
            "--validation", type=float, help="Choose by this share of each class.  [default: 0.1]"
        ),
        click.option(
            "--test",
            type=float,
            help="Test with this share, by which nothing is chosen.  [default: 0]",
        ),
        limit_option,
    )


def take_images(given: dict[str, Any]) -> "Images":
    """Take `image_options` out of what was given."""
    from mbv3c.search.grid import Images

    source = given.pop("images")
    said = {name: value for name, value in taken(given, *_NAMES).items() if value is not None}
    return Images(source, **said)


def augmentations(text: str | None) -> tuple[str, ...]:
    """Return the names in the value of --augment."""
    return tuple(filter(None, (text or "").split(",")))
