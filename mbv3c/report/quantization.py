"""What quantization cost, layer by layer, and what tuning found."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mbv3c.figures import inline_panels, label_text
from mbv3c.page import COMPUTED, Html, Table, element, how, missing, picture, table
from mbv3c.quantization.report import LayerError
from mbv3c.report.documents import Tuned
from mbv3c.report.history import history, short_key
from mbv3c.report.subject import Subject, kind_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_DRAWN, _MOST_ROWS = 25, 150
_ROW_INCHES, _AROUND_INCHES = 0.22, 0.9
_BAR = "#1f77b4"


def quantization_section(subject: Subject) -> Iterator[Html]:
    """Yield how a quantized bundle was quantized, and what that cost; nothing of others."""
    if not subject.bundle.precision.quantized:
        return
    yield element("h3", "Quantization")
    made = subject.bundle.manifest.quantization
    if made is None:
        yield element("p", "The model came quantized.")
    else:
        kept = ", ".join(made.layers_in_fp32) or "none"
        rows = [
            ("calibrated on", made.calibration),
            ("inputs", f"{made.calibrated_on}{', random numbers' if made.random_inputs else ''}"),
            ("ranges by", made.method),
            ("layers in fp32", kept),
        ]
        yield table(Table("How it was quantized", ("", ""), rows))
    yield from _against_given(subject)
    if subject.quantized is None:
        yield missing(
            "Losses by layer are not here. This gives them, for --quantize:",
            *("quantize", "MODEL", "-o", "OUT", "--calibration", "FOLDER", "--json"),
        )
        return
    report = subject.quantized
    measured = [layer for layer in report.layers if layer.alone_snr_db is not None]
    if measured:
        alt = f"Quantization losses of {subject.name}"
        drawn = _loss_picture(measured, alt)
        yield picture(
            drawn,
            "Signal to noise at the output with that layer alone quantized, the "
            f"{min(_MOST_DRAWN, len(measured))} most sensitive: the shorter, the more it costs",
        )
    layers = [
        (
            layer.name,
            " ".join(layer.operators),
            "-" if layer.alone_snr_db is None else f"{layer.alone_snr_db:.1f}",
            "-" if layer.alone_cosine is None else f"{layer.alone_cosine:.6f}",
            layer.kept_float or "",
        )
        for layer in report.layers[:_MOST_ROWS]
    ]
    head = ("layer", "operators", "SNR alone, dB", "cosine alone", "stays fp32")
    yield table(Table("Layers, the most sensitive first", head, layers))
    said = f"by onnxruntime on this model, calibrated on {report.calibration}"
    yield how(COMPUTED, said, "quantize", "MODEL", "-o", report.model, "--json")


def _against_given(subject: Subject) -> Iterator[Html]:
    loss = (subject.parity or {}).get("against_model_as_given")
    if not isinstance(loss, dict):
        return
    shares = [
        (f"top-{k} agreement", "-" if loss.get(f"top{k}") is None else f"{loss[f'top{k}']:.1%}")
        for k in (1, 5)
    ]
    rows = [("cosine", f"{loss['cosine']:.6f}"), *shares]
    yield table(Table("The bundle against the model as given", ("", ""), rows, numbers=True))
    for reason in loss.get("too_far", ()):
        yield element("p", f"TOO FAR: {reason}", class_="bad")
    ran_on = str((subject.parity or {}).get("ran_on", ""))
    yield how(kind_of(ran_on), f"on {ran_on}, on seeded inputs", "verify", subject.path)


def _loss_picture(layers: Sequence[LayerError], alt: str) -> str:
    shown = sorted(layers, key=lambda layer: layer.alone_snr_db or 0.0)[:_MOST_DRAWN]

    def draw(panels: "Sequence[Axes]") -> None:
        (axes,) = panels
        names = [label_text(layer.name, 40) for layer in shown]
        places = range(len(shown))
        axes.barh(places, [layer.alone_snr_db or 0.0 for layer in shown], color=_BAR, alpha=0.7)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel("signal to noise, dB")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, axis="x", alpha=0.3)

    return inline_panels([_AROUND_INCHES + _ROW_INCHES * len(shown)], draw, alt)


def tuning_section(subject: Subject, database: Path | None) -> Iterator[Html]:
    """Yield where the choices of the kernels come from, and what tuning found."""
    yield element("h3", "Tuning")
    kernels, manifest = subject.evidence.kernels, subject.bundle.manifest
    origins = Counter(kernel.origin or "nothing to choose" for kernel in kernels)
    if origins:
        rows = [(origin, f"{count}") for origin, count in sorted(origins.items())]
        caption = "Where the choices of the calls are from"
        yield table(Table(caption, ("", "calls"), rows, numbers=True))
    if manifest.tuned_kernels:
        tuned = [
            (short_key(kernel.key), kernel.origin, _knobs(kernel.knobs))
            for kernel in manifest.tuned_kernels[:_MOST_ROWS]
        ]
        head = ("kernel", "origin", "choices")
        yield table(Table("Kernels as they were measured", head, tuned))
    yield how(COMPUTED, "by the manifest", "inspect", subject.path)
    if subject.tuned is not None:
        yield from _tuned(subject, subject.tuned)
    if database is not None:
        yield from history(subject, database)
    if subject.tuned is None and database is None:
        target = manifest.target.name
        yield missing(
            "No history. This makes one, for --tune, and --database tune_logs draws it:",
            *("tune", "MODEL", "--target", target, "--json"),
        )


def _knobs(knobs: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in knobs.items())


def _tuned(subject: Subject, tuned: Tuned) -> Iterator[Html]:
    network = tuned.network
    said = (
        "Nothing won against the default choices."
        if network is None
        else (
            f"The network went from {network.before:,.0f} to {network.after:,.0f} {network.unit}, "
            f"{network.ratio:.3f} of before."
        )
    )
    yield element("p", f"{said} {tuned.trials:,} candidates were tried, {tuned.kept} kept.")
    rows = [
        (
            task.task,
            f"{task.calls}",
            f"{task.measured} of {task.legal}",
            "-" if task.best_relative is None else f"{task.best_relative:.3f}",
        )
        for task in tuned.tasks[:_MOST_ROWS]
    ]
    head = ("kernel", "calls", "measured", "best, of the default")
    yield table(Table("What was tuned", head, rows, numbers=True))
    yield how(
        kind_of(tuned.runner), f"by {tuned.runner} for {tuned.device}",
        *("tune", "MODEL", "--target", subject.bundle.manifest.target.name),
    )  # fmt: skip
