"""All combinations of a grid: which jobs are asked for, what comes of it, and how it is shown."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.errors import UsageError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import count
from mbv3c.jobs.engine import Done, JobFailed, Report
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress
from mbv3c.search import image_pack, sweep_report
from mbv3c.search import sweep as sweep_module
from mbv3c.search.grid import Grid, Images, from_options
from mbv3c.search.image_pack import pack_images, unpacked
from mbv3c.search.kinds import packed
from mbv3c.search.sweep import Sweep, sweep

DIGITS = Path(__file__).parents[1] / "data" / "digits.npz"
OPTIONS = {"network": ["mobilenet_v3"], "variant": ["small"], "width": [0.35, 0.5]}
NPU, GPU = "npu:ethos-u55-128", "mobile_gpu:mali"


@dataclass
class Told:
    """An engine that knows what comes of each kind of job, and notes what it was asked."""

    asked: list[Job] = field(default_factory=list)
    crashes: str = "nothing"

    def run(self, jobs: Sequence[Job], store: Store, report: Report, progress: Progress) -> None:
        for job in jobs:
            self.asked.append(job)
            if self.crashes in job.title:
                report(Done(job, JobFailed(job, "its process was ended by SIGSEGV", "")))
                continue
            folder = store.attempt(job.name)
            document, names = self.result(job, store)
            files = {}
            for name, content in names.items():
                (folder / name.replace("/", "_")).write_bytes(content)
                files[name] = folder / name.replace("/", "_")
            store.keep(job.name, document, files)
            report(Done(job))

    def result(self, job: Job, store: Store) -> tuple[dict[str, Any], dict[str, bytes]]:
        models = {
            name: store.get(digest).read_bytes()
            for name, digest in job.files.items()
            if name not in ("images", "labels")
        }
        if job.kind == "cost":
            return {"networks": [self.cost(each, job) for each in models.values()]}, {}
        if job.kind == "compile":
            document = {"sizes": {"model": 9}, "passed": True, "ran_on": "a test"}
            return document, {"bundle/manifest.json": b"{}", "bundle/quantized.onnx": b"int8"}
        accuracy = {"share": 0.5, "low": 0.4, "high": 0.6}
        if models["model"] == b"int8":
            accuracy["share"] = 0.45
        return {"accuracy": accuracy, "part": "test"}, (
            {"model.onnx": models["model"]} if job.kind == "train" else {}
        )

    def cost(self, model: bytes, job: Job) -> dict[str, Any]:
        if job.options["target"] == GPU:
            return {"refused": "nothing tells what it costs"}
        counts = count(onnx.load_from_string(model))
        counted = {"parameters": counts.params, "multiply_adds": counts.madds}
        resources = {"cycles": counts.madds / 2, "weights": 2048, "memory": 1024, **counted}
        return {"kind": "estimated", "resources": resources}


def silent(text: str) -> None:
    pass


@pytest.fixture(autouse=True)
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build each network once for all tests."""
    monkeypatch.setattr(sweep_module, "build_model", BUILD)


BUILD = cache(build_model)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def asked(**more: Any) -> Grid:
    return from_options({**OPTIONS, "resolution": [32], "targets": ["npu"], **more})


def test_costs_without_images(store: Store, tmp_path: Path) -> None:
    engine = Told()
    swept = sweep(asked(targets=["npu", GPU], precisions=["int8", "fp32"]), store, engine, silent)
    # Widths go together; what a target does not compute is no question.
    assert [(job.kind, len(job.files)) for job in engine.asked] == [("cost", 2)] * 2
    assert [job.resources for job in engine.asked] == [{"npu": 1.0}, {}]
    assert "ethos-u-vela" in engine.asked[0].versions
    small, large = swept.combinations[:2]
    assert (small.network, small.target, small.time) == (
        "mobilenet_v3_small_0.35@32",
        NPU,
        "cycles",
    )
    assert small.resources["cycles"] < large.resources["cycles"]
    text = "\n".join(sweep_report.lines(swept))
    assert f"{NPU} (estimated):" in text
    assert "no accuracy: seeded weights have none" in text
    assert "computes in int8 only" in text
    assert f"on {GPU} in fp32 and 1 more: nothing tells" in text
    document = json.loads(json.dumps(sweep_report.document(swept), allow_nan=False))
    assert len(document["combinations"]) == 8
    assert not any(one["on_front"] for one in document["combinations"])
    picture = tmp_path / "costs.svg"
    sweep_report.draw(swept, picture, force=False)
    assert "memory, KiB" in picture.read_text()

    before = len(engine.asked)
    again = sweep(asked(precisions=["int8"]), store, engine, silent)
    assert again.combinations == swept.combinations[:2]
    assert len(engine.asked) == before


