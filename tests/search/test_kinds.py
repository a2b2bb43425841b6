"""Each kind of job by itself, on digits."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.jobs.job import KINDS, Job
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress
from mbv3c.search import kinds
from mbv3c.search.grid import Images
from mbv3c.search.kinds import PackedImages, compile_job, cost_job, evaluate_job, packed, train_job
from mbv3c.training.examples import open_examples
from mbv3c.training.plan import TrainPlan

DIGITS = Path(__file__).parents[1] / "data" / "digits.npz"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("kinds") / "store")


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return build_model(ModelSpec("small", width=0.35, resolution=32, classes=10))


@pytest.fixture(scope="module")
def images(store: Store) -> PackedImages:
    return packed(Images(DIGITS, test=0.1, limit=300), store)


def silent(text: str) -> None:
    pass


def do(job: Job, store: Store, folder: Path, progress: Progress = silent) -> dict[str, object]:
    """Do a job in this process, as its child process would."""
    module, _, name = KINDS[job.kind].function.partition(":")
    assert module == kinds.__name__
    folder.mkdir()
    files = {each: store.get(digest) for each, digest in job.files.items()}
    options = json.loads(json.dumps(job.options))
    return json.loads(json.dumps(getattr(kinds, name)(options, files, folder, progress)))


def test_a_network_is_trained_and_its_accuracy_is_measured(
    store: Store, network: onnx.ModelProto, images: PackedImages, tmp_path: Path
) -> None:
    given = store.put(network.SerializeToString(deterministic=True))
    job = train_job(given, images, TrainPlan(steps=4, batch=32), "digits")
    trained = do(job, store, tmp_path / "train")
    assert trained["part"] == "test"
    assert {path.name for path in (tmp_path / "train").iterdir() if path.name[0] != "."} == {
        "model.onnx",
        "right.npy",
    }
    model = store.put(tmp_path / "train" / "model.onnx")
    evaluated = do(evaluate_job(model, images, "digits"), store, tmp_path / "evaluate")
    assert evaluated["accuracy"] == trained["accuracy"]
    right = [np.load(tmp_path / kind / "right.npy") for kind in ("train", "evaluate")]
    assert np.array_equal(*right)
    assert evaluated["accuracy"]["of"] == len(right[0])  # type: ignore[index]


def test_int8_is_calibrated_on_training_images(network: onnx.ModelProto, tmp_path: Path) -> None:
    examples = open_examples(DIGITS, network, limit=100)
    kinds._write_inputs(examples, tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 64
    first, last = (np.load(path) for path in (paths[0], paths[-1]))
    assert first.shape == (1, 3, 32, 32)
    count = examples.count("train")
    wanted = examples.batch("train", np.array([0, count - 1]))
    assert np.array_equal(first[0].transpose(1, 2, 0), wanted[0])
    assert np.array_equal(last[0].transpose(1, 2, 0), wanted[1])


def test_what_a_target_does_not_compute_is_a_result(
    store: Store, network: onnx.ModelProto, tmp_path: Path
) -> None:
    given = store.put(network.SerializeToString(deterministic=True))
    job = compile_job(given, "arm_cpu:cortex-a72", "fp16", None, "digits")
    assert "fp16" in str(do(job, store, tmp_path / "compile")["refused"])
    assert not list((tmp_path / "compile").iterdir())
    asked = do(
        cost_job([given, given], "arm_cpu:cortex-a72", "fp16", "x"), store, tmp_path / "cost"
    )
    networks = asked["networks"]
    assert isinstance(networks, list)
    assert ["fp16" in one["refused"] for one in networks] == [True, True]
    timed = do(cost_job([given], "host_cpu", "fp32", "x"), store, tmp_path / "timed")
    assert "times, which are not taken beside other work" in str(timed["networks"])
