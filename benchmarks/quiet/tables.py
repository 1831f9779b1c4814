"""What quiet moments are worth to a table: `python benchmarks/quiet/tables.py OTHER [PROJECT]`.

After tables.py of ../tables. OTHER is the latency.jsonl of another table of the same space, of the same machine; that
of the result was profiled by the version before quiet moments (6ffef6b), three quarters of an hour earlier and with
real-time priority, one load of each file in either. Both predict the same networks, which neither has learned from.
Adds `tables` to result.json beside itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import machine

from qaedge.cli.table_check import check
from qaedge.files import write_json
from qaedge.probes import HELD_OUT
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LatencyRow, LatencyTable

HERE = Path(__file__).resolve().parent


def judged(table: LatencyTable, space: SearchSpace) -> dict[str, Any]:
    """Say how well a table predicts the networks in it that were held out, and what its other rows are doubted for."""
    found = check(table, space)
    assert found is not None, "networks were measured"
    held = {row.key for _, row in table.networks(space, HELD_OUT)}
    rows = [row for key, row in table.rows.items() if key not in held]
    doubts = Counter(doubt for row in rows for doubt in row.measurement.doubts)
    names = ("n", "mape", "bias", "within_5", "within_10", "spearman")
    told = {name: getattr(found, name) for name in names} | {"model": found.fit.model, "statistic": found.fit.statistic}
    return {**told, "rows": len(rows), "doubts": dict(sorted(doubts.items()))}


def rescaled(row: LatencyRow, scale: float) -> LatencyRow:
    """Return a row as it is beside another table's teacher."""
    found = row.measurement
    scales = tuple(each * scale for each in found.scales or (1.0,) * len(found.rounds))
    return msgspec.structs.replace(row, measurement=msgspec.structs.replace(found, scales=scales))


def main() -> None:
    """Judge both, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path)
    parser.add_argument("project", nargs="?", type=Path, default=HERE.parent / "camvid" / "qaedge.toml")
    flags = parser.parse_args()
    workspace = Workspace.open(flags.project)
    space, device = SearchSpace.load(workspace.space_json), workspace.project.device
    table = LatencyTable.read(workspace.latency_file(device), device, "onnx")
    other = LatencyTable.read(flags.other, device, "onnx")
    teachers = [one.origin(space, False)[0].measurement.median_s for one in (other, table)]
    held = [rescaled(row, teachers[0] / teachers[1]) for _, row in table.networks(space, HELD_OUT)]
    joined = LatencyTable(device, [*other.rows.values(), *held], "onnx")
    path = HERE / "result.json"
    result = json.loads(path.read_text())
    result["tables"] = {
        "quiet": judged(table, space),
        "all": judged(joined, space),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    write_json(path, result)
    print(json.dumps(result["tables"], indent=2))


if __name__ == "__main__":
    main()
