"""Outputs in a file, to be judged again without running anything.

An uncompressed .npz: `header` is a JSON document in UTF-8, `reference.I.O` and `bundle.I.O` are
output O for input I, counted from 0 in the header's order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.atomic import new_file
from mbv3c.bundle import Bundle
from mbv3c.door.arrays import open_arrays
from mbv3c.door.documents import parse_json
from mbv3c.errors import SavedFileError, UsageError
from mbv3c.graphs.weights.files import write_npz
from mbv3c.manifest import manifest_digest
from mbv3c.parity.conditioning import KnownDoubt
from mbv3c.parity.labels import KnownAnswers
from mbv3c.parity.metrics import finite
from mbv3c.parity.own_inputs import OwnInputs
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.tolerance import Tolerance
from mbv3c.parity.verdict import Pair, Pairs, Verdict

FORMAT = "mbv3c outputs"
SCHEMA = 4
_HEADER = "header"
# What comes of files that are not what they say; what is not let in is a ValueError.
_BROKEN = (OSError, MemoryError, ValueError, KeyError, TypeError, IndexError, AttributeError)


@dataclass(frozen=True)
class Saved:
    """Outputs, and where they come from.

    Attributes:
        origin: `bundle` (its name), `bundle_sha256` (of its manifest, which has the hashes of all
            other files), `target`, `precision`, `ran_on`, `exact_program`, `versions`,
            `own_inputs` (in words; None for the seeded ones).
        standing: the tolerance by which `verify` judges these outputs; None if it judges
            something else.
        pairs: the outputs; none of them judged.
    """

    origin: Mapping[str, Any]
    standing: Tolerance | None
    pairs: Pairs


def saved_of(bundle: Bundle, verdict: Verdict, own: OwnInputs | None = None) -> Saved:
    """Return the outputs of a bundle that was verified, and where they come from."""
    manifest = bundle.manifest
    origin = {
        "bundle": bundle.path.resolve().name,
        "bundle_sha256": manifest_digest(bundle.path),
        "target": manifest.target.name,
        "precision": manifest.precision,
        "ran_on": verdict.ran_on,
        "exact_program": verdict.exact_program,
        "versions": {"mbv3c": manifest.mbv3c, **manifest.tools},
        "own_inputs": own and own.source,
    }
    return Saved(origin, verdict.standing, verdict.pairs)


def save_outputs(path: Path, saved: Saved) -> None:
    """Write outputs whole or not at all, over what is there; equal outputs give equal bytes.

    Raises:
        UsageError: `path` does not end in .npz, or its folder is not there.
        BundleError: the place cannot be written.
    """
    if path.suffix != ".npz":
        raise UsageError(f"{path} does not end in .npz; name such a file")
    first = [pair.reference for pair in saved.pairs[0]]
    others = [[_others(pair) for pair in outputs] for outputs in saved.pairs]
    header = {
        "format": FORMAT,
        "schema": SCHEMA,
        **saved.origin,
        "standing": saved.standing and asdict(saved.standing),
        "outputs": [{"name": ref.name, "class_axis": ref.class_axis} for ref in first],
        "inputs": [
            [_allowance(pair, len(known)) for pair, known in zip(*rows, strict=True)]
            for rows in zip(saved.pairs, others, strict=True)
        ],
    }
    text = json.dumps(header, allow_nan=False).encode()
    arrays: dict[str, NDArray[Any]] = {_HEADER: np.frombuffer(text, np.uint8)}
    for i, outputs in enumerate(saved.pairs):
        for o, pair in enumerate(outputs):
            arrays[f"reference.{i}.{o}"] = pair.reference.output
            arrays[f"bundle.{i}.{o}"] = pair.ours
            doubt = _doubt(pair)
            if doubt is not None and doubt.exact is not None:
                arrays[f"exact.{i}.{o}"] = doubt.exact
            for k, other in enumerate(others[i][o]):
                arrays[f"other.{i}.{o}.{k}"] = other
    with new_file(path, force=True) as temporary:
        write_npz(temporary, arrays)


def load_outputs(path: Path) -> Saved:
    """Read what `save_outputs` wrote.

    Raises:
        UsageError: there is no such file.
        SavedFileError: it is damaged, of another version, or something else.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}; `mbv3c verify --save-outputs` writes one")
    try:
        with open_arrays(path) as archive:
            header = _header(path, archive)
            pairs = tuple(
                tuple(
                    _pair(archive, f"{i}.{o}", shown, allowance)
                    for o, (shown, allowance) in enumerate(
                        zip(header["outputs"], allowances, strict=True)
                    )
                )
                for i, allowances in enumerate(header["inputs"])
            )
            origin = {name: header[name] for name in _ORIGIN}
            origin["own_inputs"] = header.get("own_inputs")  # which older files do not say
            standing = header["standing"] and Tolerance(**header["standing"])
    except _BROKEN as error:
        raise SavedFileError(
            f"{path} is damaged, or no file of `mbv3c verify --save-outputs` ({error}); write it "
            "again"
        ) from error
    if not pairs or not all(pairs):
        raise SavedFileError(f"{path} holds no outputs; write it again")
    return Saved(origin, standing, pairs)


