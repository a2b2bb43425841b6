"""The backend of Arm's Ethos-U by itself, or with `--artifact c` together with a Cortex-M.

Modules that need the NPU's tools are imported where the tools were looked for.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mbv3c.bundle import Bundle
from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Place
from mbv3c.execution.runners import Runnable
from mbv3c.feeds import Feed
from mbv3c.job import Job
from mbv3c.manifest import Manifest
from mbv3c.parity.gate.baseline import Footprint
from mbv3c.parity.ladder.climb import BackendStages
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.parity.verdict import Verdict
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.quantization.by_itself import OnDevice
from mbv3c.target import Target
from mbv3c.targets.backend import Built, Compiled, Description
from mbv3c.targets.ethos_u.backend import EthosUBackend
from mbv3c.targets.ethos_u.devices import NpuOptions
from mbv3c.targets.ethos_u.doctor import require_npu_tools
from mbv3c.targets.one_chip.record import OneChipManifest, firmware_of

if TYPE_CHECKING:
    from mbv3c.targets.one_chip.building import FirmwareBuilt


class NpuBackend(EthosUBackend):
    """Compiles for Ethos-U, and for a Cortex-M beside it what that does not compute."""

    manifest = OneChipManifest

    def read_options(
        self, target: Target, given: Mapping[str, Any], *, explain: bool
    ) -> tuple[Target, object]:
        npu, options = super().read_options(target, given, explain=explain)
        if isinstance(options, NpuOptions) and options.artifact:
            from mbv3c.targets.one_chip.board import host_of

            host_of(options.host)
        return npu, options

    def check(self, job: Job, *, verify: bool) -> None:
        super().check(job, verify=verify)
        if _is_one_chip(job):
            from mbv3c.targets.ethos_u.compiling import npu_of
            from mbv3c.targets.mcu.kit import require_kit
            from mbv3c.targets.one_chip.lowering import check_memories

            assert isinstance(job.options, NpuOptions)
            check_memories(npu_of(job), job.options)
            if verify:
                require_kit()

    def job_of(self, bundle: Bundle) -> Job:
        job, record = super().job_of(bundle), firmware_of(bundle)
        if record is None or not isinstance(job.options, NpuOptions):
            return job
        options = replace(
            job.options, float_io=False, prefix=record.prefix, artifact="c", host=record.host
        )
        return replace(job, options=options)

    def on_device(self, job: Job) -> OnDevice:
        if not _is_one_chip(job):
            return super().on_device(job)
        from mbv3c.targets.one_chip.lowering import on_device

        return partial(on_device, job)

    def lower(self, prepared: Prepared, job: Job, progress: Progress) -> Any:
        if not _is_one_chip(job):
            return super().lower(prepared, job, progress)
        from mbv3c.targets.one_chip.lowering import lower

        return lower(prepared, job, progress)

    def build(self, prepared: Prepared, lowered: Any, job: Job, folder: Path) -> Built:
        if not _is_one_chip(job):
            return super().build(prepared, lowered, job, folder)
        from mbv3c.targets.one_chip.building import build

        return Built(*build(prepared, lowered, job, self.tools, folder))

    def complete(self, manifest: Manifest, built: Built, job: Job) -> Manifest:
        if not _is_one_chip(job):
            return super().complete(manifest, built, job)
        from mbv3c.targets.one_chip.complete import complete

        made: FirmwareBuilt = built.details
        return complete(manifest, made, job)

    @contextmanager
    def open(
        self,
        bundle: Bundle,
        progress: Progress,
        place: Place | None = None,
        *,
        stand_in: bool = True,
    ) -> Iterator[Runnable]:
        """Open the interpreter of command streams, perhaps beside an emulated board."""
        if firmware_of(bundle) is None:
            with super().open(bundle, progress, place, stand_in=stand_in) as opened:
                yield opened
            return
        self.check_open(bundle, place)

        from mbv3c.targets.one_chip.runner import BESIDE, runner_of

        runner = runner_of(bundle)
        yield Runnable(bundle.path, runner, f"{runner.description}, {BESIDE}")

    def verify(
        self,
        bundle: Bundle,
        progress: Progress,
        place: Place | None = None,
        known: Prepared | None = None,
        inputs: list[Feed] | None = None,
    ) -> Verdict:
        if firmware_of(bundle) is None:
            return super().verify(bundle, progress, place, known, inputs)
        self._check_place(bundle, place)
        require_npu_tools()

        from mbv3c.targets.one_chip.verify import verify

        progress("comparing fp32, QDQ, TOSA and command streams, step by step")
        return verify(bundle, self.device_of(bundle), progress, inputs, again=known is None)

    def footprint(self, bundle: Bundle) -> Footprint:
        record = firmware_of(bundle)
        if record is None:
            return super().footprint(bundle)
        sizes = {
            "code_bytes": record.code_bytes,
            "constant_bytes": record.constant_bytes,
            "arena_bytes": record.arena_bytes,
            "flash_bytes": record.flash_bytes,
            "sram_bytes": record.sram_bytes,
        }
        return Footprint(1, sizes)

    def stages(
        self, bundle: Bundle, ladder: Ladder, progress: Progress, place: Place | None = None
    ) -> BackendStages:
        if firmware_of(bundle) is not None:
            raise UsageError(
                "a C library of NPU and CPU has no stages that run apart: `mbv3c verify` checks "
                "every part; the ladder is for a bundle without --artifact c"
            )
        return super().stages(bundle, ladder, progress, place)

    @staticmethod
    def describe_compiled(compiled: Compiled, *, explain: bool) -> Description:
        described = EthosUBackend.describe_compiled(compiled, explain=explain)
        return _with_firmware(compiled.bundle, described)

    @staticmethod
    def describe_bundle(bundle: Bundle) -> Description:
        described = EthosUBackend.describe_bundle(bundle)
        if firmware_of(bundle) is None or bundle.manifest.parity is None:
            return _with_firmware(bundle, described)
        from mbv3c.targets.one_chip.verdict import sentences

        lines = [*described.lines, *sentences(bundle.manifest.parity)]
        return _with_firmware(bundle, Description(lines, described.document))


def _with_firmware(bundle: Bundle, described: Description) -> Description:
    """Add what the C library takes, if there is one."""
    record = firmware_of(bundle)
    if record is None:
        return described
    parts = ", ".join(part.on.upper() for part in record.parts)
    needs = f"; it needs {', '.join(record.needs)}" if record.needs else ""
    lines = [
        *described.lines,
        f"C library {record.header}, {record.archive} for {record.host}: {parts}{needs}",
        f"flash: {record.flash_bytes:,} bytes; SRAM: {record.sram_bytes:,} bytes: arena "
        f"({record.arena_bytes:,}), inputs, outputs, and {record.stack_bytes:,} of stack",
    ]
    return Description(lines, {**described.document, "c_library": msgspec.to_builtins(record)})


def _is_one_chip(job: Job) -> bool:
    return isinstance(job.options, NpuOptions) and job.options.artifact == "c"


BACKEND = NpuBackend()
