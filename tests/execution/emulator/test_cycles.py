"""Estimated cycles of loops that can be worked out by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mbv3c.errors import ToolError
from mbv3c.execution.emulator.counting import Count, Functions, InstructionBlock
from mbv3c.execution.emulator.cycles import CycleEstimate, Estimator, estimate, joined
from mbv3c.execution.emulator.llvm import Llvm
from mbv3c.targets.cpu.backend import BACKEND

SUBS = 0xF1000421  # subs x1, x1, #1
LDADD = 0xF8200020  # ldadd x0, x0, [x1]: no model has atomics
NO_INSTRUCTION = 0xFFFFFFFF


def fmla(to: int) -> int:
    """Return fmla v<to>.4s, v30.4s, v31.4s."""
    return 0x4E20CC00 | 31 << 16 | 30 << 5 | to


def b_ne(instructions: int) -> int:
    return 0x54000001 | (instructions & 0x7FFFF) << 5


def loop(*body: int) -> tuple[int, ...]:
    return (*body, b_ne(-len(body)))


DEPENDENT = loop(*[fmla(0)] * 8)
INDEPENDENT = loop(*map(fmla, range(8)))


def cycles(llvm: Llvm, model: str, *words: int, times: int = 1) -> float:
    return estimate(Estimator(llvm, model), [InstructionBlock("", 0, times, words)]).total


def test_a_dependent_chain_waits_for_its_results(llvm: Llvm) -> None:
    """Cortex-A55: FMLA has a latency of 4 cycles; of others LLVM's model begins two at once."""
    assert cycles(llvm, "cortex-a55", *DEPENDENT) == 8 * 4
    assert cycles(llvm, "cortex-a55", *INDEPENDENT) == (8 + 1) / 2


def test_a_wide_core_begins_two_at_once(llvm: Llvm) -> None:
    """Neoverse N1 and Cortex-A76: two pipes take an FMLA each."""
    assert cycles(llvm, "neoverse-n1", *INDEPENDENT) == pytest.approx(4, rel=0.02)
    assert cycles(llvm, "neoverse-n1", *DEPENDENT) >= 8 * 2


def test_cycles_go_with_the_runs_of_a_block(llvm: Llvm) -> None:
    once = cycles(llvm, "cortex-a55", *DEPENDENT)
    assert cycles(llvm, "cortex-a55", *DEPENDENT, times=1000) == 1000 * once
    blocks = [InstructionBlock("", 0, 3, DEPENDENT), InstructionBlock("", 400, 5, INDEPENDENT)]
    both = estimate(Estimator(llvm, "cortex-a55"), blocks)
    assert both.total == 3 * both.cycles[0] + 5 * both.cycles[1]
    assert both == estimate(Estimator(llvm, "cortex-a55"), blocks)


@pytest.mark.parametrize("odd", [NO_INSTRUCTION, LDADD])
def test_what_is_not_understood_is_said(llvm: Llvm, odd: int) -> None:
    estimator = Estimator(llvm, "cortex-a55")
    blocks = [
        InstructionBlock("", 0, 7, (fmla(0), odd, *DEPENDENT)),
        InstructionBlock("", 400, 5, (odd, b_ne(4))),
    ]
    found = estimate(estimator, blocks)
    assert found.left_out == 7 + 5
    without = estimate(estimator, [InstructionBlock("", 0, 7, (fmla(0), *DEPENDENT))])
    assert found.cycles[0] == without.cycles[0]
    alone = estimate(estimator, [InstructionBlock("", 0, 9, (odd,))])
    assert (alone.cycles, alone.left_out) == ((0.0,), 9)


def test_nothing_costs_nothing(llvm: Llvm) -> None:
    assert estimate(Estimator(llvm, "cortex-a55"), []) == CycleEstimate((), (), 0)


def test_a_program_that_fails_is_named(llvm: Llvm) -> None:
    broken = replace(llvm, mca=(*llvm.mca, "-no-such-option"))
    with pytest.raises(ToolError, match=r"estimating cycles failed .* see to LLVM's programs"):
        estimate(Estimator(broken, "cortex-a55"), [InstructionBlock("", 0, 1, DEPENDENT)])


# ---- blocks ----