_ORIGIN = ("bundle", "bundle_sha256", "target", "precision", "ran_on", "exact_program", "versions")


def _header(path: Path, archive: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    header = parse_json(archive[_HEADER].tobytes()) if _HEADER in archive else None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise SavedFileError(
            f"{path} is another .npz file than `mbv3c verify --save-outputs` writes"
        )
    if header.get("schema") != SCHEMA:
        raise SavedFileError(
            f"{path} has schema {header.get('schema')}, and this version reads {SCHEMA}; write it "
            "again with this version"
        )
    return header


def _others(pair: Pair) -> Sequence[NDArray[Any]]:
    """Return the answers that were as right as the reference's when the bundle was judged."""
    answers, judged = pair.reference.answers, pair.judged
    if answers is None or judged is None or not np.isfinite(judged.allowed):
        return ()
    return answers.others(judged.allowed)


def _doubt(pair: Pair) -> KnownDoubt | None:
    """Return what is known of an output that was held to float64; None of others."""
    judged, doubt = pair.judged, pair.reference.doubt
    if judged is None or judged.ill_conditioned is None or doubt is None:
        return None
    noise = np.zeros(()) if judged.ill_conditioned.noise is None else doubt.noise
    return KnownDoubt(doubt.exact, noise, judged.ill_conditioned.layer, doubt.apart)


def _allowance(pair: Pair, others: int) -> dict[str, Any]:
    reference, doubt = pair.reference, _doubt(pair)
    scale, answers = reference.scale, reference.answers
    return {
        "doubt": doubt
        and {"layer": doubt.layer, "noise": doubt.noise.tolist(), "apart": doubt.apart},
        "spread": finite(float(reference.spread)),
        "step": reference.step,
        "rounding": reference.rounding,
        "answers": answers and {"others": others, "ordered": answers.ordered},
        "scale": scale if scale is None else scale.tolist(),
    }


def _pair(
    archive: Mapping[str, NDArray[Any]], key: str, shown: Any, allowance: Mapping[str, Any]
) -> Pair:
    reference, ours = archive[f"reference.{key}"], archive[f"bundle.{key}"]
    axis = shown["class_axis"]
    answers = None
    if allowance["answers"] is not None:
        others = (archive[f"other.{key}.{k}"] for k in range(allowance["answers"]["others"]))
        answers = KnownAnswers(tuple(others), bool(allowance["answers"]["ordered"]))
    for array in (reference, ours):
        if answers is None and not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"output {key} is of {array.dtype}")
    if answers is not None and any(o.shape != reference.shape for o in answers.known):
        raise ValueError(f"output {key} has answers of another shape")
    if axis is not None and not 0 <= axis < reference.ndim:
        raise ValueError(f"output {key} has no axis {axis}")
    spread = float("inf") if allowance["spread"] is None else float(allowance["spread"])
    step = None if allowance["step"] is None else float(allowance["step"])
    scale = None if allowance["scale"] is None else np.array(allowance["scale"], np.float64)
    if scale is not None and not (scale > 0).all():
        raise ValueError(f"the range of output {key} is not above 0")
    if scale is not None and scale.size > 1:
        np.broadcast_shapes(scale.shape, reference.shape)
    rounding = float(allowance["rounding"])
    doubt, exact = None, archive.get(f"exact.{key}")
    if exact is not None and exact.shape != reference.shape:
        raise ValueError(f"output {key} has another shape in float64")
    if allowance["doubt"] is not None:
        noise = np.array(allowance["doubt"]["noise"], np.float64)
        if scale is not None and noise.size > 1:
            np.broadcast_shapes(noise.shape, scale.shape)
        known = allowance["doubt"]
        doubt = KnownDoubt(exact, noise, str(known["layer"]), float(known["apart"]))
    name = str(shown["name"])
    return Pair(
        ours,
        ReferenceOutput(
            name,
            reference,
            spread,
            axis,
            step,
            scale,
            rounding,
            answers,
            doubt,
        ),
    )
