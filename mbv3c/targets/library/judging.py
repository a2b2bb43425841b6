"""Judge what a program computed: against its reference, and beside the model as given."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from mbv3c.bundle import Bundle, Golden, read_bundled
from mbv3c.execution.runners import Runnable
from mbv3c.feeds import Array, Feed
from mbv3c.parity.compare import Parity, agreement, compare, share_at_ties, with_pooled_spread
from mbv3c.parity.golden import check_golden
from mbv3c.parity.halves import with_storing
from mbv3c.parity.in_float64 import golden_in_float64
from mbv3c.parity.inputs import USUAL_INPUTS
from mbv3c.parity.reference import ReferenceOutput, run_reference
from mbv3c.parity.stored import with_stored
from mbv3c.parity.tolerance import TOLERANCES, Tolerance
from mbv3c.precision import FP16, Precision
from mbv3c.prepare import Prepared, Reference, is_spelled_anew
from mbv3c.progress import Progress

ON_GIVEN = "running onnxruntime on the model as given"


def compared(
    bundle: Bundle,
    opened: Runnable,
    outputs: Sequence[Sequence[Array]],
    reference: Reference,
    seeded: Reference | None,
    graph: onnx.ModelProto | None = None,
    dense_weights: str = "",
) -> Parity:
    """Compare outputs with the reference, and the golden files with that on seeded inputs.

    `seeded` is None where the golden files were just written.

    In fp16 outputs that miss may be off by some times what storing `graph`, of which the program
    was made, in fp16 does to them. Where `dense_weights` are stored in another type, as in `Job`,
    they may be off by what that does to them, and by fp32's rounding.

    Raises:
        BundleError: a golden file is not what the reference says.
    """

    def against(references: Sequence[Sequence[ReferenceOutput]]) -> Parity:
        return compare(
            outputs,
            references,
            TOLERANCES[bundle.precision.name],
            ran_on=opened.ran_on,
            exact_program=opened.exact_program,
        )

    if dense_weights and graph is not None:
        outputs_so, found = with_stored(graph, dense_weights, reference.inputs, reference.outputs)
        parity = replace(against(outputs_so), stored=found)
    else:
        parity = against(reference.outputs)
    if bundle.precision == FP16 and graph is not None and not parity.passed:
        parity = against(with_storing(graph, reference.inputs, reference.outputs))
    if seeded is not None:
        check_golden(bundle, golden_from(seeded, bundle.precision, graph, dense_weights))
    return parity


def beside_given(
    parity: Parity,
    bundle: Bundle,
    outputs: Sequence[Sequence[Array]],
    reference: Reference,
    known: Prepared | None,
    inputs: list[Feed] | None,
    progress: Progress,
) -> Parity:
    """Add how far outputs agree with the model as given, where the reference is another model."""
    if not bundle.quantized and not is_spelled_anew(reference.model):
        return parity
    progress(ON_GIVEN)
    given = known.given if known else read_bundled(bundle.model)
    given_outputs = list(run_reference(given, reference.inputs))
    usual = USUAL_INPUTS if inputs is None else len(inputs)
    calibrated = [output.calibrated for output in reference.outputs[0]]
    return replace(parity, as_given=agreement(outputs, given_outputs, usual, calibrated))


def golden_from(
    reference: Reference,
    precision: Precision,
    graph: onnx.ModelProto | None = None,
    dense_weights: str = "",
) -> Golden:
    """Return the first input of the parity check, what onnxruntime makes of it, and tolerances.

    In fp16 they allow what `compared` allows outputs that would miss: a board cannot judge twice.
    `dense_weights` is as in `compared`.
    """
    tolerance = TOLERANCES[precision.name]
    pooled = with_pooled_spread(reference.outputs, tolerance)[0]
    if precision == FP16 and graph is not None:
        (pooled,) = with_storing(graph, reference.inputs[:1], [pooled])
    if dense_weights and graph is not None:
        (pooled,), _ = with_stored(graph, dense_weights, reference.inputs[:1], [pooled])
        pooled = [replace(one, rounding=one.rounding * _of_own(one)) for one in pooled]
    first = [golden_in_float64(output, tolerance) for output in pooled]
    return Golden(
        reference.inputs[0],
        [output.output for output, _ in first],
        [_of_own_range(output, tolerance, by_rounding) for output, by_rounding in first],
        [output.answers is not None for output, _ in first],
        [output.scales for output, _ in first],
    )


def _of_own_range(output: ReferenceOutput, tolerance: Tolerance, by_rounding: float) -> float:
    """Return what is allowed as a fraction of the range that boards compare by.

    That is the output's own, or that of each element. `by_rounding` is what rounding allows, of
    the range that errors are fractions of. Of labels the result is the share of those at ties.
    """
    if output.answers is not None:
        allowed = tolerance.allowed(output.spread, output.step, output.rounding)
        return share_at_ties(output, allowed)
    factor = _of_own(output)
    step = None if output.step is None else output.step * factor
    least = tolerance.allowed(0.0, step, output.rounding)
    return min(1.0, max(least, by_rounding * factor))


def _of_own(output: ReferenceOutput) -> float:
    """Return how many times the range that boards compare by fits into that of all inputs."""
    if output.answers is not None or output.scales is not None or not output.output.size:
        return 1.0
    own = float(np.ptp(output.output.astype(np.float64)))
    return output.span / own if own > 0 else 1.0
