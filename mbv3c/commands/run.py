"""The command `mbv3c run`."""

import shlex
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import (
    PATH,
    echo,
    force_option,
    json_option,
    print_json,
    taken,
)
from mbv3c.commands.places import BUNDLE_OR_MODEL, IMAGES
from mbv3c.commands.preparing import (
    labels_option,
    preparing_options,
    take_labels,
    take_overrides,
)
from mbv3c.commands.trusting import place_and_trust, running_options
from mbv3c.errors import ModelError, UsageError

if TYPE_CHECKING:
    import onnx

    from mbv3c.execution.detection import Thresholds
    from mbv3c.execution.device.place import Place
    from mbv3c.inference import Ran
    from mbv3c.pictures.answers import Answer, Asked
    from mbv3c.pictures.meaning import Meaning
    from mbv3c.quantization.images import Overrides
    from mbv3c.trust import Trust


@click.command()
@click.argument("bundle", type=BUNDLE_OR_MODEL)
@click.option(
    "--input",
    "source",
    type=IMAGES,
    required=True,
    help="Take a .npy, .npz, an image, or a folder.",
)
@preparing_options
@labels_option
@click.option("--top", type=int, help="Print so many best answers.  [default: 5; 20 boxes]")
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="Write outputs to .npy or .npz; draw the answers on the image into .png, .jpg or "
    ".webp, for a folder into one.",
)
@click.option("--raw", is_flag=True, help="Write a detector's outputs as they are.")
@click.option(
    "--score-threshold",
    type=float,
    help="Take detections from this score on.  [default: 0.001; 0.3 of boxes that are "
    "printed or drawn]",
)
@click.option(
    "--nms-threshold",
    type=float,
    help="Let boxes of a class overlap by so much at most.  [default: 0.55]",
)
@click.option(
    "--topk-candidates", type=int, help="Look at so many boxes of a class.  [default: 300]"
)
@click.option("--detections", type=int, help="Report so many boxes of an image.  [default: 300]")
@running_options
@force_option
@json_option
def run(
    bundle: Path,
    source: Path,
    output: Path | None,
    raw: bool,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Run one inference on an array or an image, or one on every image of a folder.

    For an image the answers are printed: the best classes, the boxes of a detector, or what each
    class takes of a map. An output that ends in .png, .jpg or .webp is the image with them drawn.

    One output becomes a .npy file, several a .npz file with each by its name. For a
    bundle that `compile --outputs top5` or `--labels` made, the best classes are printed, too.

    Without --output nothing is written: for an array the least, the largest and the mean number of
    every output are printed, and where the largest is.

    A device or a pipe as --output, such as /dev/null, takes several outputs as one .npz.

    BUNDLE may be an ONNX file, too: onnxruntime runs it then, and nothing is compiled.

    An image is prepared as the model says, or the options: as `verify --images` does it.

    For a detector the .npz holds boxes (left, top, right, bottom in pixels of the input), scores,
    labels and images (which image of the batch), after non-maximum suppression by class.
    """
    from mbv3c.quantization.own_inputs import is_picture

    pictures = source.is_dir() or is_picture(source)
    asked = _take_asked(bundle, given, pictures=pictures, raw=raw)
    if force and output is None:
        raise UsageError("--force is for a file that is there: name it with --output")
    if source.is_dir():
        if asked.model is not None:
            raise UsageError(
                f"{bundle} is a model, and a folder of images takes a bundle: `mbv3c compile "
                f"{bundle} --target host_cpu`"
            )
        if raw:
            raise UsageError("--raw writes arrays, and a folder has answers printed: leave it out")
        _run_folder(bundle, source, output, asked, force=force, as_json=as_json)
        return
    ran = _run_one(bundle, source, output, asked, raw=raw, force=force)
    _print(bundle, output, ran, as_json=as_json)


@dataclass(frozen=True)
class _Asked:
    """What the options say, whatever the input is."""

    meaning: "Meaning"
    shown: "Asked"
    labels: tuple[str, ...]
    pictures: bool
    said: bool  # whether answers are asked for by an option
    preparing: "Overrides"
    thresholds: "Thresholds | None"
    place: "Place | None"
    trust: "Trust"
    model: "onnx.ModelProto | None"  # where it is no bundle


def _take_asked(bundle: Path, given: dict[str, Any], *, pictures: bool, raw: bool) -> _Asked:
    """Read the options, before anything heavy is imported.

    Raises:
        UsageError: they do not go together, or not with the bundle.
    """
    from mbv3c.execution.detection import Thresholds
    from mbv3c.manifest import Manifest, read_manifest
    from mbv3c.pictures.answers import LEAST_SCORE, Asked
    from mbv3c.pictures.meaning import check_top, meaning_of, meaning_of_model

    place, trust = place_and_trust(given)
    preparing = take_overrides(given, "an image as --input", there=pictures)
    labels, (top,) = take_labels(given), taken(given, "top").values()
    limits = {key: value for key, value in given.items() if value is not None}
    thresholds = Thresholds(**limits) if limits else None
    model = _read_model(bundle, place, trust) if bundle.is_file() else None
    if model is not None:
        meaning = meaning_of_model(model, labels)
    else:
        meaning = meaning_of(read_manifest(bundle).parse(Manifest), labels)
    if raw and (top is not None or labels):
        raise UsageError("--raw gives outputs as they are, without answers: leave --top out")
    check_top(top, meaning)
    least = limits.get("score_threshold", LEAST_SCORE)
    said = top is not None or bool(labels)
    return _Asked(
        *(meaning, Asked(top, least), labels, pictures and not raw, said),
        *(preparing, thresholds, place, trust, model),
    )


def _read_model(path: Path, place: "Place | None", trust: "Trust") -> "onnx.ModelProto":
    """Read a model that was not compiled.

    Raises:
        UsageError: options are given that belong to bundles.
        ModelError: the model cannot be used.
    """
    from mbv3c.graphs.load import ShapeError, load_model

    if place is not None or trust.anyway or trust.key:
        raise UsageError(
            f"{path} is a model: --device, --tracker, --trust and --key take a bundle; compile it "
            "first"
        )
    try:
        return load_model(path)
    except ShapeError as error:
        name = shlex.quote(str(path))
        raise ModelError(
            f"{error}; `run` has no such option: `mbv3c optimize {name} --input-shape SHAPE -o "
            "FIXED.onnx` writes a model that can be run"
        ) from error


@dataclass(frozen=True)
class _Shown:
    """What an inference gave, and what it says of its picture or pictures."""

    ran: "Ran"
    meaning: "Meaning"
    answers: "tuple[Answer, ...]"
    is_picture: bool


def _run_one(
    bundle: Path, source: Path, output: Path | None, asked: _Asked, *, raw: bool, force: bool
) -> _Shown:
    """Run one inference, and write or draw what was asked for."""
    from mbv3c import inference
    from mbv3c.atomic import new_file, takes_bytes
    from mbv3c.bundle import read_bundled
    from mbv3c.graphs.load import input_shape_of
    from mbv3c.pictures import drawing
    from mbv3c.pictures.answers import Placing, answers
    from mbv3c.quantization.decoding import decode
    from mbv3c.quantization.images import part_shown, preprocessing

    draws = output is not None and drawing.is_picture_name(output)
    if draws and output is not None:
        drawing.check_picture(output)
    if draws and not asked.pictures:
        raise UsageError(
            f"{output} is a picture to draw on, and --input is no image (or --raw is there); name "
            "an .npy or .npz file"
        )
    if draws and not asked.meaning.is_known:
        raise UsageError(
            f"{output}: there is nothing to draw, as the outputs are no class scores, boxes or "
            "map of classes; name an .npy or .npz file"
        )
    picture = decode(source) if asked.pictures else None
    writing = nullcontext() if output is None else new_file(output, force=force)
    with writing as temporary:
        to = None
        if output is not None and temporary is not None and not draws:
            to = inference.Output(temporary, is_device=takes_bytes(output))
        if asked.model is not None:
            ran = inference.run_model(
                *(asked.model, source, to),
                raw=raw,
                thresholds=asked.thresholds,
                preparing=asked.preparing,
            )
        else:
            ran = inference.run_bundle(
                *(bundle, source, to),
                raw=raw,
                thresholds=asked.thresholds,
                place=asked.place,
                preparing=asked.preparing,
                trust=asked.trust,
            )
        if picture is None:
            return _Shown(ran, asked.meaning, tuple(_of_arrays(ran, asked)), False)
        model = asked.model or read_bundled(bundle / "model.onnx")
        processing = preprocessing(model, input_shape_of(model), asked.preparing)
        part = part_shown(picture.size, processing)
        placing = Placing(part, processing.height, processing.width)
        (answer,) = answers(asked.meaning, ran.arrays, asked.shown, [placing])
        if draws and output is not None and temporary is not None:
            made = drawing.drawn(picture, answer, asked.meaning, placing)
            drawing.save(made, temporary, output)
    return _Shown(ran, asked.meaning, (answer,), True)


def _of_arrays(ran: "Ran", asked: _Asked) -> "list[Answer]":
    """Return the answers of an inference on arrays, where an option asks for them."""
    from mbv3c.pictures.answers import Answer, Placing, answers, images_in

    if not asked.said:
        return [Answer(tuple(ran.classes))]
    here = Placing((0, 0, 1, 1), 1, 1)  # boxes stay in pixels of the input
    count = images_in(asked.meaning, ran.arrays)
    return answers(asked.meaning, ran.arrays, asked.shown, [here] * count)


def _print(bundle: Path, output: Path | None, shown: _Shown, *, as_json: bool) -> None:
    from mbv3c.inference import figures_of

    arrays, ran_on = shown.ran.arrays, shown.ran.ran_on
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    first, *others = shapes.values()
    figures = {} if output else {name: figures_of(array) for name, array in arrays.items()}
    if as_json:
        listed = [
            {"name": name, "shape": shape, **figures.get(name, {})}
            for name, shape in shapes.items()
        ]
        printed = {
            "output": None if output is None else str(output),
            "shape": None if others else first,
            "arrays": listed,
            "ran_on": ran_on,
        }
        rows = [answer.to_json() for answer in shown.answers]
        for key in dict.fromkeys(key for row in rows for key in row):
            printed[key] = [one for row in rows for one in row.get(key, ())]
        print_json(printed)
        return
    names = [f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    echo(f"{output or bundle}: {', '.join(names)}, computed on {ran_on}")
    if not (shown.is_picture and shown.meaning.is_known):
        for name, row in figures.items():
            least, largest, mean = (
                "none" if row[key] is None else f"{row[key]:.6g}"
                for key in ("least", "largest", "mean")
            )
            peak = ", ".join(map(str, row["largest_at"]))
            echo(f"{name}: {row['dtype']}, {least} to {largest} (at {peak}), mean {mean}")
    for line in _answer_lines(shown):
        echo(line)


def _answer_lines(shown: _Shown) -> list[str]:
    classes = [one for answer in shown.answers for one in answer.classes]
    several = len({one.image for one in classes}) > 1
    lines = [
        f"{f'image {one.image}: ' if several else ''}{one.score:.4g}  class {one.index}  "
        f"{one.label}".rstrip()
        for one in classes
    ]
    for answer in shown.answers:
        lines += [
            f"{box.score:.2f}  {shown.meaning.called(box.index)}  from {box.left:.0f}, "
            f"{box.top:.0f} to {box.right:.0f}, {box.bottom:.0f}"
            for box in answer.boxes
        ]
        lines += [
            f"{area.share:7.2%}  {shown.meaning.called(area.index)}" for area in answer.areas
        ]
    if shown.is_picture and shown.meaning.kind == "boxes" and not lines:
        return ["nothing was found with a score above the threshold (--score-threshold)"]
    return lines


def _run_folder(
    bundle: Path, folder: Path, output: Path | None, asked: _Asked, *, force: bool, as_json: bool
) -> None:
    """Run a bundle on every picture of a folder, and print what it sees on each."""
    from mbv3c.atomic import check_free, new_folder
    from mbv3c.pictures.listing import pictures_in

    if output is not None:
        check_free(output, force=force)
        if output.is_file():
            raise UsageError(
                f"{output} is a file; for a folder of images name a folder to draw to"
            )
    if not asked.meaning.is_known:
        raise UsageError(
            "a folder of images is for models whose outputs are class scores, boxes or a map of "
            "classes; give arrays or images one by one"
        )
    pictures_in(folder)
    from mbv3c.pictures.folder import PicturesRequest, Seen, run_pictures

    rows: list[dict[str, Any]] = []

    def report(seen: Seen, meaning: "Meaning") -> None:
        rows.append(seen.to_json())
        if not as_json:
            said = (
                f"broken: {seen.broken}" if seen.broken else ", ".join(seen.answer.words(meaning))
            )
            echo(f"{seen.file}: {said or 'nothing found'}")

    with nullcontext() if output is None else new_folder(output, force=force) as drawings:
        request = PicturesRequest(
            *(folder, asked.shown, asked.labels, asked.preparing, asked.thresholds, drawings)
        )
        ran_on = run_pictures(bundle, request, report, place=asked.place, trust=asked.trust)
    broken = sum("broken" in row for row in rows)
    where = None if output is None else str(output)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "output": where,
                "ran_on": ran_on,
                "broken": broken,
                "images": rows,
            }
        )
        return
    drawn = f", drawn into {where}" if where else ""
    echo(f"{len(rows) - broken} images{drawn}; {broken} broken; computed on {ran_on}")
