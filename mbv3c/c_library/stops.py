"""Run every kernel of a C library by itself.

The kernels of a library are hidden, but not from what is linked with it. So a program calls them
one after another as the library's own driver does, and before each it reads arguments from files,
and after each it writes those that are wanted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import tvm

from mbv3c.c_library.driver import constant_block
from mbv3c.c_library.memory import plan_flat_arena
from mbv3c.c_library.raw_pointers import raw_kernels
from mbv3c.c_library.run import CLibrary
from mbv3c.execution.runners import KernelCall, Made, check_names
from mbv3c.feeds import Array, Feed, save_raw
from mbv3c.lowering.lower import Lowered
from mbv3c.scratch import scratch_folder

_INPUT, _GIVEN, _WANTED, _MADE = "in", "given", "wanted", "made"


@runtime_checkable
class ProgramRunner(Protocol):
    """Links programs with a C library, and runs them.

    Attributes:
        library: the library.
        header: what a program includes to read and write files.
        description: name of what executes it, for reports.
    """

    @property
    def library(self) -> CLibrary: ...

    @property
    def header(self) -> str: ...

    @property
    def description(self) -> str: ...

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        """Run the library once per input and return the outputs of each.

        Raises:
            ToolError: it fails.
        """

    def linked(self, folder: Path, source: str = "") -> Path:
        """Link a program with the library; by default one that runs it on files."""

    def start(self, program: Path, inputs: Sequence[Feed], folder: Path) -> None:
        """Run a program in `folder`, in which it finds the inputs.

        Raises:
            ToolError: it fails, or takes too long.
        """


@dataclass(frozen=True)
class StoppingRunner:
    """Runs a library, and its kernels one by one.

    Attributes:
        runner: runs the library.
        lowered: what the library was made of.
        target: its processor, for TVM.
        alignment: of its arena and constants, in bytes.
    """

    runner: ProgramRunner
    lowered: Lowered
    target: tvm.target.Target
    alignment: int

    @property
    def description(self) -> str:
        return self.runner.description

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        return self.runner.run(bundle, inputs)

    def run_kernels(self, bundle: Path, x: Feed, calls: Sequence[KernelCall]) -> list[Made]:
        check_names(bundle, self.lowered.kernels, calls)
        with scratch_folder("stops") as folder:
            program = self.runner.linked(folder, self._source())
            for at, call in enumerate(calls):
                for place, array in call.given.items():
                    save_raw(folder / f"{at}.{place}.{_GIVEN}", array)
                for place in call.wanted:
                    (folder / f"{at}.{place}.{_WANTED}").touch()
            self.runner.start(program, [x], folder)
            return [
                {
                    place: np.fromfile(folder / f"{at}.{place}.{_MADE}", dtype)
                    for place, dtype in call.wanted.items()
                }
                for at, call in enumerate(calls)
            ]

    def _source(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        """Write the program."""
        lowered = self.lowered
        plan, prefix = lowered.plan, self.runner.library.prefix
        kernels = raw_kernels(lowered.module, self.target, prefix).kernels
        used = [kernels[name] for name in lowered.kernels]
        arena = plan_flat_arena(plan, [kernel.scratch for kernel in used], self.alignment)
        constants = constant_block(lowered, self.alignment)
        yield "#include <stdint.h>"
        yield f'#include "{self.runner.header}"'
        yield f"extern const unsigned char {prefix}_weights[];"
        yield f"static _Alignas(64) unsigned char arena[{max(1, arena.bytes)}];"
        ends = dict[str, str]()
        for kind, names in (("in", plan.inputs), ("out", plan.outputs)):
            for number, name in enumerate(names):
                if name not in ends:
                    ends[name] = f"{kind}_{number}"
                    size = plan.values[name].bytes
                    yield f"static _Alignas(64) unsigned char {ends[name]}[{max(1, size)}];"
        for name, kernel in kernels.items():
            step = plan.steps[lowered.kernels.index(name)]
            pointers = ["void *"] * (len(step.arguments) + len(kernel.scratch))
            for segment in kernel.segments:
                taken = [*pointers, *(["int64_t"] * 2 if segment.turns else ())]
                yield f"void {segment.function}({', '.join(taken)});"
        yield "static void given(int at, int place, void *data, size_t bytes) {"
        yield f'  load_file(file_name(at, place, "{_GIVEN}"), data, bytes);'
        yield "}"
        yield "static void made(int at, int place, const void *data, size_t bytes) {"
        yield f'  if (load_file(file_name(at, place, "{_WANTED}"), NULL, 0))'
        yield f'    save_file(file_name(at, place, "{_MADE}"), data, bytes);'
        yield "}"
        yield "int main(void) {"
        for number, name in enumerate(plan.inputs):
            data = f"{ends[name]}, {plan.values[name].bytes}"
            yield f'  if (!load_file(file_name(0, {number}, "{_INPUT}"), {data})) return 1;'
        for at, (step, kernel) in enumerate(zip(plan.steps, used, strict=True)):
            values, called = list[str](), list[str]()
            for place, argument in enumerate(step.arguments):
                if isinstance(argument, str):
                    pointer = ends.get(argument) or f"arena + {arena.offsets[argument]}"
                    size = plan.values[argument].bytes
                    values.append(f"({at}, {place}, {pointer}, {size});")
                    called.append(pointer)
                else:
                    offset = constants.offsets[at][place]
                    called.append(f"(void *)({prefix}_weights + {offset})")
            called += [f"arena + {arena.offsets[at, i]}" for i in range(len(kernel.scratch))]
            yield from (f"  given{value}" for value in values)
            for segment in kernel.segments:
                turns = ["0", str(segment.turns)] if segment.turns else []
                yield f"  {segment.function}({', '.join([*called, *turns])});"
            yield from (f"  made{value}" for value in values)
        yield "  return 0;"
        yield "}"
