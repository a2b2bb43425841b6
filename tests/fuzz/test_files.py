"""Models, arrays, images and records changed at random: an error in words, or no harm.

    make fuzz SECONDS=3600 SEED=7

goes on for an hour for each kind. A find is kept in `seeds/`, by the kind that its name begins
with; all of them are tried each time.
"""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from mbv3c.accuracy.journal import open_journal
from mbv3c.errors import Mbv3cError
from mbv3c.graphs.load import load_model
from mbv3c.graphs.weights.files import read_tensors, weights_of
from mbv3c.parity.gate.saved_outputs import load_outputs
from mbv3c.passes import run_pipeline
from mbv3c.quantization.calibration import folder_inputs
from mbv3c.quantization.images import Preprocessing, read_image, without_warnings
from mbv3c.tuning.database import META, RECORDS, SCHEMA, Context, Database, Record, _written
from tests.command_line import mbv3c
from tests.door.models import calls, loop, number
from tests.fuzz.changes import bytes_changed, model_changed, seeds
from tests.onnx_text import graph
from tests.onnx_text import random as numbers

SEEDS = Path(__file__).parent / "seeds"
PREPARED = Preprocessing(8, 8, False, (0.5,) * 3, (0.5,) * 3, 0.875)


def network() -> onnx.ModelProto:
    """Return a small network with a bit of everything that the passes look for."""
    return graph(
        """
        g (float[1, 3, 8, 8] x) => (float[1, 5] y) {
            c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)
            n = BatchNormalization (c, scale, b, b, scale)
            h = HardSigmoid <alpha = 0.1666667, beta = 0.5> (n)
            s = Mul (n, h)
            p = GlobalAveragePool (s)
            k = Constant <value = float {0.5}> ()
            q = Mul (p, k)
            some = Greater (k, one)
            z = If (some) <
                then_branch = t () => (float[1, 4, 1, 1] a) { a = Add (q, one) },
                else_branch = e () => (float[1, 4, 1, 1] d) { d = Identity (q) }
            >
            i = Shape (z)
            f = Flatten (z)
            r = Reshape (f, shape)
            y = Gemm <transB = 1> (r, m, l)
        }
        """,
        w=numbers(4, 3, 3, 3),
        b=numbers(4),
        scale=np.abs(numbers(4)) + 1,
        one=np.float32(1),
        shape=np.array([1, 4]),
        m=numbers(5, 4),
        l=numbers(5),
    )


def models() -> list[onnx.ModelProto]:
    counted = loop([number("n", 3), number("true", True, "bool")])
    return [network(), counted, calls(3)]


def try_model(path: Path) -> None:
    """Do what `inspect` and `optimize` begin with, and now and then all of `inspect`."""
    try:
        run_pipeline(load_model(path))
    except Mbv3cError:
        return
    assert mbv3c("inspect", path).returncode in (0, 1)


def model_at(path: Path, chosen: random.Random) -> None:
    given = chosen.choice(models())
    if chosen.random() < 0.8:
        path.write_bytes(model_changed(given, chosen).SerializeToString())
    else:
        path.write_bytes(bytes_changed(given.SerializeToString(), chosen))


def try_arrays(path: Path) -> None:
    """Read a file as inputs, weights and saved outputs."""
    named = path.with_suffix(".npz" if path.read_bytes()[:2] == b"PK" else ".npy")
    path.rename(named)
    model = graph("g (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }")
    for read in (
        lambda: [list(folder_inputs(model, named).read())],
        lambda: read_tensors(named, weights_of),
        lambda: load_outputs(named),
    ):
        try:
            read()
        except Mbv3cError:
            continue


def arrays_at(path: Path, chosen: random.Random) -> None:
    file = io.BytesIO()
    save = chosen.choice((np.save, np.savez, np.savez_compressed))
    save(file, numbers(2, 3))
    path.write_bytes(bytes_changed(file.getvalue(), chosen))


def try_image(path: Path) -> None:
    with without_warnings():
        try:
            assert read_image(path, PREPARED).shape == (3, 8, 8)
        except Mbv3cError:
            return


def image_at(path: Path, chosen: random.Random) -> None:
    file = io.BytesIO()
    kind = chosen.choice(("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"))
    modes = {"JPEG": ("RGB", "L", "CMYK"), "WEBP": ("RGB", "RGBA"), "BMP": ("RGB", "L", "P")}
    pixels = np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8)
    image = Image.fromarray(pixels).convert(chosen.choice(modes.get(kind, ("RGB", "L", "P"))))
    image.save(file, kind)
    path.write_bytes(bytes_changed(file.getvalue(), chosen))


def try_records(path: Path) -> None:
    """Read a file as records of tuning, as what says what made them, and as a journal."""
    context = Context("host_cpu:native", 1, "1", "us")
    folder = path.with_name(f"{path.name}.folder")
    folder.mkdir(exist_ok=True)
    meta = {"schema": SCHEMA, "context": vars(context), "runs": []}
    for name, other in ((RECORDS, META), (META, RECORDS)):
        (folder / name).write_bytes(path.read_bytes())
        (folder / other).write_text(json.dumps(meta) if other == META else "")
        try:
            Database(folder).open(context, {})
            for record in Database(folder).records():
                assert isinstance(record.relative, float | None)
        except Mbv3cError:
            pass
    try:
        with open_journal(path, {"model": "x"}) as journal:
            list(journal.read())
    except Mbv3cError:
        return


def records_at(path: Path, chosen: random.Random) -> None:
    record = Record('{"kind": "x"}', {"tile": [1, 2]}, "ok", 1.5, 2.0, True)
    meta = {"schema": SCHEMA, "context": vars(Context("a:b", 1, "1", "us")), "runs": []}
    head = json.dumps({"journal": 1, "model": "x"}, separators=(",", ":"))
    group = json.dumps({"group": 0, "images": [{"file": "a"}]}, separators=(",", ":"))
    given = (_written(record) * 2, json.dumps(meta), f"{head}\n{group}\n")
    path.write_bytes(bytes_changed(chosen.choice(given).encode(), chosen))


Kind = tuple[Callable[[Path, random.Random], None], Callable[[Path], None]]
KINDS: dict[str, Kind] = {
    "model": (model_at, try_model),
    "arrays": (arrays_at, try_arrays),
    "image": (image_at, try_image),
    "records": (records_at, try_records),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_any_change(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Change files for a while; the last one is kept where the process itself may end."""
    change, attempt = KINDS[kind]
    for seed in seeds(request.config):
        path = tmp_path / f"{kind}-{seed % 2}"
        change(path, random.Random(seed))
        given = path.read_bytes()
        (tmp_path / f"{kind}-last").write_bytes(given)
        try:
            attempt(path)
        except Exception as error:
            (tmp_path / f"{kind}-{seed}-find").write_bytes(given)
            pytest.fail(f"--fuzz-seed {seed} --seconds 1: {error!r}; {tmp_path} has the file")


@pytest.mark.parametrize("seed", sorted(SEEDS.iterdir()), ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore")
def test_what_was_found_is_mended(seed: Path, tmp_path: Path) -> None:
    path = tmp_path / seed.name
    path.write_bytes(seed.read_bytes())
    KINDS[seed.name.partition("-")[0]][1](path)
