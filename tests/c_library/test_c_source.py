"""A C library as C11, as `compile --artifact c-source` writes it."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T  # noqa: N812

from mbv3c.c_library.c_source.arrays import Weights, weights_text
from mbv3c.c_library.c_source.functions import write_function
from mbv3c.c_library.c_source.prelude import Prelude
from mbv3c.c_library.raw_pointers import raw_kernels
from mbv3c.errors import ToolError
from mbv3c.execution.link import run_zig
from tests.built_once import built_once
from tests.c_library.models import write_model
from tests.c_library.tampering import changed
from tests.command_line import document, mbv3c

ROOT = Path(__file__).parents[2]
STRICT = ("-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror")
TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}
TEXT = """<ir_version: 8, opset_import: ["" : 17]>
classifier (float[1, 4, 6, 6] input) => (float[1, 5] scores)
<int64[1, 1] place = {2}, float[1, 1] number = {0.25}> {
    a = Conv<pads = [1, 1, 1, 1], group = 4>(input, depthwise)
    b = HardSwish(a)
    c = GlobalAveragePool(b)
    d = Flatten(c)
    g = Gemm<transB = 1>(d, head)
    e = ScatterElements<axis = 1>(g, place, number)
    scores = Softmax<axis = 1>(e)
}"""
SIZES = {"depthwise": (4, 1, 3, 3), "head": (5, 4)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with C11 sources called `network`."""

    def compile_to(place: Path) -> None:
        model = write_model(TEXT, SIZES, tmp_path_factory.mktemp("model") / "model.onnx")
        done = mbv3c(
            *("compile", model, "--target", "host_cpu", "--artifact", "c-source"),
            *("--prefix", "network", "-o", place, "--force", "--json"),
        )
        assert done.returncode == 0, done.stderr
        shown = document(done)
        assert shown["c_source"]["header"] == "c/include/network.h"
        assert shown["c_source"]["arena_bytes"] == shown["c_source"]["arena_lower_bound"]
        assert shown["c_source"]["constant_bytes"] > 0
        parity = shown["parity"]["c_library"]
        assert (parity["inputs"], parity["passed"]) == (5, True)
        assert parity["error"] <= 1e-6

    return built_once(tmp_path_factory, "c source", compile_to)


def zig(*arguments: object) -> None:
    run_zig([str(argument) for argument in arguments], "compiling a test")


MAIN = """#include <stdlib.h>
#include "network_golden.h"
int main(void) {
  static float scores[NETWORK_CLASSES];
  static _Alignas(NETWORK_ARENA_ALIGNMENT) unsigned char arena[NETWORK_ARENA_BYTES];
  if (network_run(network_golden_input_input, scores, arena) != NETWORK_OK) return 100;
  if (network_run(network_golden_input_input, scores, arena + 1) != NETWORK_ARENA_MISALIGNED) {
    return 101;
  }
  return network_golden_check(scores);
}
"""


@pytest.mark.parametrize("spelling", ["vectors", "loops"])
def test_gcc_takes_it_and_sanitizers_find_nothing(
    bundle: Path, tmp_path: Path, spelling: str
) -> None:
    main, program = tmp_path / "main.c", tmp_path / "main"
    main.write_text(MAIN)
    folder = bundle / "c"
    sources = [main, *folder.glob("src/*.c"), folder / "test" / "network_golden.c"]
    flags = [*STRICT, "-O1", "-g", "-I", folder / "include", "-I", folder / "test"]
    flags += ["-DNETWORK_PLAIN"] if spelling == "loops" else []
    if shutil.which("gcc"):
        checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
        subprocess.run(["gcc", *flags, *checks, "-o", program, *sources, "-lm"], check=True)
    else:
        zig("cc", *flags, "-fsanitize=undefined", "-o", program, *sources, "-lm")
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("triple", ["arm-linux-gnueabihf", "aarch64-linux-gnu", "x86-linux-gnu"])
def test_other_processors_take_it(bundle: Path, tmp_path: Path, triple: str) -> None:
    for source in bundle.glob("c/src/*.c"):
        include = ("-I", bundle / "c" / "include")
        zig("cc", "-target", triple, "-c", "-O1", *STRICT, *include, "-o", tmp_path / "o", source)


