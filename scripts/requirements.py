"""Print what mbv3c needs of other packages, one a line: `python requirements.py EXTRA…`."""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def main(extras: list[str]) -> None:
    """Print the requirements of mbv3c and of these extras."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    needed = [*project["dependencies"]]
    for extra in extras:
        needed += project["optional-dependencies"][extra]
    sys.stdout.write("".join(f"{one}\n" for one in needed))


if __name__ == "__main__":
    main(sys.argv[1:])
