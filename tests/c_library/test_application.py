"""A bundle's model.so run by the sources that `compile --artifact app` writes."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.execution.link import run_zig
from tests.c_library.tampering import changed, differing, replaced, swapped
from tests.command_line import mbv3c

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1")
TEXT = """<ir_version: 8, opset_import: ["" : 17]>
two (float[1, 4, 8, 8] "ä */ image", float[1, 4] vector) => (float[1, 4] sum, int64[1, 1] best) {
    a = HardSwish("ä */ image")
    b = GlobalAveragePool(a)
    c = Flatten(b)
    sum = Add(c, vector)
    best = ArgMax<axis = 1>(sum)
}"""
PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mbv3c_model.h"
#include "two.h"

static float image[4 * 8 * 8 + 16], vector[4];
static float wanted_sum[4];
static int64_t wanted_best[1];

static void *work(void *given) {
  static const two_input_t in = {image + 1, vector};
  long *wrong = given;
  for (int k = 0; k < 50; ++k) {
    float sum[4] = {0};
    int64_t best[1] = {-1};
    two_output_t out = {sum, best};
    int code = two_run(&in, &out, NULL);
    *wrong += code != TWO_OK || memcmp(sum, wanted_sum, sizeof sum) != 0 ||
        memcmp(best, wanted_best, sizeof best) != 0;
  }
  return NULL;
}

static void *contents(const char *path, size_t *bytes) {
  FILE *file = fopen(path, "rb");
  void *data = malloc(1 << 24);
  *bytes = file == NULL ? 0 : fread(data, 1, 1 << 24, file);
  if (file != NULL) fclose(file);
  return data;
}

static void say(const char *what, int code) {
  printf("%s %d %s\n", what, code, code == TWO_OK ? "" : two_message());
}

int main(int count, char **arguments) {
  if (count != 4) return 2;
  FILE *given = fopen(arguments[2], "rb");
  if (given == NULL || fread(image + 1, sizeof *image, 4 * 8 * 8, given) != 4 * 8 * 8 ||
      fread(vector, sizeof *vector, 4, given) != 4) {
    return 2;
  }
  fclose(given);
  const two_input_t in = {image + 1, vector};
  two_output_t out = {wanted_sum, wanted_best};
  say("closed", two_run(&in, &out, NULL));
  say("nothing", two_open(arguments[3]));
  say("open", two_open(arguments[1]));
  say("threads", mbv3c_set_threads(2, NULL));
  say("pinned", mbv3c_set_threads(1, (const int[]){0}));
  say("no threads", mbv3c_set_threads(0, NULL));
  say("run", two_run(&in, &out, NULL));
  say("null", two_run(NULL, &out, NULL));
  const two_input_t half = {image + 1, NULL};
  say("half", two_run(&half, &out, NULL));
  printf("best %d of %.9g %.9g %.9g %.9g\n", (int)wanted_best[0], wanted_sum[0], wanted_sum[1],
         wanted_sum[2], wanted_sum[3]);
  pthread_t threads[4];
  long wrong[4] = {0};
  for (int k = 0; k < 4; ++k) pthread_create(&threads[k], NULL, work, &wrong[k]);
  for (int k = 0; k < 4; ++k) pthread_join(threads[k], NULL);
  printf("wrong %ld\n", wrong[0] + wrong[1] + wrong[2] + wrong[3]);

  char path[4096];
  size_t bytes;
  snprintf(path, sizeof path, "%s/model.so", arguments[1]);
  void *library = contents(path, &bytes);
  say("memory", two_open_memory(library, bytes));
  memset(library, 0, bytes);
  free(library);
  memset(wanted_sum, 0, sizeof wanted_sum);
  say("again", two_run(&in, &out, NULL));
  printf("best %d of %.9g %.9g %.9g %.9g\n", (int)wanted_best[0], wanted_sum[0], wanted_sum[1],
         wanted_sum[2], wanted_sum[3]);
  say("no library", two_open_memory("no library", 10));
  say("closed", two_run(&in, &out, NULL));

  mbv3c_model_t *model = NULL;
  if (mbv3c_open(arguments[1], &model) != MBV3C_OK) return 1;
  for (size_t k = 0; k < mbv3c_input_count(model); ++k) {
    const mbv3c_end_t *end = mbv3c_input(model, k);
    printf("input %s %s of rank %d, %zu bytes\n", end->name, end->dtype, end->rank, end->bytes);
  }
  printf("%zu outputs, %d behind\n", mbv3c_output_count(model), mbv3c_output(model, 2) != NULL);
  mbv3c_close(model);
  say("bad ends", mbv3c_open_memory("", 0, "input float32 4x NAME\n", &model));
  say("no ends", mbv3c_open_memory("", 0, "neither\n", &model));
  return 0;
}
"""


LOADER = """
import ctypes, sys
*libraries, program = [ctypes.CDLL(path, ctypes.RTLD_GLOBAL) for path in sys.argv[1:4]]
arguments = [argument.encode() for argument in sys.argv[3:]]
sys.exit(program.main(len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)))
"""


