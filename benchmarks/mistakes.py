"""What answers mistakes get: what was typed, how long the answer took, and its first line.

    python -m benchmarks.mistakes [--write]

Each mistake is a process of its own in a folder with a few files. It fails if a mistake is not
answered by an error in words, takes more than a second of processor time where nothing has to be
computed, or does not name its next step. `--write` puts the table into benchmarks/RESULTS.md.
"""

import argparse
import datetime
import os
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from benchmarks.results import replace_section
from mbv3c.execution.timing.latency import processor_name
from mbv3c.manifest import manifest_text
from tests.manifests import LIBRARY
from tests.onnx_text import graph

TITLE = "Answers to mistakes"
MOST_SECONDS = 1.0  # of processor time, where nothing has to be computed
_SHOWN = 150  # characters of an answer in the table


@dataclass(frozen=True)
class Mistake:
    """A command that is wrong.

    Attributes:
        typed: the arguments of mbv3c.
        step: words of the answer that name the next step.
        works: whether a model has to be read by its library, or a device to be asked, to find it.
    """

    typed: str
    step: str
    works: bool = False


MISTAKES = (
    Mistake("complie model.onnx --target rpi5", "compile"),
    Mistake("compile model.onnx", "all targets: `mbv3c targets`"),
    Mistake("compile model.onnx --traget rpi5", "--target"),
    Mistake("compile modle.onnx --target rpi5", "there is model.onnx"),
    Mistake("compile model.onnx --target armcpu", "nearest: arm_cpu"),
    Mistake("compile model.onnx --target rpi6", "nearest: rpi5"),
    Mistake("compile model.onnx --target arm_cpu:m99", "all: `mbv3c targets`"),
    Mistake("compile model.onnx --target rpi5 --precision int4", "known: fp32"),
    Mistake("compile model.onnx --target rpi5 --cores 0", "choose 1 to 64"),
    Mistake("compile model.onnx --target rpi5 -o photos", "--force"),
    Mistake("compile model.onnx --target rpi5 -o none/bundle", "none does not exist"),
    Mistake("compile weights.pt --target rpi5", "mbv3c build --weights weights.pt"),
    Mistake("compile net.tflite --target rpi5", "tf2onnx.convert --tflite net.tflite"),
    Mistake("compile photos --target rpi5", "name an ONNX file"),
    Mistake("compile bundle --target rpi5", "name an ONNX file"),
    Mistake("compile cut.onnx --target rpi5", "export it again", works=True),
    Mistake("compile open.onnx --target rpi5", "--input-shape 1,3,224,224", works=True),
    Mistake("build --variant medium -o m.onnx", "known: large, small"),
    Mistake("build --resolution 100 -o m.onnx", "choose 32 to 512"),
    Mistake("build --weights none.pth -o m.onnx", "no such file: none.pth"),
    Mistake("build --mean 1,2 -o m.onnx", "nor three with commas"),
    Mistake("quantize model.onnx -o q.onnx", "--calibration"),
    Mistake("quantize model.onnx -o q.onnx --calibration imgaes", "no such folder: imgaes"),
    Mistake("quantize model.onnx -o model.onnx --calibration photos", "--force"),
    Mistake("verify model.onnx", "mbv3c compile model.onnx"),
    Mistake("verify bundel", "there is bundle"),
    Mistake("verify bundle --device raspberrypi", "192.168.1.20:9090"),
    Mistake("verify bundle --secret secret", "--device"),
    Mistake(
        "verify bundle --images photos --max-accuracy-drop 1%",
        "no folders of classes, and no --labels",
    ),
    Mistake("run bundle", "--input"),
    Mistake("run bundle --input photo.jpg", "no such file or folder: photo.jpg"),
    Mistake("run bundle --input photos/broken.jpg", "replace or remove it", works=True),
    Mistake("bench bundle --against tensorrt", "known: onnxruntime"),
    Mistake("bench bundle --device 127.0.0.1:9 --pin huge", "big, little"),
    Mistake("train model.onnx --data none -o t.onnx", "no such file or folder: none"),
    Mistake("adapt model.onnx --target rpi5 --images photos -o a.onnx", "--budget"),
    Mistake("sweep grid.yml", "no such file: grid.yml"),
    Mistake("device serve --host 0.0.0.0", "openssl rand -hex 32"),
    Mistake("doctor --fetch=everything", "all"),
    Mistake("completion tcsh", "bash"),
)


