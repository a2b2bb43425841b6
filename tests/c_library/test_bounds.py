"""Comparisons of vectors that are bounds, in LLVM's text."""

from mbv3c.c_library.bounds import with_bounds

_BOUND = """\
define void @f(ptr %x) {
  %1 = load <4 x float>, ptr %x, align 4
  %2 = fcmp ogt <4 x float> %1, zeroinitializer
  %3 = select <4 x i1> %2, <4 x float> %1, <4 x float> zeroinitializer
  %4 = fcmp olt <4 x float> %3, splat (float 1.000000e+00)
  %5 = select <4 x i1> %4, <4 x float> %3, <4 x float> splat (float 1.000000e+00)
  store <4 x float> %5, ptr %x, align 4
  ret void
}
"""


def test_a_clip_is_two_bounds() -> None:
    text = with_bounds(_BOUND)
    splat = "splat (float 1.000000e+00)"
    kind = "<4 x float>"
    assert f"  %3 = call {kind} @llvm.maximum.v4f32({kind} %1, {kind} zeroinitializer)\n" in text
    assert f"  %5 = call {kind} @llvm.minimum.v4f32({kind} %3, {kind} {splat})\n" in text
    assert text.count("declare <4 x float> @llvm.m") == 2
    assert "select" not in text


def test_what_chooses_other_values_stays() -> None:
    for old, new in (
        (
            "<4 x float> %1, <4 x float> zeroinitializer",
            "<4 x float> zeroinitializer, <4 x float> %1",
        ),
        ("fcmp ogt <4 x float> %1", "fcmp ogt <4 x float> %9"),
        ("fcmp ogt", "fcmp ule"),
    ):
        assert old in _BOUND
        text = with_bounds(_BOUND.replace(old, new, 1))
        assert "%3 = select" in text
        assert "maximum" not in text


def test_names_are_those_of_one_function() -> None:
    other = (
        "define void @g(ptr %x) {\n  %3 = select <4 x i1> %2, <4 x float> %1, <4 x float> %9\n}\n"
    )
    both = _BOUND + other.replace("%9", "zeroinitializer")
    text = with_bounds(both)
    assert text.count("select") == 1
