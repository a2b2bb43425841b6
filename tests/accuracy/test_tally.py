"""Counts over images are those of plain sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.accuracy.tally import BUNDLE, GIVEN, QUANTIZED, Tally

CLASSES = 7

best = st.permutations(range(CLASSES)).map(lambda order: list(order[:5])) | st.just([])
labels = st.none() | st.integers(0, CLASSES - 1)
run = st.fixed_dictionaries(
    {"file": st.just("x"), "label": labels, GIVEN: best, QUANTIZED: best, BUNDLE: best}
)
broken = st.fixed_dictionaries(
    {"file": st.just("x"), "label": labels, "broken": st.just("it is empty")}
)


@given(st.lists(run | broken, max_size=40))
def test_a_tally_is_a_plain_sum(images: list[dict]) -> None:
    tally = Tally((GIVEN, QUANTIZED))
    tally.add_all(images)
    found = tally.to_json()
    whole = [one for one in images if "broken" not in one]
    known = [one for one in whole if one["label"] is not None]
    assert (tally.done, found["read"], found["labelled"]) == (len(images), len(whole), len(known))
    assert found["broken"] == len(images) - len(whole)
    assert found["not_finite"] == sum(not one[BUNDLE] for one in whole)
    assert found["differing"] == sum(
        one[BUNDLE][:1] != one[GIVEN][:1] or one[BUNDLE][:1] != one[QUANTIZED][:1] for one in whole
    )
    if not known:
        assert found["accuracy"] is None
        assert found["difference"] is None
        return
    for top in (1, 5):
        right = {
            side: np.array([one["label"] in one[side][:top] for one in known])
            for side in (GIVEN, QUANTIZED, BUNDLE)
        }
        for side, each in right.items():
            assert found["accuracy"][side][f"top{top}"]["count"] == each.sum()
        for side in (GIVEN, QUANTIZED):
            difference = found["difference"][side][f"top{top}"]
            assert difference["only_bundle"] == (right[BUNDLE] & ~right[side]).sum()
            assert difference["only_reference"] == (right[side] & ~right[BUNDLE]).sum()
            wanted = right[BUNDLE].mean() - right[side].mean()
            assert difference["share"] == pytest.approx(wanted)


def test_the_same_five_classes_agree_in_any_order() -> None:
    tally = Tally((GIVEN,))
    tally.add({"file": "a", "label": None, GIVEN: [1, 2, 3, 4, 5], BUNDLE: [1, 3, 2, 5, 4]})
    tally.add({"file": "b", "label": None, GIVEN: [1, 2, 3, 4, 5], BUNDLE: [2, 1, 3, 4, 5]})
    tally.add({"file": "c", "label": None, GIVEN: [1, 2, 3, 4, 5], BUNDLE: [1, 2, 3, 4, 6]})
    agreement = tally.to_json()["agreement"][GIVEN]
    assert agreement["top1"]["count"] == 2
    assert agreement["top5"]["count"] == 2
    assert [one["file"] for one in tally.first_differing] == ["b"]


def test_what_is_not_finite_agrees_with_nothing() -> None:
    tally = Tally((GIVEN,))
    tally.add({"file": "a", "label": 1, GIVEN: [], BUNDLE: []})
    assert tally.to_json()["agreement"][GIVEN]["top1"]["count"] == 0
    assert tally.not_finite == 1


def test_only_the_first_few_are_kept() -> None:
    tally = Tally((GIVEN,))
    for index in range(1000):
        tally.add({"file": f"{index}", "label": None, "broken": "it is empty"})
        tally.add({"file": f"{index}", "label": None, GIVEN: [1], BUNDLE: [2]})
    assert (tally.broken, tally.differing) == (1000, 1000)
    assert len(tally.first_broken) == len(tally.first_differing) == 10
