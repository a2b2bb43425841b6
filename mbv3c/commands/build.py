"""The command `mbv3c build`."""

from pathlib import Path
from typing import Any

import click

from mbv3c.commands.options import (
    PATH,
    echo,
    force_option,
    json_option,
    model_options,
    print_json,
    spec_of,
)
from mbv3c.commands.preparing import (
    about_images,
    image_lines,
    labels_option,
    preparing_options,
    take_labels,
    take_overrides,
)
from mbv3c.errors import UsageError


@click.command()
@model_options
@preparing_options
@labels_option
@click.option("-o", "--output", type=PATH, help="Write this .onnx file.")
@click.option(
    "--save-weights", type=PATH, help="Also write the weights, to a .safetensors or .npz file."
)
@click.option(
    "--save-architecture", type=PATH, help="Also write the layers, to a file for --architecture."
)
@force_option
@json_option
def build(
    output: Path | None,
    save_weights: Path | None,
    save_architecture: Path | None,
    force: bool,
    as_json: bool,
    **spec: Any,
) -> None:
    """Write MobileNetV3 or a relative as an ONNX graph, with seeded or trained weights."""
    from dataclasses import asdict

    from mbv3c.atomic import new_file
    from mbv3c.graphs.architecture_file import architecture_text
    from mbv3c.graphs.builder import build_model
    from mbv3c.graphs.count import count
    from mbv3c.graphs.outputs import with_class_names
    from mbv3c.graphs.spec import architecture
    from mbv3c.graphs.weights import files
    from mbv3c.quantization.images import with_preparing

    overrides, labels = take_overrides(spec), take_labels(spec)
    wanted, weights = spec_of(spec)
    if labels and len(labels) != wanted.classes:
        raise UsageError(
            f"--labels has {len(labels)} lines, and the model {wanted.classes} classes (--classes)"
        )
    model = with_class_names(with_preparing(build_model(wanted, weights), overrides), labels)
    about = about_images(model)
    path = output or Path(f"{model.graph.name}.onnx")
    with new_file(path, force=force) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        if save_weights is not None:
            with new_file(save_weights, force=force) as temporary_weights:
                files.save_weights(model, temporary_weights)
        if save_architecture is not None:
            with new_file(save_architecture, force=force) as temporary_layers:
                temporary_layers.write_text(architecture_text(architecture(wanted)), "utf-8")
    counts = count(model)
    saved = str(save_weights) if save_weights is not None else None
    layers = str(save_architecture) if save_architecture is not None else None
    if as_json:
        written = {"model": str(path), "weights": saved, "architecture": layers}
        print_json({**written, **asdict(counts), **about})
        return
    echo(f"{path}: {counts.params:,} parameters, {counts.madds:,} multiply-adds")
    echo("\n".join(image_lines(about)))
    if saved:
        echo(f"{saved}: the weights")
    if layers:
        echo(f"{layers}: the layers")
