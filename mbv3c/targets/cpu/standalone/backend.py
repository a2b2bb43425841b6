"""The backend of cores for which TVM has no runtime: a C library, verified in an emulator."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import tvm

from mbv3c.bundle import Bundle
from mbv3c.c_library.again import check_library_files
from mbv3c.c_library.build import build_c_library
from mbv3c.c_library.check import FilesParity
from mbv3c.costs.asking import Coster
from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Place
from mbv3c.execution.emulator.cores import require_cores_kit
from mbv3c.execution.runners import Runnable
from mbv3c.job import Job
from mbv3c.lowering.describe import kernels_of, memory_of
from mbv3c.lowering.lower import Lowered
from mbv3c.manifest import Manifest
from mbv3c.parity.gate.baseline import Footprint
from mbv3c.precision import Precision
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.quantization.by_itself import OnDevice
from mbv3c.target import Target
from mbv3c.targets.backend import Built
from mbv3c.targets.cpu.artifact import C_SOURCE, ArtifactOptions, C, c_library_of, read_artifact
from mbv3c.targets.cpu.building import lower
from mbv3c.targets.cpu.cores import processor_of
from mbv3c.targets.cpu.devices import CORES as THREADS
from mbv3c.targets.cpu.devices import WING, CpuTarget
from mbv3c.targets.cpu.in_integers import computed_in_integers
from mbv3c.targets.cpu.precisions import require_precision
from mbv3c.targets.cpu.standalone.runner import LinuxRunner, described
from mbv3c.targets.library import building as libraries
from mbv3c.targets.library import report
from mbv3c.targets.library.again import Again
from mbv3c.targets.library.building import Library
from mbv3c.targets.library.c_only import CLibraryBackend
from mbv3c.targets.library.c_request import c_request, request_of
from mbv3c.targets.library.judging import golden_from
from mbv3c.targets.library.manifest import LibraryManifest, LibraryTargetRecord, manifest_of
from mbv3c.targets.library.target import tvm_target

_PLAIN = "arm_cpu:cortex-a53"  # its sources have vectors of 16 bytes, and no instructions


class StandaloneBackend(CLibraryBackend):
    """Compiles for cores with Linux, without a runtime."""

    wing = WING
    manifest = LibraryManifest
    describe_compiled = report.describe_compiled
    describe_bundle = staticmethod(report.describe_bundle)

    def read_options(
        self, target: Target, given: Mapping[str, Any], *, explain: bool
    ) -> tuple[Target, object]:
        artifact = given.get("artifact") or C
        options = read_artifact({**given, "artifact": artifact})
        if artifact == C_SOURCE:
            raise UsageError(
                f"--artifact {artifact} is not for {target.name}, whose C library needs none; C11 "
                f"for your own compiler is --target {_PLAIN} --artifact {artifact}, which any "
                "compiler takes for this core, too"
            )
        if artifact != C:
            raise UsageError(
                f"--artifact {artifact} is not for {target.name}: TVM has no runtime for it, and "
                "what is compiled is a C library, as with --artifact c"
            )
        cores = given.get("cores")
        if cores is None:
            return target, options
        THREADS.check(cores)
        return replace(_cpu(target), cores=cores), options

    def check_precision(self, target: Target, precision: Precision) -> None:
        super().check_precision(target, precision)
        require_precision(_cpu(target), precision, "choose --precision fp32 or int8")

    def check(self, job: Job, *, verify: bool) -> None:
        super().check(job, verify=verify)
        if verify:
            require_cores_kit(job.target.name)

    def job_of(self, bundle: Bundle) -> Job:
        options = ArtifactOptions(C, c_library_of(bundle).prefix)
        return replace(libraries.job_of(self, bundle), options=options)

    def on_device(self, job: Job) -> OnDevice | None:
        return computed_in_integers

    def lower_graph(self, graph: onnx.ModelProto, job: Job) -> Lowered:
        return lower(graph, processor_of(_cpu(job.target)), job)

    def build(self, prepared: Prepared, lowered: Lowered, job: Job, folder: Path) -> Built:
        target = _cpu(job.target)
        prefix = job.options.prefix if isinstance(job.options, ArtifactOptions) else ""
        golden = golden_from(prepared.reference, job.precision, prepared.graph, job.dense_weights)
        request = c_request(prepared, job, self.tools, prefix, golden)
        record = build_c_library(lowered, tvm_target(target), target.triple, request, folder)
        return Built(Library(lowered, {}, c_library=record), golden)

    def complete(self, manifest: Manifest, built: Built, job: Job) -> Manifest:
        made, target = built.details, _cpu(job.target)
        assert isinstance(made, Library)
        record = LibraryTargetRecord(target.name, target.triple, target.cpu, target.cores)
        return LibraryManifest(
            **vars(manifest) | {"target": record},
            kernels=kernels_of(made.lowered),
            memory=memory_of(made.lowered),
            c_library=made.c_library,
            without=target.without,
            dense_weights=job.dense_weights,
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
        """Open the emulator."""
        name = bundle.manifest.target.name
        if place is not None:
            raise UsageError(
                f"{bundle.path} is for {name}, on which no RPC server of mbv3c runs; leave "
                "--device out, and run c/test on the board"
            )
        target = self.target_of(bundle)
        runner = LinuxRunner(require_cores_kit(name), target, c_library_of(bundle))
        yield Runnable(bundle.path, runner, described(target), True, manifest_of(bundle).kernels)

    def processor_for_tvm(self, bundle: Bundle) -> tvm.target.Target:
        return tvm_target(self.target_of(bundle))

    def files_again(self, bundle: Bundle, again: Again) -> FilesParity:
        target, record = self.processor_for_tvm(bundle), manifest_of(bundle).c_library
        assert record is not None
        request = request_of(bundle, record.prefix)
        return check_library_files(bundle, record, again.lowered, target, request)

    def footprint(self, bundle: Bundle) -> Footprint:
        manifest = manifest_of(bundle)
        record = manifest.c_library
        assert record is not None
        sizes = {
            "code_bytes": record.code_bytes,
            "constant_bytes": record.constant_bytes,
            "arena_bytes": record.arena_bytes,
        }
        return Footprint(manifest.target.cores, sizes)

    def coster(self, target: Target, precision: Precision, place: Place | None = None) -> Coster:
        raise UsageError(
            f"nothing here tells what a layer costs on {target.name}: `mbv3c inspect MODEL` "
            "counts multiply-adds by layer, and of arm_cpu:cortex-a53 it is known"
        )

    def target_of(self, bundle: Bundle) -> CpuTarget:
        """Return the device that a bundle is for, with the cores that it was compiled for."""
        manifest = manifest_of(bundle)
        family, _, device = manifest.target.name.partition(":")
        return replace(_cpu(self.wing.find(family, device)), cores=manifest.target.cores)


def _cpu(target: Target) -> CpuTarget:
    assert isinstance(target, CpuTarget)
    return target


BACKEND = StandaloneBackend()
