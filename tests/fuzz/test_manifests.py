"""Manifests in which fields have other types or values: an error in words, or no harm.

    pytest tests/fuzz --seconds 3600 --fuzz-seed 7

goes on for an hour. Files keep their hashes; what is changed is manifest.json alone.
"""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import mbv3c
from tests.fuzz.changes import seeds

VALUES: tuple[Any, ...] = (
    None,
    -1,
    0,
    2**63,
    10**30,
    1e308,
    True,
    "",
    "x" * 5000,
    "../../etc/passwd",
    "/dev/zero",
    "\x1b[2J",
    [],
    {},
    [[]],
    [None],
    {"a": {}},
    [1, 2, 3, 4],
    "float64",
    "int8",
)
# What was found: each ended in a traceback, or passed with nothing compared.
SEEDS = (
    (("kernels", 6, "arguments", 1, "channels_last"), True),
    (("kernels", 4, "arguments", 2, "shape", 3), 10**30),
    (("kernels", 15, "arguments", 0, "dtype"), ""),
    (("parity", "kernels_alone"), [[]]),
    (("parity", "kernels_alone"), {}),
    (("files",), {}),
    (("files",), {"../../../etc/passwd": "0" * 64}),
)


@pytest.fixture(scope="module")
def bundle(blocks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a quantized bundle, whose kernels are checked one by one."""
    path = tmp_path_factory.mktemp("tampered") / "bundle"
    options = ("--target", "host_cpu", "--precision", "int8")
    done = mbv3c("compile", blocks_file, *options, "-o", path)
    assert done.returncode == 0, done.stderr
    return path


def places(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a document."""
    if above:
        yield above
    if not isinstance(document, dict | list):
        return
    for key in document if isinstance(document, dict) else range(len(document)):
        yield from places(document[key], (*above, key))


def put(document: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        document = document[key]
    document[place[-1]] = value


def try_all(bundle: Path, folder: Path, command: str) -> None:
    """Run a command on a bundle; a fault of mbv3c would be raised."""
    given: dict[str, tuple[object, ...]] = {
        "inspect": ("inspect", bundle),
        "verify": ("verify", bundle, "--trust"),
        "run": ("run", bundle, "--trust", "--input", bundle / "golden/input.npy", "--force"),
    }
    done = mbv3c(*given[command], *(["-o", folder / "y.npy"] if command == "run" else []))
    assert done.returncode in (0, 1, 2, 3), done.stderr
    assert (done.returncode == 0) == ("error: " not in done.stderr)


def tampered(bundle: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    return copy, json.loads((bundle / "manifest.json").read_text())


@pytest.mark.parametrize(("place", "value"), SEEDS, ids=lambda given: ascii(given)[:60])
def test_what_was_found_is_mended(
    place: tuple[Any, ...], value: Any, bundle: Path, tmp_path: Path
) -> None:
    copy, document = tampered(bundle, tmp_path)
    put(document, place, value)
    (copy / "manifest.json").write_text(json.dumps(document))
    for command in ("inspect", "verify"):
        try_all(copy, tmp_path, command)


def test_kernels_that_write_nothing_are_not_passed(bundle: Path, tmp_path: Path) -> None:
    copy, document = tampered(bundle, tmp_path)
    for kernel in document["kernels"]:
        for argument in filter(None, kernel["arguments"]):
            argument["writes"] = None
    (copy / "manifest.json").write_text(json.dumps(document))
    done = mbv3c("verify", copy, "--trust")
    assert done.returncode == 1
    assert "no kernel writes a tensor of the model; compile it again" in done.stderr


@pytest.mark.parametrize("missing", ["model.so", "model.onnx", "golden/output.npy"])
def test_a_bundle_without_one_of_its_files_is_none(
    missing: str, bundle: Path, tmp_path: Path
) -> None:
    copy, document = tampered(bundle, tmp_path)
    del document["files"][missing]
    (copy / missing).unlink()
    (copy / "manifest.json").write_text(json.dumps(document))
    done = mbv3c("verify", copy)
    assert done.returncode == 1
    assert f"{missing} is missing" in done.stderr


def test_any_change(bundle: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    copy, document = tampered(bundle, tmp_path)
    for seed in seeds(request.config):
        chosen, changed = random.Random(seed), json.loads(json.dumps(document))
        for _ in range(chosen.choice((1, 1, 2))):
            value = json.loads(json.dumps(chosen.choice(VALUES)))  # no list in itself
            put(changed, chosen.choice(list(places(changed))), value)
        (copy / "manifest.json").write_text(json.dumps(changed))
        try:
            try_all(copy, tmp_path, chosen.choice(("inspect", "verify", "run")))
        except Exception as error:
            pytest.fail(f"--fuzz-seed {seed} --seconds 1: {error!r}")
