"""Lower a graph to the kernels of a CPU, and build their library."""

import tempfile
from functools import partial
from pathlib import Path

import onnx
import tvm

from mbv3c.execution.link import link
from mbv3c.execution.native.build import objects_for
from mbv3c.execution.native.kernels import kernel_objects
from mbv3c.job import Job
from mbv3c.lowering.lower import VM_PASSES, Lowered, assembled
from mbv3c.lowering.onnx_import import check_operators
from mbv3c.lowering.program import calls_of, kernels_of, program_of
from mbv3c.lowering.qdq import read_pairs
from mbv3c.lowering.unchecked import MarkTrusted
from mbv3c.precision import FP32
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.guard import guarded
from mbv3c.targets.cpu.kernels import CpuKernels, select
from mbv3c.targets.cpu.select_integers import select_quantized
from mbv3c.targets.cpu.select_stored import stored_layers
from mbv3c.targets.cpu.select_top import taken_in
from mbv3c.targets.library.building import target_of
from mbv3c.targets.library.target import LibraryTarget, tvm_target


def lower(model: onnx.ModelProto, processor: Processor, job: Job) -> Lowered:
    """Lower a rewritten graph with fixed shapes to kernels.

    Args:
        model: the graph; in a quantized precision one with pairs of QuantizeLinear and
            DequantizeLinear.
        processor: what kernels must know of the processor that they are written for.
        job: the precision, what stays in fp32, the choices; and the resolved target, for which
            TVM compiles.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: a node has no known shape, or TVM cannot lower it.
    """
    check_operators(model, taken_in(model))
    target, dtype = tvm_target(target_of(job)), job.precision.dtype
    if job.precision.quantized:
        plan = select_quantized(read_pairs(model), processor, target, job.choices)
    else:
        products = job.precision.products if processor.bf16 else FP32.products
        plan = select(
            model,
            processor,
            target,
            dtype,
            job.keep_float,
            job.choices,
            partial(CpuKernels, products=products),
            stored_layers(model, job.dense_weights),
        )
    return assembled(plan)


def build(
    module: tvm.IRModule, target: LibraryTarget, output: Path, *, symbols: bool = False
) -> None:
    """Compile an assembled module and link it to the shared library `output`.

    `symbols` keeps the symbol table, which changes nothing else in the library.

    Raises:
        ToolError: the linker failed.
    """
    # The kernels are marked before their calls are the driver's.
    marked = tvm.transform.Sequential([MarkTrusted()])(module)
    program = program_of(marked)
    guard = guarded(calls_of(program), target)
    compiled_for = tvm_target(target)
    executable = tvm.compile(
        guard.module,
        target=compiled_for,
        relax_pipeline=tvm.transform.Sequential(VM_PASSES),
    )
    # The objects go beside the output: where that fits, they fit too.
    with tempfile.TemporaryDirectory(prefix="driver-", dir=output.parent) as place:
        folder = Path(place)
        kernels = kernel_objects(kernels_of(marked), compiled_for, folder)
        link(
            executable,
            target.triple,
            output,
            name=target.name,
            symbols=symbols,
            beside=guard.source,
            objects=[*objects_for(program, target.triple, folder), *kernels],
        )
