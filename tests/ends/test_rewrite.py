"""A model with other ends computes what it computed, on the converted frame."""

from typing import Any

import numpy as np
import pytest

from mbv3c.ends.ends import NO_ENDS, Ends, Frame, Outputs, ends_of, parse_outputs
from mbv3c.ends.rewrite import with_ends
from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.outputs import class_names, metadata_of
from mbv3c.quantization.images import TO_ONE, Overrides, preprocessing, with_preparing
from tests.ends.camera import CLASSES, LABELS, SIDE, classifier, converted, frame, outputs
from tests.onnx_text import graph

HALF = Overrides(mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    ("asked", "given", "wanted"),
    [
        (Frame(), lambda x: x, converted),
        (Frame("NCHW"), lambda x: x.transpose(0, 3, 1, 2), converted),
        (Frame("NHWC", "BGR"), lambda x: x[..., ::-1], converted),
        (Frame(preparing=Overrides(bgr=True)), lambda x: x, lambda x: converted(x)[:, ::-1]),
        (Frame("NHWC", "BGR", Overrides(bgr=True)), lambda x: x[..., ::-1],
         lambda x: converted(x)[:, ::-1]),
        (Frame(preparing=HALF), lambda x: x, lambda x: converted(x, (0.5,) * 3, (0.5,) * 3)),
        (Frame(preparing=Overrides(mean=(0,) * 3, std=(1,) * 3)), lambda x: x,
         lambda x: converted(x, (0,) * 3, (1,) * 3)),
        (Frame(preparing=Overrides(scale=1, mean=(127.5,) * 3)), lambda x: x,
         lambda x: x.transpose(0, 3, 1, 2).astype(np.float32) - np.float32(127.5)),
    ],
)  # fmt: skip
def test_the_converted_frame_gives_equal_bits(asked: Frame, given: Any, wanted: Any) -> None:
    model, pixels = classifier(), frame()
    made = with_ends(model, Ends(asked))
    (ours,) = outputs(made, np.ascontiguousarray(given(pixels)))
    (theirs,) = outputs(model, np.ascontiguousarray(wanted(pixels)))
    np.testing.assert_array_equal(ours, theirs)
    assert with_ends(made, ends_of(metadata_of(made))) is made


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_other_images_take_frames_too(dtype: str) -> None:
    """Pixels stay pixels; of half precision the last digits are lost where the image is."""
    model, pixels = classifier(dtype), frame()
    made = with_ends(model, Ends(Frame()))
    image = pixels.transpose(0, 3, 1, 2) if dtype == "uint8" else converted(pixels)
    (theirs,) = outputs(model, np.ascontiguousarray(image.astype(dtype)))
    np.testing.assert_array_equal(outputs(made, pixels)[0], theirs)


def test_a_model_that_takes_such_frames_takes_them() -> None:
    model, pixels = classifier("uint8", f"1, {SIDE}, {SIDE}, 3"), frame()
    made = with_ends(model, Ends(Frame()))
    np.testing.assert_array_equal(outputs(made, pixels)[0], outputs(model, pixels)[0])


def test_a_model_that_normalises_gets_pixels_as_they_are() -> None:
    model = graph(
        """g (float[1, 3, 4, 4] x) => (float[1, 2] y) {
            m = Mul(x, small)
            s = Sub(m, one)
            f = Flatten(s)
            y = Gemm(f, w)
        }""",
        small=np.array(1 / 127.5, np.float32),
        one=np.array(1, np.float32),
        w=np.ones((48, 2), np.float32),
    )
    made = with_ends(model, Ends(Frame()))
    assert [node.op_type for node in made.graph.node][:2] == ["Cast", "Transpose"]


