"""A C library as `compile --artifact c` writes it, used as applications use it."""

import ctypes
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.bundle import Golden
from mbv3c.c_library import build
from mbv3c.c_library.golden import write_vectors
from mbv3c.c_library.source import Interface, Port, header
from mbv3c.errors import BundleError
from mbv3c.execution.emulator.kit import native_arch
from mbv3c.execution.features import FEATURES
from mbv3c.execution.link import run_zig
from mbv3c.graphs.load import input_shape_of
from mbv3c.parity.running import run, session
from mbv3c.quantization.images import Overrides, part_shown, preprocessing, with_preparing
from mbv3c.targets import backend_for, open_bundle
from mbv3c.targets.library.again import check_described, lowered_again
from mbv3c.targets.library.backend import LibraryBackend
from mbv3c.targets.library.manifest import manifest_of
from tests.built_once import built_once
from tests.c_library.models import write_model
from tests.c_library.tampering import changed, differing, replaced, swapped
from tests.command_line import document, mbv3c

EXAMPLES = Path(__file__).parents[2] / "examples"
OK, NULL_POINTER, MISALIGNED, TOO_SMALL, NO_FEATURE = 0, -1, -2, -3, -8
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")


def zig(*arguments: object) -> None:
    run_zig([str(argument) for argument in arguments], "compiling a test")