@pytest.fixture(scope="module")
def feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {"image": (1, 4, 8, 8), "vector": (1, 4)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _bundle(folder: Path, target: str) -> Path:
    onnx.save(onnx.parser.parse_model(TEXT), folder / "two.onnx")
    done = mbv3c(
        *("compile", folder / "two.onnx", "--target", target, "-o", folder / "bundle"),
        *("--artifact", "app", "--prefix", "two"),
    )
    assert done.returncode == 0, done.stderr
    assert "application: app, " in done.stdout
    return folder / "bundle"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _bundle(tmp_path_factory.mktemp("bundle"), "host_cpu")


@pytest.fixture(scope="module")
def printed(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, feed: dict[str, np.ndarray]
) -> list[str]:
    """Return what the program prints on this machine."""
    import tvm
    import tvm_ffi

    folder = tmp_path_factory.mktemp("application")
    (folder / "main.c").write_text(PROGRAM)
    ffi, runtime = Path(tvm_ffi.__file__).parent, Path(tvm.__file__).parent / "lib"
    sources = [str(folder / "main.c"), *map(str, (bundle / "app").glob("*.c"))]
    program = folder / "program.so"
    include = ("-I", str(bundle / "app"), "-isystem", str(ffi / "include"))
    # Linked as a library: zig would have to build a C library for a program first.
    flags = ("-shared", "-fPIC", "-nostdlib")
    run_zig(["cc", *STRICT, *include, *flags, *sources, "-o", str(program)], "compiling a test")
    data = b"".join(array.tobytes() for array in feed.values())
    (folder / "feed.bin").write_bytes(data)
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-c", LOADER, ffi / "lib" / "libtvm_ffi.so"),
            *(runtime / "libtvm_runtime.so", program),
            *(bundle, folder / "feed.bin", folder / "nothing"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done
    return done.stdout.splitlines()


def test_outputs_are_numpys(printed: list[str], feed: dict[str, np.ndarray]):
    x = feed["image"]
    mean = (x * np.clip(x / 6 + 0.5, 0, 1)).mean((2, 3), dtype=np.float64) + feed["vector"]
    shown = [line for line in printed if line.startswith("best ")]
    assert len(set(shown)) == 1
    assert len(shown) == 2  # from the file, from memory
    best, sums = re.fullmatch(r"best (\d+) of (.*)", shown[0]).groups()
    np.testing.assert_allclose(list(map(float, sums.split())), mean[0], rtol=1e-5, atol=1e-6)
    assert int(best) == mean.argmax()


def test_four_threads_share_one_model(printed: list[str]):
    assert "wrong 0" in printed


def test_requests_have_codes_and_messages(printed: list[str]):
    said = dict(re.findall(r"^([a-z ]+) (-?\d.*)$", "\n".join(printed), re.MULTILINE))
    for name in ("open", "threads", "pinned", "run", "memory", "again"):
        assert said[name] == "0 ", (name, said)
    assert said["closed"].startswith("-7 no model is open")
    assert said["nothing"].startswith("-4 cannot open ")
    assert said["null"].startswith("-1 ")
    assert said["half"] == "-1 input vector is NULL"
    assert said["no threads"] == "-5 0 is no number of threads"
    assert said["no library"].endswith("is no shared library")
    assert said["bad ends"].startswith("-4 ends.txt: 4x is no shape")
    assert said["no ends"] == "-4 ends.txt: neither input nor output: neither"


def test_ends_are_described(printed: list[str]):
    assert r"input \xe4 *\/ image float32 of rank 4, 1024 bytes" in printed
    assert "input vector float32 of rank 2, 16 bytes" in printed
    assert "2 outputs, 0 behind" in printed


def test_cmake_says_that_it_wants_the_runtime(bundle: Path, tmp_path: Path):
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    cmake = shutil.which("cmake", path=beside)
    assert cmake is not None, "no cmake: pip install -e '.[test]' brings it"
    build = [cmake, "-S", bundle / "app", "-B", tmp_path / "build"]
    done = subprocess.run(build, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "give -DSITE=FOLDER" in " ".join(done.stderr.split())
    site = sysconfig.get_path("platlib")  # and the folder of the build is as the error left it
    subprocess.run([*build, f"-DSITE={site}"], check=True, capture_output=True, timeout=120)


def test_every_file_is_what_the_model_gives(bundle: Path, tmp_path: Path):
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        app = copied / "app"
        replaced(app / "two.c", "two_close();", "")
        replaced(app / "mbv3c_model.c", "return", "return  ")
        swapped(app / "ends.txt", app / "CMakeLists.txt")

    other = "is not what this version of mbv3c writes for this model"
    names = ("CMakeLists.txt", "ends.txt", "mbv3c_model.c", "two.c")
    broken = changed(bundle, tmp_path, change)
    assert differing(broken) == tuple(f"app/{name} {other}" for name in names)
    done = mbv3c("verify", broken, "--trust")
    assert done.returncode == 3
    assert f"WRONG in C: app/CMakeLists.txt {other}; " in done.stdout
    (broken / "app" / "tvm_ffi.h").write_text("#error\n")
    done = mbv3c("verify", broken, "--trust")
    assert done.returncode == 1
    assert "tvm_ffi.h was added after compile" in done.stderr
