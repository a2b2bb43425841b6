"""The site: README, docs/ and what else is written in Markdown, built by `make docs`.

Its source folder is the whole checkout, so that a link that leads somewhere on the disk leads to
the same place on the site. Whatever Sphinx warns of ends the build: a link or an anchor that leads
nowhere, or a page that no line of `NAVIGATION` names.
"""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

# What stands in the margin, in this order: first what people want to do, then what they look up.
NAVIGATION = {
    "Do it": ("pi", "quantization", "npu", "embedding", "ci", "smaller", "extending"),
    "Models": (
        "networks",
        "spellings",
        "architectures",
        "detection",
        "training",
        "shapes",
        "pictures",
        "frames",
    ),
    "Checks": ("verification", "report", "accuracy", "ladder", "metrics", "security"),
    "Devices": (
        "targets",
        "boards",
        "device",
        "board",
        "android",
        "microcontrollers",
        "mobile-gpu",
        "../examples/android/README",
        "../examples/cortex-m55/README",
        "../examples/ethos-u/README",
    ),
    "Speed": (
        "benchmarks",
        "../benchmarks/RESULTS",
        "tuning",
        "tuning-on-devices",
        "costs",
        "sweep",
        "adapt",
        "search",
        "cluster",
    ),
    "Look up": ("commands", "habits", "bundle", "json", "api"),
    "Inside": ("passes", "kernels", "gpu-runtime", "npu-interpreter"),
    "The project": ("../CONTRIBUTING", "testing", "../CHANGELOG"),
}

project = "mbv3c"
project_copyright = "the authors of mbv3c; Apache-2.0"
version = release = re.findall(r'"(.+)"', (ROOT / "mbv3c/version.py").read_text())[-1]
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "benchmarks/*.md", "examples/*/README.md"]
exclude_patterns = [".*", "build", "bundles", "dist", "mbv3c", "tests", "tune_logs"]
# The anchors that GitHub gives headings, down to the third kind.
myst_heading_anchors = 3
# Command lines and trees of files are neither of a language.
highlight_language = "none"
smartquotes = False  # text is as it was written, as on GitHub
html_theme = "furo"
html_title = f"mbv3c {version}"
html_show_sourcelink = False
html_copy_source = False


TOCTREE = """

```{{toctree}}
:hidden:
:titlesonly:
:maxdepth: 1
:caption: {caption}

{pages}
```
"""


def with_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the navigation behind the first page, which is the README and has none on GitHub."""
    if page == root_doc:
        for caption, pages in NAVIGATION.items():
            names = "\n".join(f"docs/{name}" for name in pages)
            source[0] += TOCTREE.format(caption=caption, pages=names)


def with_index(app: Sphinx, failed: Exception | None) -> None:
    """Give a browser that opens the folder the first page."""
    if not failed:
        shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    """Have Sphinx call the two."""
    app.connect("source-read", with_navigation)
    app.connect("build-finished", with_index)
