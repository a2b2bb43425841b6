"""Tuning for an NPU: nothing is lost by what is not asked, and `compile` takes what was found."""

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.errors import EXIT_USAGE
from mbv3c.targets import find_target
from mbv3c.targets.ethos_u import vela as ethos_u
from mbv3c.targets.ethos_u.compiling import lowering
from mbv3c.targets.ethos_u.devices import Knobs, NpuOptions, canonical, every_choice, memories
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.placement import npu_part
from mbv3c.targets.ethos_u.tuning.choose import better_choice, fastest
from mbv3c.targets.ethos_u.tuning.estimates import (
    FAILED,
    OK,
    OVERSHOT,
    Estimate,
    Lowered,
    NothingEstimatedError,
    estimates_for,
    explore,
    front,
    key_of,
    needless,
    of_network,
    walk,
)
from mbv3c.tuning.database import META, RECORDS
from tests.command_line import command_line, document, mbv3c

U55 = find_target("npu:ethos-u55-256")
# Small of 96 pixels takes 41 to 64 KiB.
ARENAS = tuple(kib << 10 for kib in (32, 36, 44, 56, 96))
NO_NETWORK = Lowered("net", {"pool": b"no network"})
DEVICE = ("--target", "npu:ethos-u55-256")


def printed_by(*arguments: object) -> dict[str, Any]:
    return document(mbv3c(*arguments, "--json"))


def tosa_of(quantized: onnx.ModelProto, mean: str = "pool") -> bytes:
    return npu_part(partition(quantized, lowering(mean, U55))).tosa


def made(sram: int, cycles: int, knobs: Knobs | None = None, outcome: str = OK) -> Estimate:
    chosen = (knobs or Knobs()).to_json()
    return Estimate("key", "net", chosen, outcome, cycles, cycles / 5e5, sram, 0, 1 << 20)


def silent(line: str) -> None:
    pass


def test_what_is_not_asked_loses_nothing(quantized: onnx.ModelProto, tmp_path: Path) -> None:
    tosa = tosa_of(quantized)
    database = estimates_for(tmp_path, U55)
    found = explore(Lowered("net", {"pool": tosa}), U55, database, arenas=ARENAS, report=silent)
    assert found.skipped
    assert found.same > 0

    def asked(knobs: Knobs) -> tuple[Knobs, Estimate]:
        cost, kept = ethos_u.estimate(tosa, U55, knobs)
        # An arena that vela ignores cannot be overshot.
        ignored = canonical(knobs, U55).arena_cache_size is None
        outcome = OK if kept or ignored else OVERSHOT
        return knobs, made(cost.sram_bytes, cost.cycles, knobs, outcome)

    choices = [one for one in every_choice(U55, ARENAS) if one.mean == "pool" and one.memory_mode]
    with ThreadPoolExecutor(2) as pool:
        every = dict(pool.map(asked, choices))
    results = {one.rank for one in found.known.values()}
    assert {one.rank for one in every.values() if one.outcome == OK} <= results
    for knobs, one in every.items():
        same = found.known.get(canonical(knobs, U55))
        assert same is None or (same.rank, same.outcome) == (one.rank, one.outcome)
    for name in ("Shared_Sram", "Sram_Only"):
        wanted, got = (
            [one.rank for one in front(e for k, e in ones.items() if memories(k, U55) == name)]
            for ones in (every, found.known)
        )
        assert wanted == got
        assert len(got) > 1
    assert len(found.known) < len(every) / 2


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    ones = [made(sram, cycles) for sram, cycles in pairs]
    found = {one.rank for one in front(ones)}
    beaten = {
        one.rank
        for one in ones
        if any(
            other.rank != one.rank
            and all(a <= b for a, b in zip(other.rank, one.rank, strict=True))
            for other in ones
        )
    }
    assert found == {one.rank for one in ones} - beaten
    assert len(front(ones)) == len(found)


def test_what_failed_or_overshot_is_on_no_front() -> None:
    failed = Estimate("key", "net", Knobs().to_json(), FAILED, said="vela failed")
    ones = [made(9, 9), made(1, 1, outcome=OVERSHOT), failed]
    assert front(ones) == ones[:1]


