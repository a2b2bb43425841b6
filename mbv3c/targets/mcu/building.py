"""Build the C library of a network for a Cortex-M, and learn what it takes of a chip."""

from dataclasses import dataclass
from pathlib import Path

import tvm

from mbv3c.bundle import Golden
from mbv3c.c_library.build import build_c_library
from mbv3c.c_library.record import CLibraryRecord
from mbv3c.c_library.run import library_in
from mbv3c.job import Job
from mbv3c.lowering.lower import Lowered, assembled
from mbv3c.lowering.qdq import QuantizedGraph
from mbv3c.prepare import Prepared
from mbv3c.scratch import scratch_folder
from mbv3c.targets.cpu.select_integers import select_quantized
from mbv3c.targets.library.c_request import c_request
from mbv3c.targets.library.judging import golden_from
from mbv3c.targets.mcu.devices import McuOptions, McuTarget
from mbv3c.targets.mcu.firmware import STACK_BYTES, image_sizes
from mbv3c.targets.mcu.kernels import McuKernels, processor_of
from mbv3c.targets.mcu.manifest import ImageRecord
from mbv3c.targets.mcu.memory import check_sram

ALIGNMENT = 16  # of the arena and of constants: a vector of Helium


@dataclass(frozen=True)
class McuBuild:
    """What was built.

    Attributes:
        lowered: the network.
        golden: an input and what the network makes of it.
        c_library: the library.
        image: what a program with it takes.
    """

    lowered: Lowered
    golden: Golden
    c_library: CLibraryRecord
    image: ImageRecord


def tvm_target(target: McuTarget) -> tvm.target.Target:
    """Say in TVM's terms what to generate code for: floats go in registers of the FPU."""
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": target.triple,
            "mcpu": target.cpu,
            "mfloat-abi": "hard",
            "num-cores": 1,
            "vector-width": 128,
        }
    )


def lower_quantized(graph: QuantizedGraph, target: McuTarget) -> Lowered:
    """Lower a quantized graph to kernels for a core.

    Raises:
        ModelError: a node has no known shape, or TVM cannot lower it.
    """
    processor = processor_of(target)
    return assembled(select_quantized(graph, processor, tvm_target(target), written=McuKernels))


def build(
    prepared: Prepared, lowered: Lowered, job: Job, tools: tuple[str, ...], folder: Path
) -> McuBuild:
    """Build the library into `folder`, and hold a program with it to the SRAM.

    Raises:
        UsageError: it takes more than it may.
        ToolError: a kernel calls TVM's runtime, or the compiler fails.
    """
    target, options = job.target, job.options
    assert isinstance(target, McuTarget)
    if not isinstance(options, McuOptions):
        options = McuOptions()
    golden = golden_from(prepared.reference, job.precision)
    request = c_request(prepared, job, tools, options.prefix, golden)
    record = build_c_library(
        lowered, tvm_target(target), target.triple, request, folder, ALIGNMENT
    )
    library = library_in(folder, record.prefix, request.manifest)
    budget = options.sram_bytes or target.sram_bytes
    with scratch_folder("image") as place:
        sizes = image_sizes(library, target, place, record.needs)
    check_sram(sizes, library, record.arena_bytes, budget, target)
    image = ImageRecord(sizes.flash_bytes, sizes.sram_bytes, STACK_BYTES, budget)
    return McuBuild(lowered, golden, record, image)