TEXT = """<ir_version: 8, opset_import: ["" : 17]>
classifier (float[1, 3, 32, 32] input) => (float[1, 10] logits) {
    a = Conv<pads = [1, 1, 1, 1]>(input, stem)
    b = HardSwish(a)
    c = Conv(b, expand)
    d = Relu(c)
    e = Conv<pads = [1, 1, 1, 1], group = 32>(d, depthwise)
    f = GlobalAveragePool(e)
    g = Flatten(f)
    logits = Gemm<transB = 1>(g, head)
}"""
IMAGES = Overrides(mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4), scale=0.01, bgr=True, resize=40)
SIZES = {
    "stem": (16, 3, 3, 3),
    "expand": (32, 16, 1, 1),
    "depthwise": (32, 1, 3, 3),
    "head": (10, 32),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a classifier with layers that are large enough for several cores."""
    path = write_model(TEXT, SIZES, tmp_path_factory.mktemp("model") / "classifier.onnx")
    prepared = with_preparing(onnx.load(path), IMAGES)
    onnx.save(prepared, path)
    return path


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with a C library called `network`."""

    def compile_to(place: Path) -> None:
        done = mbv3c(
            *("compile", model, "--target", "host_cpu", "--cores", 4, "--artifact", "c"),
            *("--prefix", "network", "-o", place, "--force", "--json"),
        )
        shown = document(done)["c_library"]
        assert shown["arena_bytes"] == shown["arena_lower_bound"]
        assert shown["shared_loops"] > 0
        assert shown["needs"] == []

    return built_once(tmp_path_factory, "c library", compile_to)


@pytest.fixture(scope="module")
def shared(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the C library as a shared one, for ctypes."""
    return as_shared(bundle, tmp_path_factory.mktemp("shared") / "libnetwork.so")


def as_shared(bundle: Path, path: Path) -> Path:
    archive = bundle / "c" / "lib" / "libnetwork.a"
    whole = ("-Wl,--whole-archive", archive, "-Wl,--no-whole-archive")
    zig("cc", "-shared", "-nostdlib", "-o", path, *whole)
    return path


class Network:
    """The C library, by ctypes."""

    def __init__(self, bundle: Path, shared: Path) -> None:
        opened = open_bundle(bundle)
        record = manifest_of(opened).c_library
        assert record is not None
        self.record = record
        self.library = ctypes.CDLL(str(shared))
        self.x = np.load(bundle / "golden" / "input.npy")
        self.golden = np.load(bundle / "golden" / "output.npy")
        self.room = np.zeros(record.arena_bytes + 2 * record.arena_alignment, np.uint8)
        self.arena = self.room.ctypes.data + -self.room.ctypes.data % record.arena_alignment
        self.y = np.zeros_like(self.golden)

    def run(self, *, x: Any = True, y: Any = True, off: int = 0, arena: bool = True) -> int:
        return int(
            self.library.network_run(
                ctypes.c_void_p(self.x.ctypes.data if x else None),
                ctypes.c_void_p(self.y.ctypes.data if y else None),
                ctypes.c_void_p(self.arena + off if arena else None),
            )
        )

    def run_parallel(self, size: int, parallel: Any = None) -> int:
        return int(
            self.library.network_run_parallel(
                ctypes.c_void_p(self.x.ctypes.data),
                ctypes.c_void_p(self.y.ctypes.data),
                ctypes.c_void_p(self.arena),
                ctypes.c_size_t(size),
                parallel,
            )
        )


@pytest.fixture
def network(bundle: Path, shared: Path) -> Network:
    return Network(bundle, shared)


def test_it_computes_what_the_golden_files_say(network: Network) -> None:
    assert network.run() == OK
    error = np.abs(network.y - network.golden).max() / np.ptp(network.golden)
    assert error < 1e-5


def test_bad_requests_are_codes(network: Network) -> None:
    assert network.run(x=False) == NULL_POINTER
    assert network.run(y=False) == NULL_POINTER
    assert network.run(arena=False) == NULL_POINTER
    assert network.run(off=network.record.arena_alignment // 2) == MISALIGNED
    assert network.run_parallel(network.record.arena_bytes - 1) == TOO_SMALL
    assert not network.y.any()
    assert network.run_parallel(network.record.arena_bytes) == OK
    assert network.y.any()


def test_what_the_processor_lacks_is_said(
    bundle: Path, network: Network, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that no processor has stands for what this one lacks."""
    known = FEATURES[native_arch()][:2]
    nothing = replace(known[0], bit=62, flag="nothing")
    monkeypatch.setattr(build, "features_of", lambda target: (*known, nothing))
    options = ("--target", "host_cpu", "--artifact", "c", "--prefix", "network", "--no-verify")
    other = tmp_path / "other"
    mbv3c("compile", model, *options, "-o", other)
    older = Network(other, as_shared(other, tmp_path / "libother.so"))
    for each, code, missing in ((network, OK, None), (older, NO_FEATURE, nothing.words)):
        lacking = each.library.network_lacking
        lacking.restype = ctypes.c_char_p
        assert lacking() == (missing and missing.encode())
        assert [each.run(), each.run()] == [code, code]
        assert bool(each.y.any()) == (code == OK)
    text = (other / "c" / "include" / "network.h").read_text()
    assert f'#define NETWORK_FEATURES "{known[0].flag} {known[1].flag} nothing"' in text


def test_it_writes_nothing_outside_of_arena_and_output(network: Network) -> None:
    network.room[:] = 0xA5
    assert network.run() == OK
    begin = network.arena - network.room.ctypes.data
    outside = [network.room[:begin], network.room[begin + network.record.arena_bytes :]]
    assert all((part == 0xA5).all() for part in outside)


def test_what_the_arena_held_before_does_not_matter(network: Network) -> None:
    outputs = []
    for fill in (0, 0xFF):
        network.room[:] = fill
        assert network.run() == OK
        outputs.append(network.y.copy())
    assert outputs[0].tobytes() == outputs[1].tobytes()


def test_loops_are_shared_by_the_callers_threads(network: Network) -> None:
    assert network.run() == OK
    expected = network.y.copy()
    task_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    run_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, task_type, ctypes.c_void_p, ctypes.c_int64)
    seen: list[int] = []

    def run(pool: Any, task: Any, work: Any, turns: int) -> None:
        seen.append(turns)
        for turn in reversed(range(turns)):  # one by one, the last first
            task(work, turn, turn + 1)

    class Parallel(ctypes.Structure):
        _fields_ = (("run", run_type), ("pool", ctypes.c_void_p))

    network.y[:] = 0
    parallel = Parallel(run_type(run), None)
    assert network.run_parallel(network.record.arena_bytes, ctypes.byref(parallel)) == OK
    assert network.y.tobytes() == expected.tobytes()
    assert len(seen) == network.record.shared_loops


def test_both_headers_are_clean(bundle: Path, tmp_path: Path) -> None:
    include = bundle / "c" / "include"
    for source, program in (
        ("c", '#include "network.h"\nint main(void) { return NETWORK_OK; }\n'),
        ("cpp", '#include "network.hpp"\nint main() { return network::Network() ? 0 : 1; }\n'),
    ):
        path = tmp_path / f"main.{source}"
        path.write_text(program)
        compiler, standard = ("cc", "c11") if source == "c" else ("c++", "c++17")
        flags = (*STRICT, f"-std={standard}", "-fno-exceptions") if source == "cpp" else STRICT
        zig(compiler, "-c", *flags, "-I", include, "-o", tmp_path / "main.o", path)


def scores_of(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Return what the model gives for the nearest pixels, prepared as its metadata say."""
    model = onnx.load(path)
    prepared = preprocessing(model, input_shape_of(model))
    left, top, right, bottom = part_shown((pixels.shape[1], pixels.shape[0]), prepared)
    rows = (top + (np.arange(prepared.height) + 0.5) * (bottom - top) / prepared.height).astype(
        int
    )
    columns = left + (np.arange(prepared.width) + 0.5) * (right - left) / prepared.width
    near = pixels[rows][:, columns.astype(int)].astype(np.float32)
    x = (near * prepared.scale - prepared.mean) / prepared.std
    fed = x[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)  # blue first
    return run(session(model), fed)[0][0]


def test_the_example_in_c(model: Path, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(EXAMPLES / "c", folder)
    (tmp_path / "bundle").symlink_to(bundle)  # make knows no path with spaces
    compiler = "cc" if shutil.which("cc") else f"{sys.executable} -m ziglang cc"
    subprocess.run(
        [
            *("make", "-s", "-C", folder, f"BUNDLE={tmp_path / 'bundle'}", f"CC={compiler}"),
            f"PYTHON={sys.executable}",
        ],
        check=True,
        timeout=300,
    )
    image = tmp_path / "image.ppm"
    pixels = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)
    image.write_bytes(b"P6\n# a comment\n50 40\n255\n" + pixels.tobytes())
    program = folder / "classify"
    done = subprocess.run([program, image], capture_output=True, text=True, check=True, timeout=60)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["class"] * len(lines)
    wanted = scores_of(model, pixels)
    best = np.argsort(-wanted)[: len(lines)]
    assert [int(line.split()[1].rstrip(":")) for line in lines] == best.tolist()
    scores = [float(line.split()[-1]) for line in lines]
    np.testing.assert_allclose(scores, wanted[best], rtol=1e-3, atol=1e-3)
    image.write_bytes(b"P5\n1 1\n255\n.")
    refused = subprocess.run([program, image], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "no binary PPM image" in refused.stderr


def test_the_example_in_cpp(bundle: Path, tmp_path: Path) -> None:
    """Build it with CMake; without one with zig, which builds its standard library first."""
    source, build = EXAMPLES / "cpp", tmp_path / "build"
    program = build / "frames"
    if shutil.which("cmake") and shutil.which("c++"):
        flags = f"-DCMAKE_CXX_FLAGS={' '.join(STRICT)}"
        for command in (
            ["cmake", "-S", source, "-B", build, f"-DBUNDLE={bundle}", flags],
            ["cmake", "--build", build],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=300)
    else:
        build.mkdir()
        include, archive = bundle / "c" / "include", bundle / "c" / "lib" / "libnetwork.a"
        zig(
            *("c++", "-std=c++17", "-O1", *STRICT, "-I", include, "-o", program),
            *(source / "frames.cpp", archive, "-lpthread"),
        )
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 threads: 0 failed, 0 differ from one thread alone, 0 allocations" in done.stdout


def test_the_example_in_python(bundle: Path, shared: Path) -> None:
    header = bundle / "c" / "include" / "network.h"
    command = [sys.executable, EXAMPLES / "python" / "classify.py", shared, header]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("class ")


def test_nothing_in_it_tells_where_it_was_made(bundle: Path) -> None:
    data = (bundle / "c" / "lib" / "libnetwork.a").read_bytes()
    assert b".debug_" not in data
    assert b"mbv3c-scratch" not in data


def test_inspect_says_what_it_costs(bundle: Path) -> None:
    shown = document(mbv3c("inspect", bundle, "--json"))["c_library"]
    assert shown["code_bytes"] > 0
    assert shown["constant_bytes"] > 0
    assert "C library" in mbv3c("inspect", bundle).stdout


def test_a_changed_weight_is_found(bundle: Path, tmp_path: Path) -> None:
    record = manifest_of(open_bundle(bundle)).c_library
    assert record is not None

    def change(copied: Path, manifest: dict[str, Any]) -> None:
        archive = copied / record.archive
        raw = bytearray(archive.read_bytes())
        model = onnx.load(copied / "model.onnx")
        bias = next(t for t in model.graph.initializer if t.name == "depthwise")
        weight = numpy_helper.to_array(bias)[0, 0, 0, :1].tobytes()
        at = raw.index(weight)
        raw[at + 2] ^= 1
        archive.write_bytes(raw)

    done = mbv3c("verify", changed(bundle, tmp_path, change), "--trust")
    assert done.returncode == 3
    assert "the C library has other constants than its model gives" in done.stdout


def test_another_archive_than_the_one_that_is_shipped_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        shutil.copy(copied / "c/lib/libnetwork.a", copied / "c/lib/other.a")
        manifest["c_library"]["archive"] = "c/lib/other.a"
        manifest["files"]["c/lib/other.a"] = ""

    done = mbv3c("verify", changed(bundle, tmp_path, change), "--trust")
    assert done.returncode == 1
    assert "its C library is not c/include/network.h and c/lib/libnetwork.a" in done.stderr


def test_every_file_in_c_is_what_the_model_gives(bundle: Path, tmp_path: Path) -> None:
    """Headers, test vectors and packages are others, a file was added, the arena is smaller."""
    lib = Path("c") / "lib"

    def change(copied: Path, manifest: dict[str, Any]) -> None:
        header = copied / "c" / "include" / "network.h"
        size = manifest["c_library"]["arena_bytes"]
        replaced(header, f"ARENA_BYTES {size}", f"ARENA_BYTES {size - 64}")
        manifest["c_library"]["arena_bytes"] = size - 64
        replaced(copied / "c" / "test" / "network_golden.c", "error <= most", "error <= 9")
        swapped(
            copied / lib / "cmake" / "network" / "networkConfig.cmake",
            copied / lib / "pkgconfig" / "network.pc",
        )
        (copied / "c" / "include" / "stdint.h").write_text("#error\n")
        manifest["files"]["c/include/stdint.h"] = ""
        (copied / "c" / "include" / "network.hpp").unlink()
        del manifest["files"]["c/include/network.hpp"]

    other = "is not what this version of mbv3c writes for this model"
    assert differing(changed(bundle, tmp_path, change)) == (
        f"c/include/network.h {other}",
        "c/include/network.hpp is missing",
        "c/include/stdint.h is no file that mbv3c writes",
        f"c/lib/cmake/network/networkConfig.cmake {other}",
        f"c/lib/pkgconfig/network.pc {other}",
        f"c/test/network_golden.c {other}",
        "manifest.json: its c_library is not the one that is there",
    )
    assert differing(bundle) == ()


def test_the_memory_of_another_network_is_refused(bundle: Path, tmp_path: Path) -> None:
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        manifest["memory"]["arena_bytes"] -= 64

    opened = open_bundle(changed(bundle, tmp_path, change))
    backend = backend_for(opened)
    assert isinstance(backend, LibraryBackend)
    with pytest.raises(BundleError, match="does not describe the kernels that its model gives"):
        check_described(opened, lowered_again(backend, opened))


def test_an_archive_with_more_than_the_library_is_refused(bundle: Path, tmp_path: Path) -> None:
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        archive = copied / "c" / "lib" / "libnetwork.a"
        magic, raw = b"!<arch>\n", archive.read_bytes()
        at = raw.index(b"\x7fELF") - 60
        archive.write_bytes(raw + b"\n" * (len(raw) % 2) + raw[at:])
        assert raw.startswith(magic)

    with pytest.raises(BundleError, match="is no library that mbv3c wrote"):
        differing(changed(bundle, tmp_path, change))


def test_verify_says_what_the_library_takes(bundle: Path) -> None:
    done = mbv3c("verify", bundle)
    assert done.returncode == 0, done.stderr
    said = re.search(
        r"the C library gives equal bits over 5 inputs, with ([\d,]+) bytes of stack; "
        r"its 6 files in C are what its model gives",
        done.stdout,
    )
    assert said is not None, done.stdout
    assert 100 < int(said[1].replace(",", "")) < 100_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--artifact", "rust"), "unknown artifact 'rust'; known: c"),
        (("--prefix", "x"), "give --artifact c, c-source or app, too"),
        (("--artifact", "c", "--prefix", "int"), "is no name in C"),
        (("--artifact", "c", "--input-shapes", "32x32 48x48"), "takes inputs of one shape"),
    ],
)
def test_what_makes_no_sense_is_refused(
    model: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    output = tmp_path / "bundle"
    done = mbv3c("compile", model, "--target", "host_cpu", *options, "-o", output)
    assert done.returncode == 2
    assert message in done.stderr
    assert not output.exists()


SEVERAL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4, 6, 6] image, float[1, 8] state)
    => (float[1, 8] next, float[1, 4, 6, 6] "*/ a picture", float[1, 8] again)
<int64[1, 1] place = {2}, float[1, 1] number = {0.25}> {
    a = GlobalAveragePool(image)
    b = Flatten(a)
    c = Concat<axis = 1>(b, b)
    d = Add(c, state)
    next = ScatterElements<axis = 1>(d, place, number)
    again = Identity(next)
    "*/ a picture" = Relu(image)
}"""


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(SEVERAL.replace('"*/ a picture"', "picture"))
    for value in (*model.graph.output, *model.graph.node):
        names = value.output if isinstance(value, onnx.NodeProto) else [value.name]
        if "picture" in names:
            if isinstance(value, onnx.NodeProto):
                value.output[0] = "*/ a picture"
            else:
                value.name = "*/ a picture"
    onnx.save(model, tmp_path / "model.onnx")
    done = mbv3c(
        *("compile", tmp_path / "model.onnx", "--target", "host_cpu", "--artifact", "c"),
        *("--prefix", "several", "-o", tmp_path / "of 100%s", "--json"),
    )
    parity = document(done)["parity"]["c_library"]
    assert parity["passed"]
    assert parity["inputs"] == 5
    header = (tmp_path / "of 100%s" / "c" / "include" / "several.h").read_text()
    assert "const float *image;" in header
    assert "float *a_picture;" in header


def test_vectors_in_c_pass_and_find_a_wrong_output(bundle: Path, tmp_path: Path) -> None:
    root, made = bundle / "c", tmp_path / "libtest.so"
    source = root / "test" / "network_golden.c"
    strict = ("-std=c11", "-O1", *STRICT)
    whole = ("-Wl,--whole-archive", root / "lib" / "libnetwork.a", "-Wl,--no-whole-archive")
    folders = ("-I", root / "include", "-I", root / "test")
    zig("cc", "-shared", "-nostdlib", "-fPIC", *strict, *folders, "-o", made, source, *whole)
    library = ctypes.CDLL(str(made))
    golden = np.load(bundle / "golden" / "input.npy")
    given = (ctypes.c_float * golden.size).in_dll(library, "network_golden_input_input")
    assert bytes(given) == golden.tobytes()
    record = manifest_of(open_bundle(bundle)).c_library
    assert record is not None
    room = np.zeros(record.arena_bytes + record.arena_alignment, np.uint8)
    arena = ctypes.c_void_p(room.ctypes.data + -room.ctypes.data % record.arena_alignment)
    scores = np.zeros(10, np.float32)
    out = ctypes.c_void_p(scores.ctypes.data)
    assert library.network_golden_check(out) == 1
    assert library.network_run(given, out, arena) == OK
    assert library.network_golden_check(out) == 0
    for wrong in (scores[3] + np.float32(1e-4) * np.ptp(scores), np.float32(np.nan)):
        kept, scores[3] = scores[3], wrong
        assert library.network_golden_check(out) == 1
        scores[3] = kept


@pytest.mark.parametrize(
    ("dtype", "labels", "scale"),
    [
        ("float16", False, False),
        ("float64", False, True),
        ("int64", True, False),
        ("uint64", True, False),
        ("bool", True, False),
    ],
)
def test_vectors_of_any_type(tmp_path: Path, dtype: str, labels: bool, scale: bool) -> None:
    kind = np.dtype(dtype)
    least = np.iinfo(kind).min if kind.kind in "iu" else -2.5
    y = np.array(
        [least, 0, 1, 65504 if dtype == "float16" else 1], np.float64 if kind.kind == "f" else kind
    ).astype(kind)
    port = Port("y", "y", (4,), dtype)
    own = Interface("net", "a test", {}, [Port("x", "x", (1,), "float32")], [port], 1, 1, False)
    scales = [np.array([1, 1, 1e-3, 1], np.float32) if scale else None]
    x = np.ones(1, np.float32)
    write_vectors(own, Golden(x, [y], [1e-3], [labels], scales), tmp_path / "test")
    (tmp_path / "net.h").write_text(header(own))
    made = tmp_path / "libtest.so"
    folders = ("-I", tmp_path, "-I", tmp_path / "test")
    source = tmp_path / "test" / "net_golden.c"
    flags = ("-shared", "-nostdlib", "-fPIC", "-std=c11", "-O1", *STRICT)
    zig("cc", *flags, *folders, "-o", made, source)
    check = ctypes.CDLL(str(made)).net_golden_check
    assert check(ctypes.c_void_p(y.ctypes.data)) == 0
    wrong = [0] if labels else [float(y[2]) + 2e-6 if scale else 65000.0, np.inf, np.nan]
    for value in wrong:
        y[2 if labels or scale else 3] = value
        assert check(ctypes.c_void_p(y.ctypes.data)) == 1
