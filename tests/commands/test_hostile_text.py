"""Text from models is data, in every command and every file that it writes."""

import csv
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mbv3c.execution.link import run_zig
from tests.command_line import Done, mbv3c

EVIL = (
    '"""\nraise SystemExit(77)\n"""',
    "*/ int evil; /*",
    "<script>alert(1)</script>",
    "\x1b[2J\x1b]0;evil\x07",
    "../../../evil",
    "a\nb\r\nc",
    "\u202eevil\u2066",
    "=HYPERLINK(0)",
    "$\\frac{$%s{0}",
    "x" * 60_000,
)
OUTPUT = "".join(EVIL[:9])


def hostile() -> onnx.ModelProto:
    """Return a classifier of five classes in which everything that has a name has such a one."""
    rng = np.random.default_rng(0)
    names = [f"{evil}.{place}" for place, evil in enumerate(EVIL)]
    stored = [
        numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), names[0]),
        numpy_helper.from_array(rng.standard_normal((5, 4)).astype(np.float32), names[1]),
        numpy_helper.from_array(rng.standard_normal(5).astype(np.float32), names[2]),
    ]
    nodes = [
        helper.make_node("Conv", ["x<b>\x1b", names[0]], [names[3]], EVIL[0], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", [names[3]], [names[4]], EVIL[9]),
        helper.make_node("GlobalAveragePool", [names[4]], [names[5]], EVIL[3]),
        helper.make_node("Flatten", [names[5]], [names[9]], EVIL[4]),
        helper.make_node("Gemm", [names[9], names[1], names[2]], [OUTPUT], EVIL[1], transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        OUTPUT,
        [value("x<b>\x1b", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value(OUTPUT, TensorProto.FLOAT, [1, 5])],
        stored,
        doc_string=OUTPUT,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=8, producer_name=OUTPUT, producer_version=OUTPUT
    )
    for evil in EVIL:
        model.metadata_props.add(key=evil, value=evil)
    classes = json.dumps([evil[:200] for evil in EVIL[:5]])
    model.metadata_props.add(key="class_names", value=classes)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the model, its bundle, and images."""
    folder = tmp_path_factory.mktemp("hostile")
    onnx.save(hostile(), folder / "model.onnx")
    done = mbv3c("compile", folder / "model.onnx", "--target", "host_cpu", "-o", folder / "bundle")
    assert done.returncode == 0, done.stderr
    seen(done)
    (folder / "images").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "images" / "=x.png")
    (folder / "images" / "=HYPERLINK(0).png").write_text("no image")
    return folder


def seen(done: Done) -> None:
    """Make sure that the terminal shows lines, and nothing moves or reorders them."""
    for stream in (done.stdout, done.stderr):
        for line in stream.split("\n"):
            assert line.isprintable() or not line.strip(
                "\t" + "".join(filter(str.isprintable, line))
            )
            assert len(line) < 5_000 or stream.startswith("{")


class Page(HTMLParser):
    """A page whose elements are looked at."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "b", "iframe")
        assert not any(name.startswith("on") for name, _ in attrs)


def test_models(folder: Path) -> None:
    model, written = folder / "model.onnx", folder / "written.onnx"
    for command in (
        ("inspect", model),
        ("inspect", model, "--json"),
        ("optimize", model, "-o", written, "--explain", "--force"),
        ("optimize", model, "-o", written, "--json", "--force"),
        ("quantize", model, "-o", written, "--random-inputs", "4", "--force"),
        ("inspect", folder / "bundle"),
        ("verify", folder / "bundle", "--ladder"),
        ("inspect", model, "--input-shape", f"{OUTPUT}:1,3,8,8"),
        ("compile", model, "--target", "npu", "-o", folder / "none"),
    ):
        done = mbv3c(*command)
        assert done.returncode in (0, 1, 2), done.stderr
        seen(done)
        if "--json" in command:
            assert done.stdout.isascii()
            json.loads(done.stdout)


def test_files_of_verify(folder: Path) -> None:
    files = {kind: folder / f"report.{kind}" for kind in ("json", "xml", "html", "npz")}
    options = (
        *("--report", files["json"], "--junit", files["xml"], "--html", files["html"]),
        *("--save-outputs", files["npz"]),
    )
    done = mbv3c("verify", folder / "bundle", "--metrics", *options)
    assert done.returncode == 0, done.stderr
    seen(done)
    json.loads(files["json"].read_text("ascii"))
    ElementTree.parse(files["xml"])
    page = files["html"].read_text("utf-8")
    Page().feed(page)
    assert not re.search("[\x1b\u202e\u2066]", page)
    assert "alert(1)" in html.unescape(page)
    seen(mbv3c("verify", "--check", files["npz"]))


def test_images_and_arrays(folder: Path) -> None:
    listed = folder / "list.csv"
    options = ("--images", folder / "images", "--labels", "none", "--list", listed)
    done = mbv3c("verify", folder / "bundle", *options)
    assert done.returncode in (0, 3), done.stderr
    seen(done)
    with listed.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=HYPERLINK(0).png" in cells
    assert not any(
        cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells if not _is_number(cell)
    )
    image = folder / "images" / "=x.png"
    done = mbv3c("run", folder / "bundle", "--input", image, "-o", folder / "y.npz")
    assert done.returncode == 0, done.stderr
    seen(done)
    with np.load(folder / "y.npz") as archive:
        assert archive.files == [OUTPUT]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


LABELS = ('"); evil(); ("', "*/ int evil; /*", "??/", "evil\\", "<script>evil</script>")
QUOTED = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"', re.DOTALL)


@pytest.mark.parametrize("artifact", ["c", "app"])
def test_files_in_c(folder: Path, tmp_path: Path, artifact: str) -> None:
    """Names are comments, and labels strings; zig compiles the driver, and here the sources."""
    (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n")
    bundle, prefix = tmp_path / "bundle", ("--prefix", "net") if artifact == "c" else ()
    done = mbv3c(
        *("compile", folder / "model.onnx", "--target", "host_cpu", "-o", bundle, "--no-verify"),
        *("--artifact", artifact, *prefix, "--labels", tmp_path / "labels.txt"),
    )
    assert done.returncode == 0, done.stderr
    seen(done)
    root = bundle / artifact
    (header,) = {*root.rglob("*.h")} - {*root.rglob("*_golden.h"), *root.rglob("mbv3c_model.h")}
    assert re.fullmatch(r"[a-z_][a-z0-9_]{0,63}", header.stem)
    for path in sorted(each for each in root.rglob("*") if each.suffix not in ("", ".a")):
        text = path.read_text("ascii")
        assert header.stem in path.name or path.name in SHARED
        code = QUOTED.sub("", text)  # where a name may be part of one in C
        assert not re.search(r"\bevil\b|\bsystem\b", code) or path.suffix == ".txt", path
        if path.suffix == ".c":
            folders = [f"-I{each}" for each in (root, *(each for each in root.iterdir()))]
            strict = ("-c", "-std=c11", "-Wall", "-Werror", "-o", str(tmp_path / "made.o"))
            if path.name not in SHARED:  # which tvm_ffi's headers compile
                run_zig(["cc", *strict, *folders, str(path)], "compiling a test")
    if artifact == "app":
        lines = (root / "ends.txt").read_text("ascii").splitlines()
        assert [line.split()[0] for line in lines] == ["input", "output"]


SHARED = ("mbv3c_model.c", "mbv3c_model.h", "CMakeLists.txt", "ends.txt")


def test_nothing_is_written_elsewhere(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names <= {
        *("model.onnx", "bundle", "images", "written.onnx", "list.csv", "y.npz"),
        *(f"report.{kind}" for kind in ("json", "xml", "html", "npz")),
    }
    assert not any("evil" in path.name for path in (*folder.rglob("*"), *folder.parent.iterdir()))


def test_a_megabyte_is_refused_in_a_line(tmp_path: Path) -> None:
    model = hostile()
    model.graph.node[0].name = "\x1b" * (1 << 20)
    onnx.save(model, tmp_path / "model.onnx")
    done = mbv3c("inspect", tmp_path / "model.onnx")
    assert done.returncode == 1
    assert "a name in it has 1,048,576 bytes, and 65,536 are the most" in done.stderr
    assert len(done.stderr) < 500