@dataclass(frozen=True)
class Answer:
    """What a mistake got.

    Attributes:
        seconds, processor: time to the end of the command, and its processors' time.
        code: exit code.
        text: all that it said on stderr.
    """

    seconds: float
    processor: float
    code: int
    text: str

    @property
    def first(self) -> str:
        """The line with the error."""
        lines = [line for line in self.text.splitlines() if line.lower().startswith("error")]
        return (lines or self.text.splitlines() or [""])[0]

    def faults(self, mistake: Mistake) -> Iterator[str]:
        """Say what is wrong with it."""
        if self.code not in (1, 2) or "Traceback" in self.text:
            yield f"ends with {self.code}, or with a traceback"
        if mistake.step not in self.text:
            yield f"does not say {mistake.step!r}"
        if self.processor > MOST_SECONDS and not mistake.works:
            yield f"takes {self.processor:.1f} s of processor time"


def prepare(folder: Path) -> None:
    """Write the files of which the mistakes speak."""
    text = "g (float[{}, 3, 224, 224] x) => (float[{}, 3, 224, 224] y) {{ y = Relu(x) }}"
    onnx.save(graph(text.format(1, 1)), folder / "model.onnx")
    onnx.save(graph(text.format("N", "N").replace("224", "H", 1)), folder / "open.onnx")
    whole = (folder / "model.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    with zipfile.ZipFile(folder / "weights.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    (folder / "photos").mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "photos" / "x.png")
    (folder / "photos" / "broken.jpg").write_text("no image")
    (folder / "secret").write_text("0" * 64)
    (folder / "bundle").mkdir()
    (folder / "bundle" / "manifest.json").write_text(manifest_text(LIBRARY, {}))


def answer(typed: str, folder: Path) -> Answer:
    """Make a mistake."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "mbv3c", *shlex.split(typed)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    took = time.monotonic() - begun
    return Answer(took, usage.ru_utime + usage.ru_stime, process.returncode, text)


def table(answers: dict[Mistake, Answer]) -> str:
    """Return the section of RESULTS.md."""
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [
        f"{len(answers)} mistakes, each a process of its own, on {today} ({processor_name()}, "
        f"{os.cpu_count()} processors, Python {sys.version.split()[0]}): `python -m "
        f"benchmarks.mistakes --write`. The load average at the end was {os.getloadavg()[0]:.1f}; "
        "other work on the machine makes the seconds more.",
        "",
        "| typed | s | processor s | first line of the answer |",
        "|---|---:|---:|---|",
    ]
    for mistake, found in answers.items():
        first = found.first.removeprefix("error: ").replace("|", "\\|")
        shown = first if len(first) <= _SHOWN else f"{first[:_SHOWN]}…"
        lines.append(
            f"| `{mistake.typed}` | {found.seconds:.1f} | {found.processor:.2f} | {shown} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Make all mistakes, print the answers, and say which ones are not good enough."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    answers: dict[Mistake, Answer] = {}
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        answer("--help", folder)  # what is compiled and read for the first time is no answer's
        for mistake in MISTAKES:
            found = answers[mistake] = answer(mistake.typed, folder)
            print(f"$ mbv3c {mistake.typed}")
            print(f"  {found.seconds:.1f} s, {found.processor:.2f} s of processor: {found.first}")
            for fault in found.faults(mistake):
                faults.append(f"{mistake.typed}: {fault}")
                print(f"  FAULT: {fault}\n{found.text}")
    print(f"{len(answers)} mistakes, {len(faults)} faults")
    if write and not faults:
        replace_section(TITLE, table(answers))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
