"""Look at what a user names as a model or a bundle, before anything heavy is imported.

Files of other tools are told by their first bytes, or where these say nothing by their names.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mbv3c.errors import BundleError, ModelError, UsageError

MANIFEST = "manifest.json"  # the file that makes a folder a bundle
_HEAD = 8  # bytes that are looked at


@dataclass(frozen=True)
class _Format:
    """A format of models that is not ONNX.

    Attributes:
        name: what it is, in a sentence.
        way: how to get an ONNX file, with the file's name for `{path}`.
    """

    name: str
    way: str


_EXPORT = 'torch.onnx.export(network.eval(), (torch.zeros(1, 3, 224, 224),), "model.onnx"{})'
_BACK = "there is no way back from it: take the ONNX file, or the network, that it was made from"
_PYTORCH = _Format(
    "a file of PyTorch",
    "weights of a MobileNetV3 from torchvision or timm: `mbv3c build --weights {path} -o "
    f"model.onnx`; any other network is exported where its code is: {_EXPORT.format('')}",
)
_TORCHSCRIPT = _Format(
    "TorchScript",
    f"export it: network = torch.jit.load({{path!r}}); {_EXPORT.format(', dynamo=False')}",
)
_TENSORFLOW = "pip install tf2onnx; python -m tf2onnx.convert {} --output model.onnx"
_LITERT = _Format("a file of LiteRT (TensorFlow Lite)", _TENSORFLOW.format("--tflite {path}"))
_GRAPH = _Format(
    "a frozen graph of TensorFlow",
    _TENSORFLOW.format("--graphdef {path} --inputs NAME:0 --outputs NAME:0"),
)
_SAVED = _Format("a SavedModel of TensorFlow", _TENSORFLOW.format("--saved-model {path}"))
_KERAS = _Format(
    "a model of Keras",
    'export it: keras.saving.load_model({path!r}).export("model.onnx", format="onnx")',
)
_PADDLE = _Format(
    "a model of Paddle",
    "pip install paddle2onnx; paddle2onnx --model_dir FOLDER --model_filename {path} "
    "--save_file model.onnx",
)
_SAFETENSORS = _Format("weights without a graph", _PYTORCH.way)

_BY_BYTES: Mapping[tuple[int, bytes], _Format] = {
    (0, b"\x80\x02"): _PYTORCH,  # of pickle, as torch.save wrote before 1.6
    (4, b"TFL3"): _LITERT,
    (4, b"ET12"): _Format("a program of ExecuTorch", _BACK),
    (0, b"\x89HDF"): _KERAS,
    (0, b"7767517"): _Format("a graph of ncnn", _BACK),
    (0, b"\x7fELF"): _Format("a compiled library", _BACK),
}
_BY_NAME: Mapping[str, _Format] = {
    ".safetensors": _SAFETENSORS,
    **dict.fromkeys((".engine", ".plan", ".trt"), _Format("an engine of TensorRT", _BACK)),
    **dict.fromkeys((".mlmodel", ".mlpackage"), _Format("a model of Core ML", _BACK)),
    **dict.fromkeys((".pdmodel", ".pdiparams"), _PADDLE),
    ".xml": _Format("a model of OpenVINO", _BACK),
    ".tflite": _LITERT,
    ".keras": _KERAS,
    ".caffemodel": _Format("a model of Caffe", _BACK),
}


def check_model_file(path: Path) -> None:
    """Make sure that a file can be a model in ONNX.

    Raises:
        UsageError: there is no such file, or a folder.
        ModelError: the file is of another tool; the message says how to get ONNX from it.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            raise _refused(path, _SAVED)
        if (path / MANIFEST).is_file():
            raise UsageError(f"{path} is a bundle, which is compiled already; name an ONNX file")
        raise UsageError(f"{path} is a folder; name an ONNX file")
    if not path.is_file():
        raise UsageError(f"no such file: {path}{_nearest(path)}")
    found = _format_of(path)
    if found is not None:
        raise _refused(path, found)


def check_bundle_folder(path: Path) -> None:
    """Make sure that a folder can be a bundle.

    Raises:
        BundleError: there is none, or it is something else.
    """
    if (path / MANIFEST).is_file():
        return
    if path.is_file():
        raise BundleError(
            f"{path} is a file, and a bundle is the folder that `mbv3c compile` writes: "
            f"mbv3c compile {path} --target arm_cpu -o BUNDLE"
        )
    if not path.exists():
        raise BundleError(f"{path} is no bundle: there is no such folder{_nearest(path)}")
    raise BundleError(f"{path} is no bundle: it has no {MANIFEST}")


def check_there(path: Path, kind: str = "file") -> None:
    """Make sure that something is there to read.

    Raises:
        UsageError: there is no such file or folder.
    """
    if not path.exists():
        raise UsageError(f"no such {kind}: {path}{_nearest(path)}")


def _refused(path: Path, found: _Format) -> ModelError:
    return ModelError(
        f"{path} is {found.name}, not an ONNX model\n{found.way.format(path=str(path))}"
    )


def _format_of(path: Path) -> _Format | None:
    """Return the format of a file that is not ONNX, as far as it is known."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for (start, magic), each in _BY_BYTES.items():
        if head[start:].startswith(magic):
            return each
    suffix = path.suffix.lower()
    if head.startswith(b"PK\x03\x04"):
        return _KERAS if suffix == ".keras" else _archived(path)
    # A field 1 with a length begins a graph of TensorFlow, and a number a model in ONNX.
    if suffix == ".pb" and head.startswith(b"\n"):
        return _GRAPH
    return _BY_NAME.get(suffix)


def _archived(path: Path) -> _Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return _PYTORCH
    return _TORCHSCRIPT if any("/code/" in name for name in names) else _PYTORCH


def _nearest(path: Path) -> str:
    """Name what lies beside it and is called nearly so."""
    try:
        beside = [each.name for each in path.parent.iterdir()]
    except OSError:
        return ""
    near = get_close_matches(path.name, beside, 1, 0.75)
    return f"; there is {path.with_name(near[0])}" if near else ""