def trained(store: Store, engine: Told) -> Sweep:
    grid = asked(images=str(DIGITS), test=0.1, train={"steps": 9}, compile=True)
    return sweep(grid, store, engine, silent)


def test_with_images_networks_are_trained_and_what_is_compiled_is_judged(
    store: Store, tmp_path: Path
) -> None:
    engine = Told()
    swept = trained(store, engine)
    kinds = [job.kind for job in engine.asked]
    assert kinds == ["train", "train", "cost", "compile", "compile", "evaluate", "evaluate"]
    assert engine.asked[0].options["plan"]["steps"] == 9
    assert engine.asked[0].options["images"]["test"] == 0.1
    first = swept.combinations[0]
    assert first.accuracy is not None
    assert (first.accuracy.share, first.accuracy_of, first.part) == (0.45, "quantized", "test")
    assert first.bundle is not None
    # Ten classes are those of the images.
    model = onnx.load(swept.models[first.network].files["model.onnx"])  # type: ignore[union-attr]
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 10
    text = "\n".join(sweep_report.lines(swept))
    assert "45.00 (40.00 to 60.00)" in text
    assert "of the quantized model of the bundle, on the images to test with" in text
    chosen = [one["on_front"] for one in sweep_report.document(swept)["combinations"]]
    assert chosen == [True, False]  # of equal accuracy the cheaper
    sweep_report.save(swept, tmp_path / "saved", force=False)
    bundle = f"{first.network}-npu-ethos-u55-128-int8"
    assert (tmp_path / "saved" / bundle / "quantized.onnx").read_bytes() == b"int8"
    assert (tmp_path / "saved" / f"{first.network}.onnx").exists()


def test_what_crashes_is_told_and_the_others_are_done(store: Store) -> None:
    swept = trained(store, Told(crashes="training mobilenet_v3_small_0.35"))
    crashed, fine = swept.combinations
    assert crashed.failed
    assert "ended by SIGSEGV" in crashed.refused
    assert not fine.failed
    assert fine.bundle is not None


def test_what_no_target_computes_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="computes in int8 only; leave --precision fp32 out"):
        sweep(from_options({"targets": [NPU], "precisions": ["fp32"]}), store, Told(), print)


def test_a_network_that_cannot_be_built_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "own.onnx").write_bytes(b"nothing")
    grid = from_options({"model": [str(tmp_path / "own.onnx")], "targets": ["npu"]})
    with pytest.raises(UsageError, match=r"networks: .*own\.onnx"):
        sweep(grid, store, Told(), silent)


def test_images_travel_as_one_file_known_by_its_content(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "cache"))
    digests = []
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "cats").mkdir(parents=True)
        (folder / "cats" / "1.png").write_bytes(b"cat")
        (folder / "dogs.png").write_bytes(b"dog")
        digests.append(pack_images(folder, store))
    assert digests[0] == digests[1]
    found = unpacked(store.get(digests[0]))
    assert (found / "cats" / "1.png").read_bytes() == b"cat"
    assert unpacked(store.get(digests[0])) == found
    one = unpacked(store.get(pack_images(DIGITS, store)))
    assert one.name == "digits.npz"
    assert np.load(one)["images"].ndim == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no files"):
        pack_images(tmp_path / "empty", store)
    # Classes that are links are packed, and classes without images, but no folder twice.
    linked = tmp_path / "linked"
    (linked / "birds").mkdir(parents=True)
    (linked / "cats").symlink_to(tmp_path / "a" / "cats")
    (linked / "birds" / "again").symlink_to(linked)
    (linked / "dogs").mkdir()
    found = unpacked(store.get(pack_images(linked, store)))
    assert sorted(path.name for path in found.iterdir()) == ["birds", "cats", "dogs"]
    assert (found / "cats" / "1.png").read_bytes() == b"cat"


@pytest.mark.parametrize("file", ["/tmp/1.png", "../1.png", "cats/../../1.png"])
def test_labels_of_images_elsewhere_are_refused(file: str, store: Store, tmp_path: Path) -> None:
    """A job has the folder alone, and is named by what is in it."""
    labels = tmp_path / "labels.csv"
    labels.write_text(f"file,label\n./cats/../1.png,1\n{file},1\n")
    with pytest.raises(UsageError, match=f"names {file}, which is not within"):
        packed(Images(DIGITS, labels), store)


def test_no_space_is_not_called_an_image_that_cannot_be_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images.tar").symlink_to("/dev/full")
    monkeypatch.setattr(image_pack, "scratch_folder", lambda _: nullcontext(tmp_path))
    with pytest.raises(OSError, match="No space left on device"):
        pack_images(DIGITS, store)
