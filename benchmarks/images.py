"""Show that `verify --images` counts right, in flat memory, however often it is interrupted.

    python -m benchmarks.images [--count 10000] [--broken 50] [--folder FOLDER] [--write]

Writes synthetic images of many formats, compiles a narrow MobileNetV3-Small for this machine, and
runs it over them: once undisturbed, with the memory of both processes watched, and once
interrupted by Ctrl-C and by a kill. Both reports must be the same, and the counts those of a plain
loop over the files.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from benchmarks.results import replace_section
from mbv3c.errors import ImageError
from mbv3c.execution.timing.latency import processor_name
from mbv3c.parity.reference import run, session
from mbv3c.quantization.images import preprocessing, read_image
from mbv3c.scratch import scratch_folder
from tests.image_files import FORMATS, LARGE, LARGE_EVERY, Made, make_images

TITLE = "Many images, some of them broken"
CLASSES = 10
RESOLUTION = 96

_SECONDS = 0.5  # between looks at the memory


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="images")
    parser.add_argument("--broken", type=int, default=50, help="of them")
    parser.add_argument("--folder", type=Path, help="where to work; kept, and used again")
    parser.add_argument("--write", action="store_true", help="put it into RESULTS.md")
    arguments = parser.parse_args()
    with _place(arguments.folder) as folder:
        return _show(folder, arguments.count, arguments.broken, arguments.write)


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with scratch_folder("images") as folder:
        yield folder


def _show(folder: Path, count: int, broken: int, write: bool) -> int:
    made = _images(folder, count, broken)
    bundle = _bundle(folder)
    for journal in folder.glob("*.jsonl"):
        journal.unlink()
    watched = _Watched()
    begin = time.monotonic()
    whole = _verify(bundle, folder, "whole", watched)
    seconds = time.monotonic() - begin
    stops = [
        f"{number.name} after {_interrupt(bundle, folder, number, at):,}"
        for number, at in ((signal.SIGINT, count // 3), (signal.SIGKILL, 2 * count // 3))
    ]
    resumed = _verify(bundle, folder, "resumed", _Watched())
    recount = _recount(folder, bundle)
    checks = {
        "the broken images are those that were broken": _listed(whole) == made.broken,
        "all others were read": whole["read"] == count - len(made.broken),
        f"onnxruntime is right {recount:,} times, as in a plain loop": _right(whole) == recount,
        f"interrupted ({', '.join(stops)}) and resumed: the same report": (
            _plain(resumed) == _plain(whole)
        ),
        "and the same list of images": (
            Path(resumed["list"]).read_bytes() == Path(whole["list"]).read_bytes()
        ),
    }
    verdicts = [f"- {'yes' if passed else 'NO'}: {check}" for check, passed in checks.items()]
    today = datetime.datetime.now(datetime.UTC).date()
    large = f"{LARGE[0]}x{LARGE[1]}"
    listed = "\n".join(verdicts)
    body = f"""\
{today}, {processor_name()}, {os.cpu_count()} processors. `python -m benchmarks.images`:
{count:,} synthetic images of {len(FORMATS)} kinds, 20 to 500 pixels a side, one in {LARGE_EVERY}
of {large}; {whole["broken"]} are broken. MobileNetV3-Small, width 0.35, {RESOLUTION} pixels,
random weights, for this machine. Undisturbed {seconds:.0f} s, {1e3 * seconds / count:.1f} ms each,
decoding and onnxruntime included, on a machine with other work. {whole["differing"]} images have
another best class.

Resident memory in MiB, looked at twice a second. All large images are in the last folder, so in
the last tenth, where what is above the others is one or two of them being decoded.

{watched.table(count)}

