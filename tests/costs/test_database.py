"""The database of costs: it grows only, and survives whatever happens to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mbv3c.costs.database import CostContext, CostDatabaseError, CostTable
from mbv3c.costs.types import LayerCost, NetworkCost

CONTEXT = CostContext("npu:some", "int8", {"vela": "5.2"})
LAYER = LayerCost("Conv2D 1x1 → 2", ("a", "b"), 1, {"cycles": 7.0})
COST = NetworkCost(
    "npu:some", "int8", "estimated", (LAYER,), {"cycles": 7.0, "memory": 3.0}, False
)


def reopened(folder: Path, context: CostContext = CONTEXT) -> CostTable:
    table = CostTable(folder, context)
    table.refresh()
    return table


def test_what_was_added_is_there(tmp_path: Path) -> None:
    CostTable(tmp_path, CONTEXT).add({"k": {"cycles": 1.0}}, {"d": COST})
    table = reopened(tmp_path)
    assert table.kernels == {"k": {"cycles": 1.0}}
    assert table.networks == {"d": COST}


def test_the_first_answer_stays(tmp_path: Path) -> None:
    one, other = CostTable(tmp_path, CONTEXT), CostTable(tmp_path, CONTEXT)
    one.add({"k": {"cycles": 1.0}})
    other.add({"k": {"cycles": 2.0}})
    assert one.kernels == other.kernels == reopened(tmp_path).kernels == {"k": {"cycles": 1.0}}


def test_another_version_has_another_file(tmp_path: Path) -> None:
    CostTable(tmp_path, CONTEXT).add({"k": {"cycles": 1.0}})
    later = CostContext("npu:some", "int8", {"vela": "5.3"})
    assert reopened(tmp_path, later).kernels == {}


def test_a_torn_line_is_dropped_when_it_is_written_to(tmp_path: Path) -> None:
    table = CostTable(tmp_path, CONTEXT)
    table.add({"k": {"cycles": 1.0}})
    with table.path.open("ab") as file:
        file.write(b'{"kernel":"half')
    assert reopened(tmp_path).kernels == {"k": {"cycles": 1.0}}
    reopened(tmp_path).add({"l": {"cycles": 2.0}})
    assert set(reopened(tmp_path).kernels) == {"k", "l"}
    assert reopened(tmp_path).damaged == 0


def test_a_damaged_line_is_not_known(tmp_path: Path) -> None:
    table = CostTable(tmp_path, CONTEXT)
    table.add({"k": {"cycles": 1.0}})
    table.path.write_bytes(table.path.read_bytes().replace(b'"cycles":1.0', b'"cycles":9.0'))
    damaged = reopened(tmp_path)
    assert (damaged.kernels, damaged.damaged) == ({}, 1)
    damaged.add({"k": {"cycles": 1.0}})
    assert reopened(tmp_path).kernels == {"k": {"cycles": 1.0}}


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    table = CostTable(tmp_path, CONTEXT)
    table.add({"k": {"cycles": 1.0}, "l": {"cycles": 1.0}})
    table.path.write_bytes(b"")
    table.refresh()
    assert table.kernels == {}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "npu").write_text("a file")
    with pytest.raises(CostDatabaseError, match="give another --costs"):
        CostTable(tmp_path, CONTEXT).add({"k": {"cycles": 1.0}})


WRITER = """
import sys
from pathlib import Path
from mbv3c.costs.database import CostContext, CostTable
table = CostTable(Path(sys.argv[1]), CostContext("npu:some", "int8", {"vela": "5.2"}))
for number in range(50):
    table.add({f"{sys.argv[2]} {number}": {"cycles": 1.0}, f"both {number}": {"cycles": 2.0}})
"""


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, name], env=environment)
        for name in ("a", "b")
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    table = reopened(tmp_path)
    assert (len(table.kernels), table.damaged) == (150, 0)
    lines = table.path.read_bytes().splitlines()
    assert len(lines) == 1 + 150  # nothing twice
