"""Print what mbv3c needs, one package a line: `python requirements.py [--only] EXTRA…`."""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def main(extras: list[str]) -> None:
    """Print the requirements of mbv3c and of these extras, after `--only` of the extras alone."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    alone = extras[:1] == ["--only"]
    extras = extras[1:] if alone else extras
    needed = [] if alone else [*project["dependencies"]]
    for extra in extras:
        needed += project["optional-dependencies"][extra]
    sys.stdout.write("".join(f"{one}\n" for one in needed))


if __name__ == "__main__":
    main(sys.argv[1:])
