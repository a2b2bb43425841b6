"""Run a library on an emulated processor."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.processes import require
from mbv3c.execution.runners import KernelCall, Made, check_names
from mbv3c.feeds import Array, Feed, numbered_files, save_feed, save_raw
from mbv3c.scratch import scratch_folder

_TIMEOUT = 600.0  # seconds per input; a Large takes a few


@dataclass(frozen=True)
class EmulatedRunner:
    """Runs under qemu-user through the program that a board uses."""

    kit: EmulatorKit
    cpu: str

    @property
    def description(self) -> str:
        return f"emulated {self.cpu}"

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        with scratch_folder("run") as folder:
            files = [(folder / f"in{i}.npy", folder / f"out{i}.npy") for i in range(len(inputs))]
            for x, (source, _) in zip(inputs, files, strict=True):
                save_feed(source, x)
            self._start(bundle, (), [path for pair in files for path in pair])
            written = set(folder.iterdir())
            return [
                [np.load(path) for path in takewhile(written.__contains__, numbered_files(first))]
                for _, first in files
            ]

    def run_kernels(self, bundle: Path, x: Feed, calls: Sequence[KernelCall]) -> list[Made]:
        with scratch_folder("run") as folder:
            save_feed(folder / "in.npy", x)
            for at, call in enumerate(calls):
                for place, array in call.given.items():
                    save_raw(folder / f"{at}.{place}.in", array)
                for place in call.wanted:
                    (folder / f"{at}.{place}.out").touch()
            self._start(
                bundle, ("--kernels", str(folder)), [folder / "in.npy", folder / "out.npy"]
            )
            check_names(bundle, (folder / "names").read_text().splitlines(), calls)
            return [
                {
                    place: np.fromfile(folder / f"{at}.{place}.out", dtype)
                    for place, dtype in call.wanted.items()
                }
                for at, call in enumerate(calls)
            ]

    def stream_command(self, bundle: Path) -> list[str]:
        return [*self.kit.command(self.cpu), "--stream", str(bundle)]

    def _start(self, bundle: Path, options: Sequence[str], files: Sequence[Path]) -> None:
        require(
            [*self.kit.command(self.cpu), *options, str(bundle), *map(str, files)],
            doing=f"running {bundle.name} on the {self.description}",
            remedy="`mbv3c doctor` checks the emulator",
            timeout=_TIMEOUT * len(files) / 2,
        )
