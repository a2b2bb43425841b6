"""The picture of README shows what RESULTS.md says, and can be read on light and dark pages."""

import re

import pytest

from benchmarks.picture import COLOURS, PICTURE, instructions, latency, picture, section
from benchmarks.results import RESULTS


def test_it_shows_the_results() -> None:
    """After a change of RESULTS.md: `python -m benchmarks.picture`."""
    text = RESULTS.read_text()
    assert PICTURE.read_text() == picture(text)
    bars = re.findall(r'<rect .* width="([\d.]+)" .* class="(ours|theirs)"/>', picture(text))
    panels = (latency(text), instructions(text))
    groups = [bars for panel in panels for bars in panel.groups.values()]
    names = [bar.runtime for group in groups for bar in group]
    assert len(groups) == 4
    assert [kind for _, kind in bars] == ["ours" if one == "mbv3c" else "theirs" for one in names]
    first = sum(map(len, panels[0].groups.values()))
    shown = re.findall(r">([\d.]+) (?:ms|M)", picture(text))
    assert [figure for figure in shown if f"{figure} " not in text] == []
    longest = max(float(width) for width, _ in bars[:first])
    assert float(bars[0][0]) / longest == pytest.approx(
        float(shown[0]) / max(map(float, shown[:first])), rel=1e-3
    )


def test_a_section_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="no section `Latency on this machine`"):
        section("# Results\n\n## Training\n\nnone\n", "Latency on this machine")


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(
        weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(theme: int) -> None:
    ground = luminance(COLOURS["ground"][theme])
    for name, least in (("text", 4.5), ("quiet", 4.5), ("ours", 3.0)):
        one = luminance(COLOURS[name][theme])
        contrast = (max(one, ground) + 0.05) / (min(one, ground) + 0.05)
        assert contrast >= least, name
