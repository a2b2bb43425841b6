"""How a measurement on images reads, in lines and as it goes on."""

from mbv3c.accuracy.report import lines, prepared
from mbv3c.accuracy.tally import BUNDLE, GIVEN, Tally
from mbv3c.commands.verify_images import progress_text

PREPROCESSING = {
    "height": 96,
    "width": 96,
    "layout": "NCHW",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.5, 0.5, 0.5],
    "shown": None,
    "scale": 1 / 255,
    "channels": "RGB",
    "from": {"mean": "--mean", "std": "ImageNet", "shown": "the head", "layout": "the shape"},
}


def document(*images: dict, **others: object) -> dict:
    tally = Tally((GIVEN,))
    tally.add_all(images)
    return {
        "ran_on": "this machine",
        "folder": "photos",
        "images": 12,
        "seed": None,
        "class_names": None,
        "labels": "none",
        "preprocessing": PREPROCESSING,
        **tally.to_json(),
        "list": "list.csv",
        **others,
    }


def image(file: str, given: list[int], bundle: list[int], label: int | None = None) -> dict:
    return {"file": file, "label": label, GIVEN: given, BUNDLE: bundle}


def test_differing_and_broken_images_are_named() -> None:
    found = document(
        image("a.jpg", [1, 2], [1, 2], 1),
        image("b.jpg", [1, 2], [2, 1], 2) | {"lead": 0.00123},
        image("c.jpg", [1, 2], [], 1),
        {"file": "d.jpg", "label": 1, "broken": "it is empty"},
        class_names=["ant", "bee", "cat"],
    )
    text = "\n".join(lines(found))
    assert "2 images have another best class, listed in list.csv:" in text
    assert "  b.jpg: given bee, bundle cat, 1.2e-03 of the range apart" in text
    assert "  c.jpg: given bee, bundle not finite" in text
    assert "NOT FINITE: the bundle's scores of 1 images" in text
    assert "1 image is broken, listed in list.csv:\n  d.jpg: it is empty" in text
    assert "the model, by onnxruntime  66.67% (20.77 to 93.85)" in text
    assert "stretched to 96x96 (the head), mean 0.485 0.456 0.406 (--mean)" in text
    assert "BGR" not in text


def test_a_scale_and_another_order_of_channels_are_said() -> None:
    text = prepared({**PREPROCESSING, "scale": 1.0, "channels": "BGR"})
    assert "(the head), pixels times 1 (--scale), mean" in text
    assert text.endswith("NCHW (the shape), BGR (--bgr)")


def test_without_labels_there_is_no_accuracy() -> None:
    text = "\n".join(lines(document(image("a.jpg", [1], [1]))))
    assert "same as the model" in text
    assert "less the model" not in text
    assert "no image has another best class" in text
    assert "broken, listed" not in text


def test_long_lists_are_cut() -> None:
    found = document(*(image(f"{one}.jpg", [1], [2]) for one in range(30)))
    assert "  and 20 more" in lines(found)


def test_events_are_told_in_words() -> None:
    start = {
        "event": "start",
        "images": 40,
        "of": 12_000,
        "done": 7,
        "labels": "none",
        "preprocessing": PREPROCESSING,
        "ran_on": "emulated cortex-a76",
        "journal": "j.jsonl",
    }
    assert progress_text(start, 0).startswith(
        "running 40 of 12000 images, 7 of them in the journal on emulated cortex-a76"
    )
    assert prepared(PREPROCESSING) in progress_text(start, 0)
    state = {"done": 20, "broken": 1, "differing": 0, "agreement": 0.995}
    progress = {"event": "progress", **state, "seconds_each": 4.5, "left_s": 3725.0}
    assert progress_text(progress, 40) == "20 of 40 images, 1 broken, 99.50% agree, 1:02:05 left"
    slow = progress_text({"event": "slow", "seconds_each": 4.5, "left_s": 3725.0}, 40)
    assert "4.5 s an image (estimated), 1:02:05 more; --limit N takes a sample" in slow
    interrupted = progress_text({"event": "interrupted", "done": 20, "journal": "j.jsonl"}, 40)
    assert interrupted == ("20 images are in the journal j.jsonl; the same command goes on there")
