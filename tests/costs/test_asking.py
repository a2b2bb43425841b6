"""What the table knows is not asked for again."""

from collections.abc import Sequence
from pathlib import Path

import onnx

from mbv3c.costs.asking import answers
from mbv3c.costs.database import CostContext, CostTable
from mbv3c.costs.questions import Question
from mbv3c.costs.types import NetworkCost
from mbv3c.progress import Progress
from tests.costs.networks import block


class Counting:
    """A coster that charges a network its parameters, and counts how often it is asked."""

    time = "cycles"

    def __init__(self, version: str = "1") -> None:
        self.context = CostContext("npu:some", "int8", {"tool": version})
        self.asked: list[int] = []

    def check(self) -> None:
        pass

    def ask(
        self, questions: Sequence[Question], table: CostTable, progress: Progress
    ) -> list[NetworkCost]:
        self.asked.append(len(questions))
        return [self._cost(question, whole=False) for question in questions]

    def ask_whole(
        self, models: Sequence[onnx.ModelProto], progress: Progress
    ) -> list[NetworkCost]:
        self.asked.append(len(models))
        return [self._cost(Question(model), whole=True) for model in models]

    def _cost(self, question: Question, *, whole: bool) -> NetworkCost:
        resources = {"cycles": float(question.counts.params)}
        return NetworkCost("npu:some", "int8", "estimated", (), resources, whole)


def test_each_network_is_asked_for_once(tmp_path: Path) -> None:
    coster = Counting()
    models = [block(expand=32), block(expand=40), block(expand=32, seed=3)]
    found = answers(coster, models, tmp_path, lambda step: None)
    assert found[0] == found[2] != found[1]
    assert coster.asked == [2]
    assert answers(coster, models[::-1], tmp_path, lambda step: None) == found[::-1]
    assert coster.asked == [2]


def test_a_whole_network_is_known_by_its_weights(tmp_path: Path) -> None:
    coster = Counting()
    for seed in (1, 2, 1):
        (cost,) = answers(coster, [block(seed=seed)], tmp_path, lambda step: None, whole=True)
        assert cost.whole
    assert coster.asked == [1, 1]


def test_another_version_is_asked(tmp_path: Path) -> None:
    for version in ("1", "2"):
        coster = Counting(version)
        answers(coster, [block()], tmp_path, lambda step: None)
        assert coster.asked == [1]


def test_damage_is_told_and_asked_for_again(tmp_path: Path) -> None:
    answers(Counting(), [block()], tmp_path / "a", lambda step: None)
    (path,) = tmp_path.rglob("*.jsonl")
    said: list[str] = []
    other = tmp_path / "b" / path.relative_to(tmp_path / "a")
    other.parent.mkdir(parents=True)
    other.write_bytes(path.read_bytes().replace(b'"cycles":', b'"cycle":'))
    coster = Counting()
    answers(coster, [block()], tmp_path / "b", said.append)
    assert coster.asked == [1]
    assert any("damaged" in line for line in said)
