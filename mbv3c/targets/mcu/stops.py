"""Run every kernel of a C library by itself, on an emulated board.

The kernels of a library are hidden, but not from what is linked with it. So a program calls them
one after another as the library's own driver does, and before each it reads arguments from files,
and after each it writes those that are wanted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mbv3c.c_library.driver import constant_block
from mbv3c.c_library.memory import plan_flat_arena
from mbv3c.c_library.raw_pointers import raw_kernels
from mbv3c.execution.runners import KernelCall, Made, check_names
from mbv3c.feeds import Array, Feed, save_raw
from mbv3c.lowering.lower import Lowered
from mbv3c.scratch import scratch_folder
from mbv3c.targets.mcu.building import tvm_target
from mbv3c.targets.mcu.runner import BoardRunner

_INPUT, _GIVEN, _WANTED, _MADE = "in", "given", "wanted", "made"


@dataclass(frozen=True)
class StoppingRunner:
    """Runs a library, and its kernels one by one.

    Attributes:
        runner: runs the library.
        lowered: what the library was made of.
        alignment: of its arena and constants, in bytes.
    """

    runner: BoardRunner
    lowered: Lowered
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
        lowered, target = self.lowered, self.runner.target
        plan, prefix = lowered.plan, self.runner.library.prefix
        kernels = raw_kernels(lowered.module, tvm_target(target), prefix).kernels
        used = [kernels[name] for name in lowered.kernels]
        arena = plan_flat_arena(plan, [kernel.scratch for kernel in used], self.alignment)
        constants = constant_block(lowered, self.alignment)
        yield '#include "bare_metal.h"'
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
            pointers = ", ".join(["void *"] * (len(step.arguments) + len(kernel.scratch)))
            for segment in kernel.segments:
                yield f"void {segment.function}({pointers});"
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
                yield f"  {segment.function}({', '.join(called)});"
            yield from (f"  made{value}" for value in values)
        yield "  return 0;"
        yield "}"