def test_a_block_that_the_emulator_cut_costs_as_the_whole(llvm: Llvm) -> None:
    estimator = Estimator(llvm, "neoverse-n1")
    whole = InstructionBlock("f", 64, 10, (*DEPENDENT[:-1], *INDEPENDENT))
    parts = [
        InstructionBlock("f", 64 + 4 * 11, 10, whole.words[11:]),
        InstructionBlock("f", 64, 10, whole.words[:5]),
        InstructionBlock("f", 64 + 4 * 5, 10, whole.words[5:11]),
    ]
    assert joined(parts) == [whole]
    assert estimate(estimator, parts) == estimate(estimator, [whole])


def test_a_block_that_several_lead_into_goes_to_each() -> None:
    """A loop that is entered in its middle: what is behind the cut ran for both."""
    first, again = (
        InstructionBlock("f", 0, 2, (SUBS,) * 4),
        InstructionBlock("f", 8, 30, (SUBS,) * 2),
    )
    rest = InstructionBlock("f", 16, 32, (SUBS, b_ne(-3)))
    found = joined([first, again, rest])
    assert found == [
        replace(first, words=first.words + rest.words),
        replace(again, words=again.words + rest.words),
    ]
    assert sum(one.executed for one in found) == first.executed + again.executed + rest.executed


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            InstructionBlock("f", 0, 2, (SUBS,)),
            InstructionBlock("f", 4, 3, (SUBS,)),
        ),  # also reached by a branch
        (InstructionBlock("f", 0, 2, (b_ne(1),)), InstructionBlock("f", 4, 2, (SUBS,))),
        (InstructionBlock("f", 0, 2, (SUBS,)), InstructionBlock("g", 4, 2, (SUBS,))),
        (InstructionBlock("f", 0, 2, (SUBS,)), InstructionBlock("f", 8, 2, (SUBS,))),
    ],
    ids=["branch to it", "branch from it", "other file", "elsewhere"],
)
def test_other_blocks_stay_apart(first: InstructionBlock, second: InstructionBlock) -> None:
    assert joined([first, second]) == [first, second]


def test_blocks_that_were_translated_twice_are_all_there() -> None:
    first = InstructionBlock("f", 0, 2, (SUBS,))
    twice = [InstructionBlock("f", 4, 2, (SUBS,)), InstructionBlock("f", 4, 2, (SUBS, SUBS))]
    assert joined([first, *twice]) == [first, *twice]


def test_a_long_loop_under_the_emulator_is_one_stretch(
    llvm: Llvm, counted: Callable[[str], Count]
) -> None:
    """The emulator cuts after some ninety instructions; the loop has 402, a chain of 400 FMLAs."""
    chain = "    fmla v0.4s, v30.4s, v31.4s\n" * 400
    found = counted(
        "    mov x1, #50\n    hint #100\n    b 1f\n"
        f"1:\n{chain}    subs x1, x1, #1\n    b.ne 1b\n    hint #101\n    b 2f\n2:\n"
    )
    assert max(len(block.words) for block in found.blocks) < 402
    estimated = estimate(Estimator(llvm, "cortex-a55"), found.blocks)
    longest = max(estimated.stretches, key=lambda one: one.executed)
    assert (longest.times, len(longest.words)) == (50, 402)
    assert estimated.total == pytest.approx(50 * 400 * 4, rel=0.001)
    assert estimated.left_out == 0


# ---- functions, targets ----


def test_cycles_go_to_their_function() -> None:
    library = Functions((0, 100), ("f", "g"))
    blocks = tuple(
        InstructionBlock(file, offset, times, (SUBS,))
        for file, offset, times in (
            ("/a/model.so", 0, 2),
            ("/a/model.so", 96, 1),
            ("/a/model.so", 104, 4),
            ("/a/libc.so", 0, 8),
        )
    )
    found = CycleEstimate(blocks, (1.5, 2.0, 0.5, 1.0), 0)
    assert found.by_function(library) == {"f": 5, "g": 2, "": 8}
    assert found.total == 15


@pytest.mark.parametrize(
    ("target", "model"),
    [
        ("arm_cpu:cortex-a76", "neoverse-n1"),
        ("arm_cpu:cortex-a55-android", "cortex-a55"),
        ("host_cpu:native", None),
    ],
)
def test_a_target_has_the_model_of_its_core(llvm: Llvm, target: str, model: str | None) -> None:
    found = BACKEND.estimator(BACKEND.wing.find(*target.split(":")))
    assert found == (Estimator(llvm, model) if model else None)
    if found:
        assert found.description == f"llvm-mca {llvm.version} with the model of {model}"
