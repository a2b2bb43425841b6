"""What `mbv3c verify --dry-run` says."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3c.commands.dry_run import COMPILING, PREPARING, Plan, files_in, target_named, work_of
from mbv3c.door.formats import MANIFEST
from mbv3c.errors import BundleError, UsageError

if TYPE_CHECKING:
    from mbv3c.execution.times import Work


def verify_work(path: Path | None, given: dict[str, Any]) -> "Work":
    """Return what is verified: of a bundle's manifest only target and precision are read.

    Raises:
        BundleError: there is no manifest, or it does not say them.
    """
    from mbv3c.door.documents import read_json
    from mbv3c.door.files import Refused

    if path is None:
        return work_of("verify", str(given["check"].absolute()) if given["check"] else "")
    if path.is_file():
        target = target_named(given["target"])
        return work_of("ladder", str(path.absolute()), target, given["precision"] or "")
    try:
        document = read_json(path / MANIFEST)
        name, precision = str(document["target"]["name"]), str(document["precision"])
        return work_of("verify", str(path.absolute()), target_named(name), precision)
    except (OSError, Refused, KeyError, TypeError, UsageError) as error:
        raise BundleError(f"{path / MANIFEST} does not say what the bundle is: {error}") from error


def verify_plan(path: Path | None, own: Path | None, given: dict[str, Any], ladder: bool) -> Plan:
    """Say what `verify` would do.

    Args:
        path: the bundle, or with `ladder` a model; None for a file of outputs.
        own: the user's own inputs; None for seeded ones.
        given: the other options.
        ladder: whether it goes stage by stage.

    Raises:
        BundleError: the bundle does not say what it is.
    """
    work = verify_work(path, given)
    if path is None:
        return Plan(work, [f"judge the outputs in {given['check']} again"], ("numpy",))
    place = given["device"] or given["tracker"]
    where = f"on the device at {place}" if place else f"as {work.target} runs here"
    images, inputs = given["images"], own or given["images"]
    on = f"on {files_in(inputs) if inputs.is_dir() else inputs}" if inputs else "on seeded inputs"
    if ladder:
        steps = [f"compile {path} again, stage by stage, and compare each with onnxruntime"]
    elif images is not None:
        steps = [f"count the classes that onnxruntime and the bundle agree in, {on}, {where}"]
    else:
        steps = [f"run it {where}, {on}, and compare with onnxruntime", "every kernel by itself"]
    written = [given[name] for name in ("report", "html", "junit", "plot", "save_outputs")]
    output = next(filter(None, written), None)
    packages = COMPILING if ladder else (*PREPARING, "apache-tvm")
    return Plan(work, [f"check every file of {path}", *steps], packages, output)
