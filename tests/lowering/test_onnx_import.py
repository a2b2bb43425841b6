import onnx
import pytest

from mbv3c.errors import ModelError
from mbv3c.lowering.onnx_import import import_onnx

HEADER = '<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>'


def test_every_unknown_operator_is_named_with_its_nodes() -> None:
    model = onnx.parser.parse_model(
        HEADER
        + """g (float[1, 4] x) => (float[1, 4] y) {
            [one] a = my.domain.Twist(x)
            [two] b = my.domain.Twist(a)
            [three] y = my.domain.Shout(b)
        }"""
    )
    with pytest.raises(ModelError, match=r"Twist \(nodes: one, two\); Shout \(nodes: three\)"):
        import_onnx(model)


def test_known_operators_become_one_function() -> None:
    model = onnx.parser.parse_model(
        HEADER + "g (float[1, 4] x) => (float[1, 4] y) { [act] y = HardSwish(x) }"
    )
    module = import_onnx(model)
    assert [name.name_hint for name in module.get_global_vars()] == ["main"]


def test_what_the_importer_cannot_digest_is_an_error_of_ours() -> None:
    """Resize by cubic interpolation on a 3-D tensor is valid ONNX and unknown to TVM."""
    model = onnx.parser.parse_model(
        HEADER
        + """g (float[1, 4, 8] x) => (float[1, 4, 16] y)
        <float[3] scales = {1, 1, 2}> {
            [resize] y = Resize<mode = "cubic", antialias = 1>(x, , scales)
        }""".replace("antialias = 1", 'coordinate_transformation_mode = "tf_crop_and_resize"')
    )
    with pytest.raises(ModelError, match="cannot import this model"):
        import_onnx(model)
