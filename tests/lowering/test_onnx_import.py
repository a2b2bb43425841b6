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


def test_what_the_importer_cannot_digest_is_an_error_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The importer prints the operator on stdout, where `--json` allows nothing else."""
    model = onnx.parser.parse_model(
        HEADER
        + """g (float[2] x) => (float[n] y) {
            sizes = Cast<to = 7>(x)
            y, z = Split(x, sizes)
        }"""
    )
    with pytest.raises(
        ModelError, match=r"cannot import Split .*: it needs constants, and a shape"
    ):
        import_onnx(model)
    assert capsys.readouterr().out == ""


def test_a_node_without_a_name_is_named_by_an_output_that_it_has() -> None:
    model = onnx.parser.parse_model(
        HEADER + "g (float[1, 4] x) => (float[1, 4] y) { , y = my.domain.Twist(x) }"
    )
    with pytest.raises(ModelError, match=r"Twist \(nodes: → y\)"):
        import_onnx(model)


def test_an_output_that_tvm_does_not_make_is_named() -> None:
    model = onnx.parser.parse_model(
        HEADER
        + """g (float[1, 4, 6, 6] x) => (float[1, 4, 3, 3] y, int64[1, 4, 3, 3] z) {
            [pool] y, z = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
        }"""
    )
    with pytest.raises(ModelError, match=r"\(nodes: pool\): it does not make all outputs"):
        import_onnx(model)


def test_a_resize_that_adds_up_whole_numbers_is_named() -> None:
    text = """g (uint8[1, 3, 6, 6] x) => (uint8[1, 3, 12, 12] y) <float[4] s = {1, 1, 2, 2}> {
        [frame] y = Resize <mode = "MODE"> (x, , s)
    }"""
    model = onnx.parser.parse_model(HEADER + text.replace("MODE", "linear"))
    with pytest.raises(ModelError, match=r"rounds whole numbers otherwise.*\(nodes: frame\)"):
        import_onnx(model)
    import_onnx(onnx.parser.parse_model(HEADER + text.replace("MODE", "nearest")))