def test_arenas_that_change_nothing_are_skipped_and_others_are_not() -> None:
    def at(kib: int | None, **more: Any) -> Knobs:
        return Knobs(arena_cache_size=None if kib is None else kib << 10, **more)

    known = {
        at(None): made(300 << 10, 100, at(None)),
        at(256): made(250 << 10, 110, at(256)),
        at(128): made(200 << 10, 120, at(128), OVERSHOT),
        at(None, mean="pool"): made(100 << 10, 90, at(None, mean="pool")),
    }
    assert (
        needless(at(512), known) == "512 KiB is no limit: with no limit the network took 300 KiB"
    )
    assert "with 256 KiB the network took 250 KiB" in needless(at(252), known)
    assert needless(at(64), known) == "64 KiB cannot be kept: asked for 128 KiB, vela took 200 KiB"
    for knobs in (
        at(None),
        at(192),
        at(240),
        at(299),
        at(512, optimise="Size"),
        at(64, mean="pool"),
    ):
        assert needless(knobs, known) == ""


def test_the_walk_begins_with_the_default_and_takes_large_arenas_first() -> None:
    for name in ("npu:ethos-u55-256", "npu:ethos-u65-256", "npu:ethos-u85-256"):
        target = find_target(name)
        choices = walk(target)
        assert choices[0] == canonical(Knobs(), target)
        assert len(set(choices)) == len(choices)
        assert set(choices) == {canonical(one, target) for one in every_choice(target)}
        for mode in (None, "Shared_Sram", "Sram_Only"):
            own = [one for one in choices[1:] if one.memory_mode == mode]
            sizes = [one.arena_cache_size or 1 << 30 for one in own]
            assert sizes == sorted(sizes, reverse=True)


def test_the_fastest_that_fits_keeps_what_was_asked_for() -> None:
    choices = {
        Knobs(): (400, 100),
        Knobs(mean="pool"): (400, 90),
        Knobs("Size"): (200, 105),
        Knobs("Size", mean="pool"): (200, 95),
        Knobs(memory_mode="Sram_Only"): (100, 10),
    }
    known = {knobs: made(*pair, knobs) for knobs, pair in choices.items()}

    def best(pinned: Sequence[str] = (), sram: int | None = None, **asked: Any) -> Knobs | None:
        found = fastest(known, Knobs(**asked), pinned, U55, sram)
        return found.chosen if found else None

    assert best() == Knobs(mean="pool")
    assert best(sram=300) == Knobs("Size", mean="pool")
    assert best(["mean"], 300) == Knobs("Size")
    assert best(["mean", "optimise"]) == Knobs()
    assert best(sram=150) is None
    assert best(memory_mode="Sram_Only") == Knobs(memory_mode="Sram_Only")
    assert best(system_config="Ethos_U55_Deep_Embedded") is None


def test_a_network_that_vela_cannot_read_is_an_error(tmp_path: Path) -> None:
    database = estimates_for(tmp_path, U55)
    with pytest.raises(NothingEstimatedError, match="vela failed on every choice"):
        explore(NO_NETWORK, U55, database, trials=1, report=silent)
    assert [one.outcome for one in database.records()] == [FAILED]


