"""Write what `mbv3c tune` found into the package: of every kernel the best record, nothing else.

    python scripts/ship_tune_logs.py tune_logs

Of each database the records that won against the default choice are written to
mbv3c/tune_logs/FAMILY/DEVICE/, over what is there; the candidates that lost stay behind.
"""

import argparse
import json
import sys
from pathlib import Path

from mbv3c.errors import Mbv3cError
from mbv3c.tuning.database import META, RECORDS, Database, best

SHIPPED = Path(__file__).parents[1] / "mbv3c" / "tune_logs"


def ship(source: Path, into: Path) -> list[str]:
    """Write the winners of all databases under a folder; return a line for each.

    Raises:
        DatabaseError: one is damaged.
    """
    lines = []
    for meta in sorted(source.glob(f"*/*/{META}")):
        database = Database(meta.parent)
        winners = best(database.records())
        target = Database(into / meta.parent.relative_to(source))
        target.folder.mkdir(parents=True, exist_ok=True)
        (target.folder / RECORDS).unlink(missing_ok=True)
        contents = json.loads(meta.read_text())
        for run in contents["runs"]:
            run.pop("machine", None)
        (target.folder / META).write_text(json.dumps(contents, indent=2) + "\n")
        target.append([winners[key] for key in sorted(winners)])
        lines.append(f"{target.folder}: {len(winners)} kernels")
    return lines


def main() -> None:
    """Ship the databases of the folder that is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the folder that `tune --database` wrote")
    try:
        lines = ship(parser.parse_args().source, SHIPPED)
    except Mbv3cError as error:
        sys.exit(f"error: {error}")
    if not lines:
        sys.exit("error: no database there; `mbv3c tune` writes FAMILY/DEVICE/meta.json")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
