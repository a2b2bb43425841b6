"""What is wrong with files and names is said before TVM or onnxsim is imported."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from mbv3c.manifest import TensorRecord, manifest_text
from tests.manifests import LIBRARY
from tests.onnx_text import graph

# The arguments, the exit code, and what the error says.
MISTAKES = (
    ("compile none.onnx --target arm_cpu", 2, "no such file: none.onnx"),
    ("compile modle.onnx --target arm_cpu", 2, "no such file: modle.onnx; there is model.onnx"),
    ("compile model.onnx --target armcpu", 2, "unknown target 'armcpu'; nearest: arm_cpu,"),
    (
        "compile model.onnx --target arm_cpu:m99",
        2,
        "nearest: arm_cpu:apple-m1, mcu:cortex-m",
    ),
    ("compile model.onnx --target arm_cpu --precision int4", 2, "unknown precision 'int4'"),
    ("compile model.onnx --target arm_cpu -o folder", 2, "folder exists; write over it with"),
    ("compile model.onnx --target arm_cpu -o none/b", 2, "the folder none does not exist"),
    ("compile model.onnx --target arm_cpu --cores 0", 2, "--cores 0 is not possible; choose 1 to"),
    ("compile folder --target arm_cpu", 2, "folder is a folder; name an ONNX file"),
    ("compile bundle --target arm_cpu", 2, "bundle is a bundle, which is compiled already"),
    ("compile weights.pt --target arm_cpu", 1, "mbv3c build --weights weights.pt -o model.onnx"),
    (
        "compile script.pt --target npu",
        1,
        "torch.jit.load('script.pt'); torch.onnx.export(",
    ),
    ("compile old.pth --target npu", 1, "old.pth is a file of PyTorch, not an ONNX model"),
    ("compile lite.bin --target npu", 1, "tf2onnx.convert --tflite lite.bin --output model.onnx"),
    ("compile frozen.pb --target npu", 1, "tf2onnx.convert --graphdef frozen.pb --inputs"),
    ("compile saved --target npu", 1, "tf2onnx.convert --saved-model saved --output"),
    ("optimize keras.h5 -o y.onnx", 1, "keras.saving.load_model('keras.h5').export("),
    ("optimize zipped.keras -o y.onnx", 1, "zipped.keras is a model of Keras, not an ONNX model"),
    ("inspect made.engine", 1, "an engine of TensorRT, not an ONNX model\nthere is no way back"),
    ("inspect net.pdmodel", 1, "paddle2onnx --model_dir FOLDER --model_filename net.pdmodel"),
    ("optimize model.onnx -o model.onnx", 2, "model.onnx exists; write over it with --force"),
    ("quantize model.onnx -o y.onnx --calibration none", 2, "no such folder: none"),
    ("quantize model.onnx -o none/y.onnx", 2, "the folder none does not exist"),
    ("tune model.onnx --target host", 2, "unknown target 'host'; nearest: host_cpu, "),
    ("train model.onnx --data none -o y.onnx", 2, "no such file or folder: none"),
    ("adapt model.onnx --target npu --images none -o y.onnx", 2, "no such file or folder: none"),
    ("search --target npu --images none", 2, "no such file or folder: none"),
    ("sweep none.yaml", 2, "no such file: none.yaml"),
    ("verify model.onnx", 1, "mbv3c compile model.onnx --target arm_cpu -o BUNDLE"),
    ("verify none", 1, "none is no bundle: there is no such folder"),
    ("verify folder", 1, "folder is no bundle: it has no manifest.json"),
    ("verify none.onnx --ladder --target npu", 1, "none.onnx is no bundle: there is no such"),
    ("report bundle --bench none.json", 2, "no such file: none.json"),
    ("report bundle --tune bundle=none.json", 2, "no such file: none.json"),
    ("run bundle --input none.jpg", 2, "no such file or folder: none.jpg"),
    ("run none --input model.onnx", 1, "none is no bundle: there is no such folder"),
    ("bench bundle --against tensorrt", 2, "unknown runtime 'tensorrt'; known: onnxruntime, ope"),
    ("bench bundle --device 127.0.0.1:9 --pin huge", 2, "write big, little, or numbers such as"),
    ("bench bundle --device 127.0.0.1:9 --runs 0", 2, "--runs 0 is not possible; choose at least"),
    ("device serve --host 0.0.0.0", 2, "`openssl rand -hex 32` makes one"),
    ("bench none", 1, "none is no bundle: there is no such folder"),
    ("build --weights none.pth -o y.onnx", 2, "no such file: none.pth"),
    ("build --labels none.txt -o y.onnx", 2, "no such file: none.txt"),
    ("build --classes 3 --labels two.txt -o y.onnx", 2, "has 2 lines, and the model 3 classes"),
    ("build --labels empty.txt -o y.onnx", 2, "line 1 of empty.txt is ''; write the name of one"),
    ("build --mean 1,2 -o y.onnx", 2, "--mean '1,2' is not a number, nor three with commas"),
    ("build --resize 10 -o y.onnx", 2, "--crop 224 of an image whose shorter side is scaled to"),
    ("compile five.onnx --target npu --labels two.txt", 2, "2 lines, and the model has 5 classes"),
    ("compile five.onnx --target npu --std 0", 2, "--std 0 is not possible"),
    ("compile five.onnx --target npu --layout NHWC", 2, "--layout NHWC does not fit the model's"),
    (
        "compile boxes.onnx --target npu --labels two.txt",
        2,
        "this gives y (1, 9, 4): leave it out",
    ),
    (
        "compile boxes.onnx --target npu --mean 0.5",
        2,
        "images do not fit the model's input (1, 9,",
    ),
    ("compile five.onnx --target npu --calibration folder --calibration-limit 0", 2, "take 1 or"),
    ("quantize five.onnx -o y.onnx --calibration folder", 2, "folder holds none of .npy, .npz"),
    ("quantize five.onnx -o y.onnx --random-inputs 4 --labels two.txt", 2, "2 lines, and the"),
    ("quantize five.onnx -o y.onnx --random-inputs 4 --calibration-seed 1", 2, "belong to --cal"),
    ("run made --input photos/x.png --top 0", 2, "--top 0 shows nothing; take 1 or more"),
    ("run made --input photos/x.png --labels two.txt", 2, "2 lines, and the model has 10 classes"),
    ("run made --input photos/x.png --mean 1,2", 2, "nor three with commas between"),
    ("run made --input photos/x.png -o y.gif", 2, "y.gif: a picture's name ends in .png, .jpg"),
    (
        "run made --input broken.jpg",
        1,
        "broken.jpg is no image, or it is broken: it has no format",
    ),
    ("run made --input folder", 2, "folder holds no images (.jpg, .jpeg,"),
    (
        "run other --input photos/x.png --top 3",
        2,
        "and the outputs are none of these: leave it out",
    ),
    ("run other --input photos/x.png -o y.png", 2, "there is nothing to draw"),
    ("run other --input photos", 2, "a folder of images is for models whose outputs are class"),
    ("verify made --images photos --max-accuracy-drop 1%", 2, "and there are none: there are no"),
    ("verify made --images photos --min-agreement 101%", 2, "101% is no share of the images: 0%"),
    (
        "verify made --images photos --min-agreement 1% --max-abs 1",
        2,
        "and with no other limit or file",
    ),
    ("verify made --images photos --baseline none.json", 2, "no such file: none.json; write one"),
    ("verify made --images photos --labels two.txt", 2, "has no column file and no column label"),
    ("verify made --images folder", 2, "folder holds no images; put some there, or name another"),
    ("verify made --min-agreement 99%", 2, "--min-agreement belongs to --images FOLDER"),
    (
        "verify other --images photos",
        2,
        "--images is for models that give one row of class scores",
    ),
)

PROGRAM = """
import sys
sys.modules.update(tvm=None, onnxsim=None, onnxruntime=None)  # an import of them fails
from mbv3c.cli import main
for line in sys.argv[1:]:
    sys.argv = ["mbv3c", *line.split()]
    try:
        main()
    except SystemExit as ended:
        print(f"exit code {ended.code}", file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, content in (
        ("model.onnx", b"\x08\x08"),
        ("old.pth", b"\x80\x02\x8a\x0al\xfc"),
        ("lite.bin", b"\x1c\0\0\0TFL3"),
        ("frozen.pb", b"\n\x05x"),
        ("keras.h5", b"\x89HDF\r\n\x1a\n"),
        ("made.engine", b"ftrt"),
        ("net.pdmodel", b"\n\x05x"),
    ):
        (folder / name).write_bytes(content)
    for name, inside in (
        ("weights.pt", "archive/data.pkl"),
        ("script.pt", "script/code/__torch__.py"),
        ("zipped.keras", "config.json"),
    ):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr(inside, b"")
    for name in ("folder", "bundle", "saved"):
        (folder / name).mkdir()
    (folder / "bundle" / "manifest.json").write_text("{}")
    boxes = (TensorRecord("y", (1, 9, 4), "float32"),)
    for name, manifest in (("made", LIBRARY), ("other", replace(LIBRARY, outputs=boxes))):
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text(manifest_text(manifest, {}))
    (folder / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "photos" / "x.png")
    (folder / "broken.jpg").write_text("no image")
    (folder / "two.txt").write_text("ant\nbee\n")
    (folder / "empty.txt").write_text("")
    for name, text in (
        ("five", "g (float[1, 3, 4, 4] x) => (float[1, 5, 4, 4] y) { y = Conv(x, w) }"),
        ("boxes", "g (float[1, 9, 4] x) => (float[1, 9, 4] y) { y = Relu(x) }"),
    ):
        onnx.save(graph(text, w=np.ones((5, 3, 1, 1), np.float32)), folder / f"{name}.onnx")
    (folder / "saved" / "saved_model.pb").write_bytes(b"")
    return folder


def test_mistakes_are_named_before_anything_heavy_is_imported(files: Path) -> None:
    before = sorted(path.name for path in files.iterdir())
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(line for line, _, _ in MISTAKES)],
        cwd=files,
        capture_output=True,
        text=True,
        check=True,
    )
    said = ran.stderr.split("exit code ")
    for (line, code, message), text, ended in zip(MISTAKES, said, said[1:], strict=False):
        assert "error: " in text and message in text, (line, text)
        assert ended.startswith(f"{code}\n"), (line, ended)
    assert len(said) == len(MISTAKES) + 1
    assert "Traceback" not in ran.stderr
    assert sorted(path.name for path in files.iterdir()) == before


_IMPORTS = """
import sys
from mbv3c.imports import without_torch
without_torch()
without_torch()
import onnxsim, tvm
assert "torch" not in sys.modules, "it was imported"
import tvm_ffi.libinfo
from importlib.util import find_spec
if find_spec("torch"):
    import torch
    print(torch.ones(2).sum().item())
else:
    print(2.0)
"""


def test_torch_is_imported_by_those_who_need_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "2.0\n"