@pytest.fixture(scope="module")
def logs(blocks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database that a run which was killed began, and another one went on with."""
    root = tmp_path_factory.mktemp("tuned") / "logs"
    command = command_line("tune", blocks_file, *DEVICE, "--database", root)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = any(" 2 of " in line for line in process.stderr)
        process.kill()
    assert seen
    first = estimates_for(root, U55).records()
    assert len(first) >= 2
    printed = printed_by(
        *("tune", blocks_file, *DEVICE, "--database", root, "--trials", 4 - len(first))
    )
    assert printed["estimated"] == 4 - len(first)
    assert printed["known"] == 4
    assert printed["stopped"] == f"--trials {4 - len(first)}"
    records = estimates_for(root, U55).records()
    assert records[: len(first)] == first
    assert len({(one.key, one.chosen) for one in records}) == 4
    return root


def test_records_are_those_of_vela(logs: Path) -> None:
    records = estimates_for(logs, U55).records()
    assert [(one.chosen.optimise, one.chosen.mean) for one in records] == [
        ("Performance", "depthwise"),
        ("Performance", "pool"),
        ("Size", "depthwise"),
        ("Size", "pool"),
    ]
    assert len({one.key for one in records}) == 2
    assert records[1].rank[0] < records[0].rank[0]


def test_compile_takes_the_best_and_says_so(logs: Path, blocks_file: Path, tmp_path: Path) -> None:
    own, bundle = tmp_path / "own", tmp_path / "tuned"
    arguments = ("compile", blocks_file, *DEVICE)
    plain = printed_by(*arguments, "--tune-logs", "none", "--no-verify", "-o", own)
    assert plain["tuned"] is None
    assert plain["knobs"] == Knobs().to_json()
    tuned = printed_by(*arguments, "--tune-logs", logs, "-o", bundle)
    assert tuned["parity"]["passed"]
    assert tuned["knobs"]["mean"] == "pool"
    known = fastest(
        {one.chosen: one for one in estimates_for(logs, U55).records()}, Knobs(), (), U55, None
    )
    assert known is not None
    assert (tuned["cost"]["cycles"], tuned["cost"]["sram_bytes"]) == known.rank
    assert tuned["cost"]["cycles"] < plain["cost"]["cycles"] == tuned["tuned"]["default_cycles"]
    assert "tuned: " in mbv3c("inspect", bundle).stdout


def test_a_pinned_choice_stays_and_nothing_slower_is_taken(
    logs: Path, blocks_file: Path, tmp_path: Path
) -> None:
    arguments = ("compile", blocks_file, *DEVICE, "--no-verify", "--tune-logs", logs)
    kept = printed_by(
        *arguments, "--mean", "depthwise", "--optimise", "performance", "-o", tmp_path / "a"
    )
    assert (kept["tuned"], kept["knobs"]) == (None, Knobs().to_json())


def test_a_database_of_another_vela_is_not_used(logs: Path) -> None:
    meta = logs / "npu" / U55.device / META
    contents = meta.read_text()
    said: list[str] = []
    try:
        meta.write_text(contents.replace('"vela": "', '"vela": "0.'))
        assert better_choice(lambda mean: b"", U55, NpuOptions(), (logs,), said.append) is None
    finally:
        meta.write_text(contents)
    assert "ethos-u-vela 0." in said[0]
    assert "not used; tune again" in said[0]


def test_estimates_of_another_network_are_not_used(logs: Path) -> None:
    records = estimates_for(logs, U55).records()
    assert of_network(records, {"pool": key_of(b"another"), "depthwise": ""}) == {}
    options = NpuOptions()
    assert better_choice(lambda mean: mean.encode(), U55, options, (logs,), silent) is None


def test_files_in_and_out(logs: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "out.json", tmp_path / "other"
    assert "4 records" in mbv3c("tune", *DEVICE, "--database", logs, "--export", file).stdout
    done = mbv3c("tune", *DEVICE, "--database", other, "--import", file, "--status")
    assert "4 of 4 records added" in done.stdout
    assert "in 2 forms: 4 choices (4 ok)" in done.stdout
    assert estimates_for(other, U55).records() == estimates_for(logs, U55).records()
    wrong = mbv3c("tune", "--target", "npu", "--database", other, "--import", file)
    assert "was measured for npu:ethos-u55-256" in wrong.stderr
    meta = other / "npu" / U55.device / META
    meta.write_text(meta.read_text().replace('"vela": "', '"vela": "0.'))
    done = mbv3c("tune", *DEVICE, "--database", other, "--prune", "--status")
    assert "4 records of npu:ethos-u55-256" in done.stdout
    assert "nothing was estimated" in done.stdout
    assert not (other / "npu" / U55.device / RECORDS).exists()


def test_a_budget_is_drawn_and_said(logs: Path, blocks_file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "front.svg"
    limits = ("--trials", 1, "--sram", 4096, "--plot", picture)
    done = mbv3c("tune", blocks_file, *DEVICE, "--database", logs, *limits)
    assert done.returncode == 0, done.stderr
    assert "all figures are estimated by vela" in done.stdout
    assert "compile's default" in done.stdout
    assert "best, which compile takes now" in done.stdout
    drawn = picture.read_text()
    marks = ("front of Shared_Sram", "compile's default", "budget, 4096 KiB", "estimated by vela")
    marks += ("performance, depthwise",)
    for text in marks:
        assert f"{text} -->" in drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runner", "local"], "--runner local is for CPUs"),
        (["--patience", "2"], "--patience are for CPUs"),
        (["--trials", "0"], "--trials and --minutes must be above 0"),
        (["--sram", "0"], "--sram 0 makes no sense"),
        (["--plot", "x.pdf"], "ends in .png or .svg"),
        (["--calibration", "none"], "no such folder: none"),
        (["--batch", "2"], "one image, 1x3xHxW, or one row, 1xCxL, at a time"),
    ],
)
def test_wrong_usage_is_refused(
    arguments: list[str],
    message: str,
    blocks_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = mbv3c("tune", blocks_file, *DEVICE, *arguments)
    assert done.returncode == EXIT_USAGE
    assert message in done.stderr
    assert not any(tmp_path.iterdir())
