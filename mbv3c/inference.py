"""One inference of a bundle, on an array or a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.bundle import read_bundled
from mbv3c.door.arrays import is_archive, open_arrays, read_array
from mbv3c.door.files import Refused
from mbv3c.ends.ends import ends_of
from mbv3c.ends.labels import BestClass, best_classes
from mbv3c.errors import UsageError
from mbv3c.execution.detection import DETECTIONS, Thresholds, detect
from mbv3c.execution.device.place import Place
from mbv3c.feeds import Array, Feed, arrays_of, as_feed, native, save_array, shape_text
from mbv3c.graphs.load import dtype_of, fixed_shape, model_inputs
from mbv3c.graphs.outputs import detector_outputs, metadata_of
from mbv3c.graphs.weights.files import write_npz
from mbv3c.manifest import TensorRecord
from mbv3c.quantization.images import AS_THE_MODEL_SAYS, Overrides
from mbv3c.quantization.own_inputs import is_picture, picture_input
from mbv3c.targets import backend_for, open_bundle
from mbv3c.trust import MADE_HERE, Trust

_COLOURS = 3


@dataclass(frozen=True)
class Ran:
    """What an inference gave.

    Attributes:
        arrays: the outputs, or what was made of them, by name.
        ran_on: what executed the program.
        classes: the best classes, where the bundle has labels or gives classes.
    """

    arrays: dict[str, NDArray[Any]]
    ran_on: str
    classes: Sequence[BestClass] = ()


@dataclass(frozen=True)
class Output:
    """Where outputs go.

    Attributes:
        path: the file.
        is_device: whether its bytes go to a device or a pipe, which may have any name.
    """

    path: Path
    is_device: bool = False

    @property
    def is_archive(self) -> bool:
        return self.path.suffix == ".npz"

    @property
    def takes_several(self) -> bool:
        return self.is_archive or self.is_device


def run_bundle(
    path: Path,
    x: Feed | Mapping[str, NDArray[Any]] | Path,
    output: Output | None = None,
    *,
    raw: bool = False,
    thresholds: Thresholds | None = None,
    place: Place | None = None,
    preparing: Overrides = AS_THE_MODEL_SAYS,
    trust: Trust = MADE_HERE,
) -> Ran:
    """Run one inference on an array, on several of a model with several inputs, or on a file.

    Several arrays are a tuple in the order of the inputs, or a mapping from the inputs' names.

    The file is .npy, .npz with the arrays by the names of the inputs, or an image, which is
    prepared as calibration does, and as `preparing` says; it fills the batch. Of a bundle for
    several shapes the program for the input's shape runs; an image becomes one of the first.

    The outputs also go to `output`: an .npz file takes every array by its name, an .npy file the
    only one. A detector's outputs become what `mbv3c.execution.detection.detect` makes of them,
    unless `raw` asks for the outputs themselves. `trust` is what the user says of a
    bundle from elsewhere.

    Raises:
        UsageError: the input does not fit, there are several arrays and `output` is no .npz file,
            there are thresholds for a model that is no detector, or the bundle may not run here.
        Mbv3cError: the bundle is damaged or nothing here can run it.
    """
    bundle = open_bundle(path, trust)
    backend = backend_for(bundle)

    def infer(given: Feed) -> tuple[list[Array], str]:
        with backend.open(bundle, lambda step: None, place=place, stand_in=False) as opened:
            (outputs,) = opened.runner.run(opened.folder, [given])
        return outputs, opened.ran_on

    told, accepted = bundle.manifest.model.metadata, bundle.manifest.accepted
    program = _Program("bundle", bundle.output_names, told, accepted, infer)
    if isinstance(x, Path) and is_picture(x):
        x = picture_input(read_bundled(bundle.model), x, preparing)
    return _run(program, x, output, thresholds, raw=raw)


def run_model(
    model: onnx.ModelProto,
    x: Feed | Mapping[str, NDArray[Any]] | Path,
    output: Output | None = None,
    *,
    raw: bool = False,
    thresholds: Thresholds | None = None,
    preparing: Overrides = AS_THE_MODEL_SAYS,
) -> Ran:
    """Run one inference of a model that was not compiled, by onnxruntime, as `run_bundle` does.

    onnxruntime's optimisations are off: what it computes is what `verify` holds bundles to.

    Raises:
        UsageError: as `run_bundle` says.
        ModelError: onnxruntime cannot run the model.
    """
    from mbv3c.parity.running import run, session  # it imports onnxruntime

    inputs = tuple(
        TensorRecord(value.name, fixed_shape(value), str(dtype_of(value)))
        for value in model_inputs(model)
    )
    ran_on = f"onnxruntime {metadata.version('onnxruntime')}, and not compiled"

    def infer(given: Feed) -> tuple[list[Array], str]:
        return run(session(model), given), ran_on

    names = [value.name for value in model.graph.output]
    told = metadata_of(model)
    if isinstance(x, Path) and is_picture(x):
        x = picture_input(model, x, preparing)
    return _run(_Program("model", names, told, (inputs,), infer), x, output, thresholds, raw=raw)


@dataclass(frozen=True)
class _Program:
    """What runs one inference.

    Attributes:
        kind: what it is for people: a bundle or a model.
        names: names of the outputs.
        metadata: the model's metadata.
        accepted: the inputs for every shape.
        infer: function from an input to the outputs, and what executed it.
    """

    kind: str
    names: Sequence[str]
    metadata: Mapping[str, str]
    accepted: Sequence[Sequence[TensorRecord]]
    infer: Callable[[Feed], tuple[list[Array], str]]

    @property
    def whose(self) -> str:
        return "model" if self.kind == "model" else f"{self.kind}'s model"


def _run(
    program: _Program,
    x: Feed | Mapping[str, NDArray[Any]] | Path,
    output: Output | None,
    thresholds: Thresholds | None,
    *,
    raw: bool,
) -> Ran:
    names = program.names
    detector = None if raw else detector_outputs(program.metadata, names)
    if thresholds is not None and detector is None:
        raise UsageError(
            f"thresholds are for detections: this {program.whose} is no detector, or --raw asks "
            "for its outputs as they are"
        )
    named = names if detector is None else DETECTIONS
    if output is not None and len(named) > 1 and not output.takes_several:
        raise UsageError(
            f"the {program.kind} gives several arrays ({', '.join(named)}) and {output.path.name} "
            "is no .npz file; name one that ends in .npz"
        )
    given = _checked_input(x, program.accepted, program.kind)
    outputs, ran_on = program.infer(given)
    arrays: dict[str, NDArray[Any]] = dict(zip(names, outputs, strict=True))
    if detector is not None:
        arrays = detections(arrays, detector, arrays_of(given)[0].shape, thresholds)
    if output is not None and (len(named) > 1 or output.is_archive):
        write_npz(output.path, arrays)
    elif output is not None:
        save_array(output.path, outputs[0])
    return Ran(arrays, ran_on, best_classes(ends_of(program.metadata), outputs))


def detections(
    arrays: Mapping[str, NDArray[Any]],
    detector: tuple[str, str],
    shape: Sequence[int],
    thresholds: Thresholds | None,
) -> dict[str, NDArray[Any]]:
    """Return what a detector's raw outputs have found, as `detect` does.

    Args:
        arrays: the outputs by name.
        detector: the names of the boxes and of the scores.
        shape: shape of the input, N, C, H, W or N, H, W, C.
        thresholds: what is reported; None for the usual.
    """
    boxes, scores = (arrays[name] for name in detector)
    height, width = shape[1:3] if shape[3] == _COLOURS != shape[1] else shape[2:]
    return detect(boxes, scores, height, width, thresholds or Thresholds())


def figures_of(array: NDArray[Any]) -> dict[str, Any]:
    """Return type, least, largest and mean number of an output, and where the largest is.

    A number that is not finite is None, and so are all of an array that holds none.
    """
    numbers = array.astype(np.float64)
    filled = numbers if array.size else np.array(np.nan)
    found = {
        "least": float(filled.min()),
        "largest": float(filled.max()),
        "mean": float(filled.mean()),
    }
    place = np.unravel_index(int(np.argmax(numbers)), array.shape) if array.size else ()
    return {
        "dtype": str(array.dtype),
        **{name: value if np.isfinite(value) else None for name, value in found.items()},
        "largest_at": [int(each) for each in place],
    }


def _checked_input(
    x: Feed | Mapping[str, Any] | Path, accepted: Sequence[Sequence[TensorRecord]], kind: str
) -> Feed:
    """Return an input after making sure that it is what a program takes for one of its shapes.

    `kind` is what messages call the program.

    Raises:
        UsageError: it is not; the message names the file and what the program takes.
    """
    wanted = accepted[0]
    name = str(x) if isinstance(x, Path) else "the input"
    if isinstance(x, Path):
        arrays = _read_input(x, wanted)
    else:
        arrays = _by_name(x, wanted, kind) if isinstance(x, Mapping) else arrays_of(x)
    arrays = tuple(native(one) if isinstance(one, np.ndarray) else one for one in arrays)
    if len(arrays) != len(wanted):
        names = ", ".join(record.name for record in wanted)
        raise UsageError(
            f"{name} holds {len(arrays)} arrays; the {kind} takes {len(wanted)}: {names}; give "
            "an .npz file with these arrays, or in Python a dict of them by these names"
        )
    if any(all(map(_is_of, arrays, records)) for records in accepted):
        if not all(map(_is_finite, arrays)):
            raise UsageError(
                f"{name} holds NaN or infinity: kernels take the larger of two numbers in other "
                "ways than onnxruntime there, so a class would come out that means nothing; "
                "replace them"
            )
        return as_feed(arrays)
    if len(accepted) > 1:
        shapes = (shape_text(record.shape for record in records) for records in accepted)
        raise UsageError(
            f"{name} holds {', '.join(map(_shown, arrays))}; the {kind} takes "
            f"{', '.join(record.dtype for record in wanted)} of the shapes {', '.join(shapes)}: "
            "convert it, or compile the bundle for this one, too"
        )
    array, record = next(pair for pair in zip(arrays, wanted, strict=True) if not _is_of(*pair))
    shown = name if len(wanted) == 1 else f"{name}: {record.name}"
    raise UsageError(
        f"{shown} holds {_shown(array)}; the {kind} wants {record.dtype} {record.shape}"
    )


def _is_finite(array: NDArray[Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _is_of(array: Any, record: TensorRecord) -> bool:
    if not isinstance(array, np.ndarray):
        return False
    return (array.dtype, array.shape) == (np.dtype(record.dtype), record.shape)


def _shown(array: Any) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype} {array.shape}"
    return f"a {type(array).__name__} where a numpy array belongs"


def _by_name(
    given: Mapping[str, Any], wanted: Sequence[TensorRecord], kind: str
) -> tuple[Any, ...]:
    """Return arrays in the order of a program's inputs.

    Raises:
        UsageError: one is missing, or no input has its name.
    """
    names = [record.name for record in wanted]
    if set(names) != set(given):
        raise UsageError(
            f"the arrays are named {', '.join(map(str, given)) or 'nothing'}; name them as the "
            f"{kind}'s inputs: {', '.join(names)}"
        )
    return tuple(given[name] for name in names)


def _read_input(path: Path, wanted: Sequence[TensorRecord]) -> tuple[NDArray[Any], ...]:
    try:
        if not is_archive(path):
            return (read_array(path),)
        with open_arrays(path) as archive:
            missing = [record.name for record in wanted if record.name not in archive]
            if missing:
                raise UsageError(
                    f"{path} has no array {', '.join(missing)}; it has {', '.join(archive)}"
                )
            return tuple(archive[record.name] for record in wanted)
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except (OSError, Refused) as error:
        raise UsageError(f"{path} is no .npy array: {error}") from error
