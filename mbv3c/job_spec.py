"""A job in the words of a user: names, paths and options, checked before any work is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from mbv3c.ends.ends import NO_ENDS, Ends, check_frame
from mbv3c.ends.rewrite import with_ends
from mbv3c.errors import UsageError
from mbv3c.graphs.input_shapes import InputShape
from mbv3c.graphs.load import input_shapes_of
from mbv3c.graphs.narrow import STORED, Stored
from mbv3c.job import Job
from mbv3c.nearest import among
from mbv3c.precision import FP32, Precision, find_precision
from mbv3c.prepare import at_shapes
from mbv3c.progress import Progress
from mbv3c.quantization import options as quantizing
from mbv3c.quantization.calibration import folder_inputs
from mbv3c.quantization.calibration_files import WITHOUT_LIMIT, Sampling, find_files
from mbv3c.quantization.images import AS_THE_MODEL_SAYS, Overrides, with_preparing
from mbv3c.targets import backend_of, find_target, read_options
from mbv3c.tuning.choices import OWN, shipped

NO_TUNE_LOGS = Path("none")


@dataclass(frozen=True)
class JobSpec:
    """What to do with a model, in the words of a user; None where nothing was said.

    Attributes:
        target: FAMILY[:DEVICE].
        precision: the name of a precision; by default the backend's own.
        calibration: the folder with inputs that ranges are taken from.
        keep_float: layers that stay in fp32: for int8 as `quantize` takes it, for fp16 names and
            patterns.
        tune_logs: the folder of tuning databases, or `NO_TUNE_LOGS`; by default the user's own
            and those that are shipped.
        options: the options of the backends, by name.
        explain: whether to find out what other choices would cost.
        preparing: how images are prepared, which becomes part of the model.
        shapes: the shapes of the inputs for which to compile, each as `load_model` takes it; empty
            for those that the model has.
        ends: the inputs and outputs that the model is given; the default leaves them.
        sampling: how many of the files of `calibration` are taken.
    """

    target: str
    precision: str | None = None
    calibration: Path | None = None
    keep_float: str | None = None
    tune_logs: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    explain: bool = False
    preparing: Overrides = AS_THE_MODEL_SAYS
    shapes: Sequence[InputShape] = ()
    ends: Ends = NO_ENDS
    sampling: Sampling = WITHOUT_LIMIT

    def job(self, progress: Progress = lambda step: None) -> Job:
        """Return the job, but for its calibration, which needs the model.

        Raises:
            UsageError: the words do not go together, or the device does not compute so.
            DatabaseError: a tuning database is damaged.
        """
        target, options = read_options(
            find_target(self.target), self.options, explain=self.explain
        )
        backend = backend_of(target)
        precision, refusals = backend.wing.precisions[0], backend.wing.refusals
        if self.precision is not None:
            precision = find_precision(self.precision)
        if self.keep_float is not None and "keep_float" in refusals:
            raise UsageError(refusals["keep_float"].format(target=target.name))
        self._check_words(precision)
        backend.check_precision(target, precision)
        backend.check_shapes(target, len(self.shapes))
        quantize, names = None, tuple[str, ...]()
        if self.keep_float is not None and precision.quantized:
            kept = quantizing.parse_keep_float(self.keep_float)
            quantize = quantizing.from_given({"keep_float": kept})
        elif self.keep_float is not None:
            names = tuple(filter(None, self.keep_float.split(",")))
        if self.calibration is not None:
            find_files(self.calibration, self.sampling)
        choices = backend.choices(target, self._roots(), progress)
        shapes = tuple(self.shapes)
        if self.ends.frame is not None:
            check_frame(self.ends.frame)
        job = Job(target, precision, names, choices, None, quantize, options, shapes)
        return replace(
            job,
            ends=self.ends,
            preparing=self.preparing,
            dense_weights=self._dense_weights(precision),
        )

    def calibrated(self, job: Job, model: onnx.ModelProto) -> Job:
        """Return a job with the inputs that a model is calibrated on.

        Raises:
            CalibrationError: an input is broken, or does not fit the model.
        """
        if self.calibration is None:
            return job
        model = with_preparing(model, self.preparing)
        models = at_shapes(model, job.shapes) if job.shapes else [model]
        first, *others = (with_ends(each, job.ends) for each in models)
        shapes = [input_shapes_of(each) for each in (first, *others)] if job.shapes else []
        calibration = folder_inputs(first, self.calibration, shapes=shapes, sampling=self.sampling)
        return replace(job, calibration=calibration)

    def _check_words(self, precision: Precision) -> None:
        if not precision.quantized and self.calibration is not None:
            raise UsageError("--calibration is for --precision int8")
        if self.calibration is None and self.sampling != WITHOUT_LIMIT:
            raise UsageError("--calibration-limit and --calibration-seed belong to --calibration")
        if not precision.may_keep_float and self.keep_float is not None:
            raise UsageError("--keep-float is for --precision int8 and fp16")

    def _dense_weights(self, precision: Precision) -> Stored:
        given = self.options.get("dense_weights")
        if given is None:
            return ""
        stored = next((each for each in STORED if each == given), None)
        if stored is None:
            raise UsageError(f"unknown --dense-weights {given!r}{among(given, STORED)}")
        if precision != FP32:
            raise UsageError(
                f"--dense-weights is for --precision fp32, and {precision} stores its weights by "
                "itself: leave one of the two out"
            )
        return stored

    def _roots(self) -> tuple[Path, ...]:
        """Return the folders in which measured choices are looked for."""
        if self.tune_logs == NO_TUNE_LOGS:
            return ()
        if self.tune_logs is not None and not self.tune_logs.is_dir():
            raise UsageError(
                f"{self.tune_logs} is no folder of tuning databases; `mbv3c tune` writes one"
            )
        return self.tune_logs or OWN, shipped()
