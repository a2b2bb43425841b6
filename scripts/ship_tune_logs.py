"""Write what `mbv3c tune` found into the package: of every kernel two records, nothing else.

    python scripts/ship_tune_logs.py tune_logs

Of each database the default choice of every kernel and what won against it are written to
mbv3c/tune_logs/FAMILY/DEVICE/, over what is there. Where nothing won, the best candidate is: it is
known then that there was a search, and similar kernels are left with their default choices, too.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from mbv3c.errors import Mbv3cError
from mbv3c.tuning.database import META, Database, Record, best

SHIPPED = Path(__file__).parents[1] / "mbv3c" / "tune_logs"


def ship(source: Path, into: Path) -> list[str]:
    """Write the winners of all databases under a folder; return a line for each.

    Raises:
        DatabaseError: one is damaged.
    """
    lines = []
    for meta in sorted(source.glob(f"*/*/{META}")):
        database = Database(meta.parent)
        chosen = _worth_shipping(database.records())
        target = Database(into / meta.parent.relative_to(source))
        target.folder.mkdir(parents=True, exist_ok=True)
        for name in target.files:
            (target.folder / name).unlink(missing_ok=True)
        contents = json.loads(meta.read_text())
        for run in contents["runs"]:
            for private in ("machine", "devices"):
                run.pop(private, None)
        (target.folder / META).write_text(json.dumps(contents, indent=2) + "\n")
        target.append(chosen)
        kernels, won = len({one.key for one in chosen}), sum(one.kept for one in chosen)
        lines.append(f"{target.folder}: {kernels} kernels, {won} tuned")
    return lines


def _worth_shipping(records: list[Record]) -> list[Record]:
    winners = best(records)
    found: list[Record] = []
    for key in sorted({one.key for one in records}):
        mine = [one for one in records if one.key == key]
        default = next(one for one in mine if one.cost == one.baseline)
        others = [one for one in mine if one.relative is not None and one.knobs != default.knobs]
        second = winners.get(key) or min(others, key=_relative, default=None)
        found += [default, second] if second is not None else [default]
    return found


def _relative(record: Record) -> float:
    return record.relative or math.inf


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