{listed}"""
    print(body)
    if write:
        replace_section(TITLE, body)
    return 0 if all(checks.values()) else 1


def _images(folder: Path, count: int, broken: int) -> Made:
    place, known = folder / "images", folder / "made.json"
    if known.is_file():
        found = json.loads(known.read_text())
        return Made(found["total"], frozenset(found["broken"]))
    print(f"writing {count} images, {broken} of them broken")
    made = make_images(place, count, broken, CLASSES)
    known.write_text(json.dumps({"total": made.total, "broken": sorted(made.broken)}))
    return made


def _bundle(folder: Path) -> Path:
    bundle, model = folder / "bundle", folder / "model.onnx"
    if not bundle.exists():
        options = ["--variant", "small", "--width", "0.35", "--resolution", str(RESOLUTION)]
        for command in (
            ["build", *options, "--classes", str(CLASSES), "-o", str(model), "--force"],
            ["compile", str(model), "--target", "host_cpu", "-o", str(bundle)],
        ):
            subprocess.run([sys.executable, "-m", "mbv3c", *command], check=True)
    return bundle


def _command(bundle: Path, folder: Path, name: str) -> list[str]:
    files = ["--journal", str(folder / f"{name}.jsonl"), "--list", str(folder / f"{name}.csv")]
    images = ["--images", str(folder / "images"), *files, "--json"]
    return [sys.executable, "-m", "mbv3c", "verify", str(bundle), *images]


def _verify(bundle: Path, folder: Path, name: str, watched: "_Watched") -> dict[str, Any]:
    with _started(_command(bundle, folder, name)) as process:
        with watched.watching(process.pid):
            events = threading.Thread(target=_follow, args=(process, watched.tell))
            events.start()
            assert process.stdout is not None
            text = process.stdout.read()
            events.join()
        if process.wait() != 0:
            raise SystemExit(f"verify ended with status {process.returncode}: {text}")
    found: dict[str, Any] = json.loads(text)
    return found


def _interrupt(bundle: Path, folder: Path, number: signal.Signals, at: int) -> int:
    """Run until so many images are done and send a signal; return how many the journal has."""

    def tell(done: int) -> None:
        if done >= at and process.poll() is None:
            process.send_signal(number)

    with _started(_command(bundle, folder, "resumed")) as process:
        _follow(process, tell)
    lines = (folder / "resumed.jsonl").read_text().splitlines()
    return len(lines) - 1


def _started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _follow(process: subprocess.Popen[str], tell: Callable[[int], None]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "progress":
            tell(event["done"])


class _Watched:
    """The resident memory of a process and of those that it started, over the images done."""

    def __init__(self) -> None:
        self._done, self._seen = 0, [(0, 0, 0)]

    def tell(self, done: int) -> None:
        self._done = done

    @contextmanager
    def watching(self, pid: int) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(_SECONDS):
                own, others = _resident(pid), sum(map(_resident, _children(pid)))
                if own and self._done:
                    self._seen.append((self._done, own, others))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def table(self, count: int) -> str:
        """Return the memory in each tenth of the images, in MiB."""
        lines = [
            "| images done | verify: median | largest | its worker: median | largest |",
            "|---|---|---|---|---|",
        ]
        for tenth in range(10):
            low, high = count * tenth // 10, count * (tenth + 1) // 10
            here = [one for one in self._seen if low <= one[0] < high and one[1] and one[2]]
            if here:
                sides = ([one[at] / 1024 for one in here] for at in (1, 2))
                cells = (f"{median(one):.0f} | {max(one):.0f}" for one in sides)
                lines.append(f"| {low:,} to {high:,} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _resident(pid: int) -> int:
    """Return KiB; 0 of a process that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(lines[0].split()[1]) if lines else 0


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _recount(folder: Path, bundle: Path) -> int:
    """Count in a plain loop on how many images onnxruntime is right."""
    model = onnx.load(bundle / "model.onnx")
    opened, prepared = session(model), preprocessing(model, (1, 3, RESOLUTION, RESOLUTION))
    right = 0
    for label in range(CLASSES):
        for path in sorted((folder / "images" / f"c{label}").iterdir()):
            try:
                x = read_image(path, prepared)
            except ImageError:
                continue
            right += int(run(opened, x[None])[0][0].argmax()) == label
    return right


def _right(document: dict[str, Any]) -> int:
    count: int = document["accuracy"]["given"]["top1"]["count"]
    return count


def _listed(document: dict[str, Any]) -> set[str]:
    lines = Path(document["list"]).read_text().splitlines()[1:]
    return {line.split(",")[0] for line in lines if not line.endswith(",")}


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out where the files are."""
    return {key: value for key, value in document.items() if key not in ("list", "journal")}


if __name__ == "__main__":
    sys.exit(main())