def test_the_makefile_builds_it(bundle: Path, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        compiler = f"{sys.executable} -m ziglang cc"
    (tmp_path / "bundle").symlink_to(bundle)  # make knows no path with spaces
    command = ["make", "-s", "-C", tmp_path / "bundle" / "c", f"O={tmp_path}", "CFLAGS=-O1"]
    subprocess.run([*command, f"CC={compiler}"], check=True, timeout=300)
    assert (tmp_path / "libnetwork.a").stat().st_size > 1000
    assert not list(bundle.glob("c/*.o"))


def test_a_changed_weight_is_found(bundle: Path, tmp_path: Path) -> None:
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        path = copied / "c" / "src" / "network_weights.c"
        text = path.read_text()
        at = text.index("0x") + 2
        path.write_text(f"{text[:at]}{'1' if text[at] != '1' else '3'}{text[at + 1 :]}")

    done = mbv3c("verify", changed(bundle, tmp_path, change), "--trust")
    assert done.returncode == 3
    assert "the C sources have other constants than their model gives" in done.stdout


def test_other_sources_than_those_that_are_listed_are_refused(
    bundle: Path, tmp_path: Path
) -> None:
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        manifest["c_source"]["sources"][0] = "c/src/other.c"

    done = mbv3c("verify", changed(bundle, tmp_path, change), "--trust")
    assert done.returncode == 1
    assert "its C library is not c/include/network.h and c/src/network.c" in done.stderr


def test_inspect_says_what_it_costs(bundle: Path) -> None:
    assert "C sources: c/src, " in mbv3c("inspect", bundle).stdout


def test_half_precision_is_refused(tmp_path: Path) -> None:
    model = write_model(TEXT, SIZES, tmp_path / "model.onnx")
    done = mbv3c(
        *("compile", model, "--target", "arm_cpu", "--precision", "fp16"),
        *("--artifact", "c-source", "-o", tmp_path / "bundle"),
    )
    assert done.returncode == 2
    assert "C11 has no half precision: choose --precision fp32 or int8" in done.stderr


@pytest.mark.parametrize("target", ["arm_cpu", "host_cpu"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_family(tmp_path: Path, target: str, precision: str) -> None:
    text = TEXT.replace("scores = Softmax<axis = 1>(e)", "scores = Relu(e)")
    model = write_model(text, SIZES, tmp_path / "model.onnx")
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(1)
    for at in range(4):
        np.save(images / f"{at}.npy", rng.normal(size=(1, 4, 6, 6)).astype(np.float32))
    integers = ("--calibration", images) if precision == "int8" else ()
    done = mbv3c(
        *("compile", model, "--target", target, "--precision", precision, *integers),
        *("--artifact", "c-source", "-o", tmp_path / "bundle", "--json"),
    )
    parity = document(done)["parity"]["c_library"]
    assert (parity["inputs"], parity["passed"]) == (5, True)
    # In fp32 last bits may differ on ARM: compilers join a product and a sum, or do not.
    assert parity["differing"] == 0 or (target, precision) == ("arm_cpu", "fp32")


def test_nothing_is_found_by_analysis(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to(bundle)  # make knows no path with spaces
    script = ROOT / "scripts" / "analyse_c.sh"
    done = subprocess.run(
        ["sh", script, tmp_path / "bundle", sys.executable],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 threads: 0 failed, 0 differ from one thread alone" in done.stdout
    assert "nothing found in" in done.stdout


def test_weights_are_exact() -> None:
    singles = np.array([0, -0.0, 1, -1.5, 3e38, 1e-45, -1.17e-38, 1 / 3, 0.1], np.float32)
    integers = np.array([-(2**63), 2**63 - 1, 0], np.int64)
    text = weights_text("net", Weights([singles, integers], []), 64)
    line, other = (line.strip(" ,") for line in text.splitlines() if line.startswith("  "))
    read = [float.fromhex(number.removesuffix("f")) for number in line.split(", ")]
    assert np.array(read, np.float32).tobytes() == singles.tobytes()
    assert other == "INT64_MIN, INT64_C(9223372036854775807), INT64_C(0)"


@T.prim_func
def odd_things(
    x: T.Buffer((16,), "int8"), table: T.Buffer((256,), "int8"), y: T.Buffer((32,), "int8")
):
    T.func_attr({"mbv3c.kernel": True, "tirx.noalias": True})
    for i in T.vectorized(16):
        y[i] = x[i] + x[i]
    for i in T.vectorized(16):
        y[i + 16] = T.if_then_else(
            x[i] > T.int8(3), table[T.Cast("int32", x[i]) & 255], T.min(x[i], T.int8(-2))
        )


def test_lanes_are_as_in_numpy(tmp_path: Path) -> None:
    target = tvm.target.Target(TARGET)
    raw = raw_kernels(tvm.IRModule({"odd": odd_things}), target, "net")
    prelude = Prelude()
    ((name, function),) = raw.module.functions.items()
    written = write_function(str(name.name_hint), function, prelude)
    (tmp_path / "net_vectors.h").write_text(prelude.text("net", written.text))
    source = tmp_path / "net.c"
    source.write_text(f'#include "net_vectors.h"\n{written.declaration}\n{written.text}')
    rng = np.random.default_rng(2)
    x, table = (rng.integers(-128, 128, size).astype(np.int8) for size in (16, 256))
    chosen = np.where(x > 3, table[x.view(np.uint8)], np.minimum(x, -2))
    wanted = np.concatenate([x + x, chosen]).astype(np.int8)
    for flags in ((), ("-DNET_PLAIN",)):
        made = tmp_path / f"{len(flags)}.so"
        zig("cc", "-shared", "-nostdlib", "-fPIC", "-O1", *STRICT, *flags, "-o", made, source)
        y = np.zeros(32, np.int8)
        pointers = (ctypes.c_void_p(each.ctypes.data) for each in (x, table, y))
        ctypes.CDLL(str(made)).net_odd(*pointers)
        assert y.tolist() == wanted.tolist()


@T.prim_func
def sums(
    x: T.Buffer((24,), "int32"), h: T.Buffer((24,), "uint16"), typeof: T.Buffer((8,), "int32")
):
    T.func_attr({"mbv3c.kernel": True, "tirx.noalias": True})
    for i in T.serial(8):
        typeof[i] = x[i * 2 + 1] * x[i + 3] - T.Cast("int32", h[i] * h[i + 1])


def test_sums_that_are_too_large_wrap_around() -> None:
    """In C, one of a signed type has no meaning, and a product of two uint16_t is an int."""
    raw = raw_kernels(tvm.IRModule({"k": sums}), tvm.target.Target(TARGET), "net")
    text = write_function("net_k", next(iter(raw.module.functions.values())), Prelude()).text
    assert "(int32_t)((uint32_t)(int32_t)((uint32_t)x[" in text
    assert "(uint16_t)((uint32_t)h[" in text
    assert "[i * 2 + 1]" in text or "[(i * 2) + 1]" in text  # an index stays
    assert "typeof_[" in text


@T.prim_func
def halves(x: T.Buffer((8,), "float16"), y: T.Buffer((8,), "float16")):
    T.func_attr({"mbv3c.kernel": True, "tirx.noalias": True})
    for i in T.serial(8):
        y[i] = x[i]


def test_what_c_lacks_is_refused_in_words() -> None:
    raw = raw_kernels(tvm.IRModule({"k": halves}), tvm.target.Target(TARGET), "net")
    with pytest.raises(ToolError, match="numbers of type float16, which C11 lacks"):
        write_function("net_k", next(iter(raw.module.functions.values())), Prelude())