def test_the_best_classes_are_those_of_numpy_also_where_they_tie() -> None:
    model, pixels = classifier(), frame()
    (scores,) = outputs(model, converted(pixels))
    made = with_ends(model, Ends(Frame(), Outputs(softmax=True, top=3), LABELS))
    best, classes = outputs(made, pixels)
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(classes, wanted)
    odds = np.exp(scores - scores.max())
    np.testing.assert_allclose(best, np.take_along_axis(odds / odds.sum(), wanted, 1), 2e-6)
    assert ends_of(metadata_of(made)).labels == LABELS
    assert class_names(metadata_of(made), CLASSES) == LABELS

    integers = graph("g (int32[2, 6] x) => (int32[2, 6] y) { y = Identity(x) }")
    rows = np.array([[3, 9, 9, 1, 9, 3], [0, 0, 0, 0, 0, 0]], np.int32)
    best, classes = outputs(with_ends(integers, Ends(outputs=Outputs(top=4))), rows)
    np.testing.assert_array_equal(classes, np.argsort(-rows, axis=1, kind="stable")[:, :4])
    np.testing.assert_array_equal(best, np.take_along_axis(rows, classes, 1))


def test_probabilities_are_made_once() -> None:
    once = with_ends(classifier(), Ends(outputs=Outputs(softmax=True)))
    assert [output.name for output in once.graph.output] == ["probabilities"]
    del once.metadata_props[:]
    again = with_ends(once, Ends(outputs=Outputs(softmax=True)))
    assert [node.op_type for node in again.graph.node].count("Softmax") == 1


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (Ends(labels=LABELS[:3]), "3 lines, and the model has 8 classes"),
        (Ends(outputs=Outputs(top=9)), "top9 is more than the 8 classes"),
    ],
)
def test_what_does_not_fit_is_refused(ends: Ends, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_ends(classifier(), ends)


@pytest.mark.parametrize(
    ("text", "ends", "words"),
    [
        ("g (float[1, 1, 8, 8] x) => (float[1, 1, 8, 8] y) { y = Relu(x) }", Ends(Frame()),
         "not three channels"),
        ("g (int32[1, 3, 8, 8] x) => (int32[1, 3, 8, 8] y) { y = Abs(x) }", Ends(Frame()),
         "floats or of uint8, and 'x' holds int32"),
        ("g (float[1, 3] x, float[1, 3] z) => (float[1, 3] y) { y = Add(x, z) }", Ends(Frame()),
         "one image, and this takes z, too"),
        ("g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu(x) }",
         Ends(outputs=Outputs(top=1)), r"this gives y \(1, 3, 8, 8\)"),
        ("g (int32[1, 3] x) => (int32[1, 3] y) { y = Abs(x) }",
         Ends(outputs=Outputs(softmax=True)), "'y' holds integers"),
    ],
)  # fmt: skip
def test_models_without_an_image_or_scores_are_refused(text: str, ends: Ends, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_ends(graph(text), ends)


def test_labels_of_a_map_are_names_alone() -> None:
    model = graph("g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu(x) }")
    made = with_ends(model, Ends(labels=("sky", "sea", "sand")))
    assert ends_of(metadata_of(made)) == NO_ENDS
    assert class_names(metadata_of(made), 3) == ("sky", "sea", "sand")


def test_a_frame_is_in_the_colours_that_the_model_says() -> None:
    said = with_preparing(classifier(), Overrides(scale=1.0, mean=(9.0,) * 3, bgr=True))
    pixels = frame()
    x = np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) - 9)
    made = with_ends(said, Ends(Frame()))
    np.testing.assert_array_equal(outputs(made, pixels)[0], outputs(said, x)[0])
    left = preprocessing(made, (1, SIDE, SIDE, 3))
    assert (left.scale, left.mean, left.std, left.bgr) == (TO_ONE, (0,) * 3, (TO_ONE,) * 3, False)


def test_ends_are_given_once() -> None:
    made = with_ends(classifier(), Ends(Frame()))
    assert with_ends(made, NO_ENDS) is made
    with pytest.raises(UsageError, match="takes frames or gives classes already"):
        with_ends(made, Ends(Frame("NCHW")))


@pytest.mark.parametrize("text", ["", "top", "top0", "top5,softmax", "softmaxtop5", "best"])
def test_outputs_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not known; write softmax, top5"):
        parse_outputs(text)


@pytest.mark.parametrize(
    ("key", "entry"),
    [("frame", "["), ("frame", '{"layout": 3}'), ("labels", "[1]"), ("outputs", "all")],
)
def test_damaged_metadata_are_refused(key: str, entry: str) -> None:
    with pytest.raises(ModelError, match=rf"mbv3c\.{key}"):
        ends_of({f"mbv3c.{key}": entry})
