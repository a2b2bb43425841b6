"""The backend of microcontrollers: a C library for a Cortex-M, verified on an emulated board."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import tvm

from mbv3c.bundle import Bundle
from mbv3c.c_library.check import FilesParity
from mbv3c.costs.asking import Coster
from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Place
from mbv3c.execution.runners import Runnable
from mbv3c.job import Job
from mbv3c.lowering.describe import kernels_of, memory_of
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.onnx_import import check_operators
from mbv3c.lowering.qdq import read_pairs
from mbv3c.manifest import Manifest
from mbv3c.parity.gate.baseline import Footprint
from mbv3c.precision import Precision
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.target import Target
from mbv3c.targets.backend import Built
from mbv3c.targets.cpu.select_top import taken_in
from mbv3c.targets.library import building as libraries
from mbv3c.targets.library.again import Again
from mbv3c.targets.library.c_only import CLibraryBackend
from mbv3c.targets.library.manifest import LibraryTargetRecord
from mbv3c.targets.mcu import report
from mbv3c.targets.mcu.building import McuBuild, build, lower_quantized, tvm_target
from mbv3c.targets.mcu.devices import WING, McuOptions, McuTarget, read_options
from mbv3c.targets.mcu.kit import require_kit
from mbv3c.targets.mcu.manifest import McuManifest, c_library_of, manifest_of, record_of
from mbv3c.targets.mcu.runner import BoardRunner, described
from mbv3c.targets.mcu.verifying import checked_files


class McuBackend(CLibraryBackend):
    """Compiles for Cortex-M."""

    wing = WING
    manifest = McuManifest
    describe_compiled = report.describe_compiled
    describe_bundle = staticmethod(report.describe_bundle)

    def read_options(
        self, target: Target, given: Mapping[str, Any], *, explain: bool
    ) -> tuple[Target, object]:
        return target, read_options(_mcu(target), given)

    def check(self, job: Job, *, verify: bool) -> None:
        super().check(job, verify=verify)
        if verify:
            require_kit()

    def job_of(self, bundle: Bundle) -> Job:
        options = McuOptions(record_of(bundle).prefix, manifest_of(bundle).image.sram_budget_bytes)
        return replace(libraries.job_of(self, bundle), options=options)

    def lower_graph(self, graph: onnx.ModelProto, job: Job) -> Lowered:
        """Lower a rewritten graph with pairs of QuantizeLinear and DequantizeLinear.

        Raises:
            UnknownOperatorsError: TVM has no importer for some operators.
            ModelError: a node has no known shape, or TVM cannot lower it.
        """
        check_operators(graph, taken_in(graph))
        return lower_quantized(read_pairs(graph, wide=False), _mcu(job.target))

    def build(self, prepared: Prepared, lowered: Any, job: Job, folder: Path) -> Built:
        built = build(prepared, lowered, job, self.tools, folder)
        return Built(built, built.golden)

    def complete(self, manifest: Manifest, built: Built, job: Job) -> Manifest:
        made, target = built.details, _mcu(job.target)
        assert isinstance(made, McuBuild)
        record = LibraryTargetRecord(target.name, target.triple, target.cpu, target.cores)
        return McuManifest(
            **vars(manifest) | {"target": record},
            kernels=kernels_of(made.lowered),
            memory=memory_of(made.lowered),
            c_library=made.c_library,
            image=made.image,
        )

    @contextmanager
    def open(
        self,
        bundle: Bundle,
        progress: Progress,
        place: Place | None = None,
        *,
        stand_in: bool = True,
    ) -> Iterator[Runnable]:
        """Open the emulated board."""
        if place is not None:
            raise UsageError(
                f"{bundle.path} is for a microcontroller, which no RPC server runs; leave "
                "--device out"
            )
        target, kit = self.target_of(bundle), require_kit()
        runner = BoardRunner(kit, target, c_library_of(bundle), record_of(bundle).needs)
        yield Runnable(bundle.path, runner, described(target), True, manifest_of(bundle).kernels)

    def processor_for_tvm(self, bundle: Bundle) -> tvm.target.Target:
        return tvm_target(self.target_of(bundle))

    def files_again(self, bundle: Bundle, again: Again) -> FilesParity:
        return checked_files(bundle, again, self.target_of(bundle))

    def footprint(self, bundle: Bundle) -> Footprint:
        manifest, record = manifest_of(bundle), record_of(bundle)
        sizes = {
            "code_bytes": record.code_bytes,
            "constant_bytes": record.constant_bytes,
            "arena_bytes": record.arena_bytes,
            "flash_bytes": manifest.image.flash_bytes,
            "sram_bytes": manifest.image.sram_bytes,
        }
        return Footprint(1, sizes)

    def check_bench(self, bundle: Bundle) -> None:
        raise UsageError(
            f"nothing here times {bundle.manifest.target.name}; in a checkout `python -m "
            "benchmarks.mcu` counts the instructions of an inference on the emulated board"
        )

    def coster(self, target: Target, precision: Precision, place: Place | None = None) -> Coster:
        raise UsageError(
            f"nothing here tells what a layer costs on {target.name}: the emulated board counts "
            "whole inferences; `mbv3c inspect MODEL` counts multiply-adds by layer, and `mbv3c "
            f"compile MODEL --target {target.name}` says what of SRAM and flash it takes"
        )

    def target_of(self, bundle: Bundle) -> McuTarget:
        """Return the device that a bundle is for."""
        family, _, device = bundle.manifest.target.name.partition(":")
        return _mcu(self.wing.find(family, device))


def _mcu(target: Target) -> McuTarget:
    assert isinstance(target, McuTarget)
    return target


BACKEND = McuBackend()
