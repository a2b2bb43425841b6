"""`mbv3c report` as a user runs it: one page of what is there, and what would give the rest."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mbv3c.errors import BundleError, UsageError
from mbv3c.report.memory import memory_section
from mbv3c.report.report import ReportRequest, write_report
from mbv3c.report.speed import profile_section, speed_section
from mbv3c.report.subject import Files, open_subjects
from mbv3c.target import Limits
from mbv3c.targets.evidence import Evidence, LayerEstimate
from tests.command_line import document, mbv3c
from tests.report import evidence
from tests.test_page import Words

HOSTILE = "<script>alert(1)</script>" + "x" * 300
PI = "cortex-a76 (aarch64, 4 cores) of pi, device 192.168.1.20:9090 (the library itself)"
EMULATED_PI = PI.replace("4 cores", "4 cores, emulated")
BENCHES = ("bench", "counted", "pi", "pi-too", "emulated")


def saved(path: Path, given: Any) -> Path:
    path.write_text(json.dumps(given))
    return path


@pytest.fixture(scope="module")
def renamed(host_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose model and one tensor have names that do what they can."""
    folder = tmp_path_factory.mktemp("renamed") / "a bundle"
    shutil.copytree(host_bundle, folder)
    manifest = evidence.bundle_manifest(folder)
    manifest["model"]["name"] = HOSTILE
    manifest["memory"]["values"][0]["value"] = f"{HOSTILE} $\\frac{{x$"
    manifest["kernels"][0]["nodes"] = [HOSTILE]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def everything(host_bundle: Path, renamed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page about two bundles, a search and a sweep, with all that can be given."""
    place = tmp_path_factory.mktemp("report")
    (place / "images").mkdir()
    Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(place / "images" / "a<b>.png")
    names = ["a<b>.png", "gone.png", "../../secret.png"]
    verdict = evidence.bundle_manifest(host_bundle)["parity"]
    checks = [{"suite": "limits", "name": "--max-abs", "passed": False, "said": "1 (at most 0)"}]
    blocks = [{"block": "features.0", "errors": [1e-7] * len(verdict["inputs"])}]
    verdict |= {"checks": checks, "blocks": blocks}
    (place / "search").mkdir()
    saved(place / "search" / "search.json", evidence.SEARCH)
    given = {
        "bench": evidence.bench(host_bundle),
        "counted": evidence.counted(renamed),
        "pi": evidence.on_device(host_bundle, ran_on=PI),
        "pi-too": evidence.on_device(renamed, ran_on=PI, name=HOSTILE),
        "emulated": evidence.on_device(renamed, ran_on=EMULATED_PI),
        "verify": verdict,
        "accuracy": evidence.accuracy(renamed, place / "images", names),
        "sweep": evidence.SWEEP,
    }
    files = {name: saved(place / f"{name}.json", each) for name, each in given.items()}
    (place / "tune_logs").mkdir()
    done = mbv3c(
        *("report", host_bundle, renamed, "-o", place / "report.html"),
        *(x for name in files for x in ("--bench", files[name]) if name in BENCHES),
        *("--verify", f"{host_bundle.name}={files['verify']}"),
        *("--accuracy", files["accuracy"], "--sweep", files["sweep"]),
        *("--search", place / "search", "--database", place / "tune_logs", "--json"),
    )
    result = document(done)
    assert result["bundles"] == [host_bundle.name, "a bundle"]
    assert result["bytes"] == (place / "report.html").stat().st_size < 2_000_000
    missing = {(row["bundle"], row["part"]) for row in result["missing"]}
    assert ("a bundle", "errors") in missing and ("a bundle", "accuracy") not in missing
    return place / "report.html"


def test_what_a_report_says(everything: Path, host_bundle: Path) -> None:
    text = everything.read_text("utf-8")
    said = "".join(Words(text).said)
    for words in (
        "At a glance",
        "0.500 ms",
        "onnxruntime 1.000 ms: 0.500 of it",
        "0.500 of the time of onnxruntime (quartiles 0.490 to 0.510): faster.",
        "the limits of this processor are not in mbv3c's tables",
        "cycles by llvm-mca 19",
        "Most is alive at call",
        "80.00% (10.00% to 90.00%)",
        "-10.00 points (-30.00 to +10.00)",
        "The image is not there any more.",
        "1 of 1 finalists beat the widths.",
        "wide on host_cpu:native in fp32 is left out: too wide",
        "--max-abs",
        "has no records for host_cpu:native",
        "7.125 ms (big, 2 threads) measured",
        "onnxruntime 9.500 ms: 0.750 of it",
        f"Side by side on devices\n{PI}",
        "big, 2 threads7.1257.2507.5007.0009.5009.500-0.750 (0.740 to 0.760)",
        "big, 2 threads12.048.048 to 531,800 to 2,400no30.1 (4.25 W, vdd_5v (ina226, hwmon0))yes",
        "little, 1 thread9.5007.250-7.0009.500---",
        "For 10 min on big, 2 threads: median 7.000 ms in the first quarter, 7.700 ms in the last "
        "(+10.0%). 30.1 mJ an inference at 4.25 W by vdd_5v (ina226, hwmon0), idle included. The "
        "clock was held down.",
        "The device does not tell:\nclock: its system does not tell",
        f"measured on {PI}; onnxruntime 1.32.0. Again: mbv3c bench {quote(str(host_bundle))} "
        "--device HOST:PORT --runs 200 --minutes 10 --json",
        "big, 2 threads7.125, 7.500, 0.750-",
        f"emulated on {EMULATED_PI}",
        "The processor is emulated: times are the emulator's and say nothing about a board.",
    ):
        assert words in said, words
    assert f"mbv3c verify {quote(str(host_bundle))} --json" in said
    # Every figure has its kind.
    kinds = re.findall(r'<span class="kind (\w+)">', text)
    assert {"measured", "emulated", "estimated", "computed"} == set(kinds)


def test_a_report_is_one_page_for_everybody(everything: Path) -> None:
    text = everything.read_text("utf-8")
    read = Words(text)
    tags = [tag for tag, _ in read.tags]
    assert not {"script", "link", "iframe", "object", "form"} & set(tags)
    assert not [name for _, given in read.tags for name in given if name.startswith("on")]
    assert not re.findall(r"url\((?!#)|@import", text)
    links = [given[name] or "" for _, given in read.tags for name in given if "href" in name]
    within = [link for link in links if not link.startswith("data:image/png;base64,")]
    assert all(link.startswith("#") for link in within)
    places = [given["id"] for _, given in read.tags if "id" in given]
    assert len(places) == len(set(places))
    assert {link[1:] for link in within} <= set(places)
    images = [given for tag, given in read.tags if tag == "img"]
    assert len(images) == 1 and str(images[0]["alt"]).startswith("a<b>.png; label: 1 <b>dog</b>")
    assert str(images[0]["src"]).startswith("data:image/jpeg;base64,")
    pictures = [given for tag, given in read.tags if tag == "svg"]
    assert len(pictures) >= 6
    assert len({given["aria-label"] for given in pictures}) == len(pictures)
    assert tags.count("table") == tags.count("caption")
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in pairwise(levels))


def test_names_are_text(everything: Path) -> None:
    text = everything.read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;xxx" in text


def test_without_anything_it_says_which_command_gives_what(
    host_bundle: Path, tmp_path: Path
) -> None:
    done = mbv3c("report", host_bundle, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = f"mbv3c bench {quote(str(host_bundle))} --profile --json"
    assert f"has no speed: {line}" in done.stdout
    said = "".join(Words((tmp_path / "report.html").read_text()).said)
    assert f"Not measured. This gives it, for --bench: {line}" in said
    again = mbv3c("report", host_bundle, cwd=tmp_path)
    assert again.returncode == 2
    assert "report.html exists" in again.stderr
    before = (tmp_path / "report.html").read_bytes()
    assert mbv3c("report", host_bundle, "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not what `mbv3c bench BUNDLE --profile --json` prints"),
        ('{"bundle": 3}', "is not what `mbv3c bench BUNDLE --profile --json` prints"),
        ("[]", "it holds no keys"),
        ("tiny", "it holds a number that nothing measures"),
        ("nothing", "--device HOST:PORT --json` prints (nothing was measured)"),
    ],
)
def test_another_file_is_refused(
    content: str, words: str, host_bundle: Path, tmp_path: Path
) -> None:
    if content == "tiny":
        content = json.dumps(evidence.bench(host_bundle)).replace('"us": 1.0', '"us": 5e-324')
    if content == "nothing":
        found = evidence.on_device(host_bundle, ran_on=PI) | {"configurations": []}
        content = json.dumps(found)
    (tmp_path / "b.json").write_text(content)
    done = mbv3c("report", host_bundle, "--bench", tmp_path / "b.json", cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_file_belongs_to_a_bundle(host_bundle: Path, renamed: Path, tmp_path: Path) -> None:
    own = str(saved(tmp_path / "b.json", evidence.bench(host_bundle)))
    tuned = {"device": "d", "runner": "local", "kernels": 1, "trials": 2, "kept": 0, "tasks": []}
    unnamed = str(saved(tmp_path / "t.json", tuned))

    def write(bundles: list[Path], **files: list[str]) -> None:
        write_report(ReportRequest(bundles, tmp_path / "r.html", files=Files(**files), force=True))

    with pytest.raises(UsageError, match="is about another bundle than a bundle"):
        write([renamed], bench=[own])
    with pytest.raises(UsageError, match="is about bundle"):
        write([renamed, host_bundle], bench=[f"a bundle={own}"])
    with pytest.raises(UsageError, match="write --tune a bundle=FILE"):
        write([renamed, host_bundle], tune=[unnamed])
    with pytest.raises(UsageError, match="is named twice"):
        write([host_bundle, host_bundle])
    with pytest.raises(UsageError, match="no such file"):
        write([host_bundle], quantize=["none.json"])
    with pytest.raises(UsageError, match="name a bundle to report on"):
        write([])
    write([renamed, host_bundle], tune=[unnamed, f"a bundle={unnamed}"])
    assert "2 candidates were tried" in (tmp_path / "r.html").read_text()


def test_a_plan_that_cannot_be_is_refused(renamed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(renamed, folder)
    manifest = evidence.bundle_manifest(folder)
    manifest["memory"]["values"][0]["block"] = 99
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="lies in no block of the arena"):
        write_report(ReportRequest([folder], tmp_path / "r.html"))


def test_estimates_of_layers_are_shown_where_there_are_no_kernels(host_bundle: Path) -> None:
    (subject,) = open_subjects([host_bundle], Files())
    layers = [LayerEstimate("stem", "Conv2D", 300, 9600), LayerEstimate("add", "Add", 100, 0)]
    known = Evidence(layers=layers, cycles=350, estimator="vela")
    limits = Limits(64, clock_mhz=500, source="a table")
    other = replace(subject, evidence=known, limits=limits)
    text = "".join([*speed_section(other), *profile_section(other), *memory_section(other)])
    said = "".join(Words(text).said)
    assert "350 cycles in an inference, 0.001 ms at 500 MHz." in said
    assert "estimated by vela. Again: mbv3c inspect" in said
    assert "stemConv2D30075.0%9,60050%" in said
    assert "No timeline" in said and "No roofline" in said


def test_in_a_browser(everything: Path, tmp_path: Path) -> None:
    from tests import browser as shown

    with shown.browser() as opened:
        for width in (1280, 400):
            layouts, pictures = {}, {}
            for theme in ("light", "dark"):
                opened.open(everything, width, theme)
                layouts[theme] = opened.evaluate(shown.LAYOUT)
                pictures[theme] = opened.picture(tmp_path / f"{width}-{theme}.png")
                assert opened.complaints == []
                assert opened.requests == []
                # Nothing is wider than the window, whatever its name.
                wide, window = opened.evaluate(shown.WIDTHS)
                assert wide == window == width
                assert opened.evaluate(shown.CONTRAST) == []
            assert layouts["light"] == layouts["dark"]
            assert len(layouts["light"]) > 500
            assert pictures["light"] != pictures["dark"]
            opened.open(everything, width, "light", scripts=False)
            assert opened.picture(tmp_path / "plain.png") == pictures["light"]
        assert opened.printed(tmp_path / "p.pdf").startswith(b"%PDF")
