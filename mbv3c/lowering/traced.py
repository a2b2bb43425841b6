"""TVM's operators, each by the general schedule or by one that a search found.

    a function as TVM wrote it  →  the steps of a trace  →  a function as it runs

A trace is MetaSchedule's record of the steps that made a schedule: it names blocks and loops. So
it serves every function of one structure, whatever the function is called. TVM checks each step,
and a step moves work without changing what is computed. Steps that share a loop among the cores
are left out where there is one core, or little to do.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import tvm
from tvm.s_tir import Schedule, Trace
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from mbv3c.lowering.plan import DEFAULT, TUNED, Array, Choices, Kernel
from mbv3c.lowering.schedules import general

KIND = "fallback"  # of the steps that call TVM's operators

_FLOATS = ("float32", "float16")
_HASH_BITS = 64
_SHARE = "Parallel"  # the step that shares a loop among the cores
_SHOWN = 12  # digits of a digest


@dataclass(frozen=True)
class Workload:
    """What a tuning database knows one of TVM's operators by.

    Attributes:
        workload: TVM's structural hash of the function, in hexadecimal digits.
        arguments: element type and extents of every argument, for people.
    """

    workload: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Operator:
    """One of TVM's operators, as the shape of a kernel.

    Attributes:
        typical: what measurements are remembered under.
        dtype: element type of what it writes, float16 if anything is.
        turns: turns of the loops of all blocks.
        cores: cores that its loops are shared among.
        function: what TVM wrote, with long sums in parts, not scheduled.
    """

    typical: Workload
    dtype: str
    turns: int
    cores: int
    function: PrimFunc = field(compare=False, repr=False)


@dataclass(frozen=True)
class Traced:
    """The choice for one of TVM's operators.

    Attributes:
        trace: MetaSchedule's trace, as JSON; empty for the general schedule.
    """

    trace: str = ""

    def __str__(self) -> str:
        return f"the trace {digest(self.trace)}" if self.trace else "the general schedule"


def digest(trace: str) -> str:
    """Return digits that tell traces apart."""
    return hashlib.sha256(trace.encode()).hexdigest()[:_SHOWN]


def operator_of(function: PrimFunc, target: tvm.target.Target) -> Operator | None:
    """Return what a search must know of a function that TVM wrote.

    None for a function that has no schedule: its loops are in their final form, or in no blocks.
    """
    if not function.attrs or not function.attrs.get("s_tir", False):
        return None
    given = general.with_partial_sums(function).without_attr("global_symbol")
    turns = general.turns(given)
    if not turns:
        return None
    types = [str(parameter.dtype) for parameter in given.params]
    arguments = tuple(
        f"{dtype}{[int(extent) for extent in parameter.shape]}"
        for dtype, parameter in zip(types, given.params, strict=True)
    )
    workload = f"{structural_hash(given) % 2**_HASH_BITS:016x}"
    dtype = "float16" if "float16" in types else "float32"
    return Operator(Workload(workload, arguments), dtype, turns, general.cores_of(target), given)


def may_be_tuned(read: list[str], written: list[str]) -> bool:
    """Say whether contests can draw inputs of these types and compare outputs of those.

    Integers are left out: as indices, those that are drawn at random would lie outside.
    """
    return bool(read) and all(dtype in _FLOATS for dtype in (*read, *written))


def by_trace(operator: Operator, trace: str) -> PrimFunc:
    """Return an operator with the loops that a trace makes.

    Raises:
        ValueError: the trace does not apply to the function.
    """
    plan = Schedule(operator.function)
    try:
        steps, decisions = json.loads(trace)
        if not general.is_worth_sharing(operator.turns, operator.cores):
            # It is one of the last steps, behind all that a decision belongs to.
            steps = [step for step in steps if step[0] != _SHARE]
        Trace.apply_json_to_schedule([steps, decisions], plan)
    except Exception as error:  # a step of a trace raises whatever it meets
        lines = str(error).strip().splitlines() or [repr(error)]
        raise ValueError(f"{Traced(trace)} does not apply: {lines[0]}") from error
    return plan.mod["main"]


def write(operator: Operator, choices: Choices, constants: tuple[Array, ...] = ()) -> Kernel:
    """Write an operator as it was measured to be best, else by the general schedule.

    What was measured but does not apply is not used, and the kernel's `warning` says so.
    """
    knobs: dict[str, Any] | None = choices.find(KIND, operator)
    warning = ""
    if knobs is not None and knobs.get("trace"):
        tile = Traced(str(knobs["trace"]))
        try:
            function = by_trace(operator, tile.trace)
            return Kernel(function, constants, tile, operator, TUNED)
        except ValueError as error:
            warning = str(error)
    function = general.arranged(operator.function, operator.cores)
    return Kernel(function, constants, Traced(), operator, DEFAULT, warning)


def described(knobs: dict[str, Any], operator: str) -> dict[str, Any]:
    """Return the knobs of a kernel as a manifest lists them: of a trace its digest."""
    if not operator:
        return knobs
    trace = knobs.get("trace")
    return {"operator": operator, **({"trace": digest(trace)} if trace else {})}


def knobs_of(kernel: Kernel) -> dict[str, Any]:
    """Return the knobs of a kernel as a step holds them."""
    return {} if kernel.knobs is None else asdict(kernel.knobs)
