"""All records under a root as the one object that the page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from analysis.dashboard.factors import compact, find_factors, find_other_keys
from analysis.dashboard.record import RunRecord
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.metric_keys import AP_NAMES
from sparse_rcnn.rundir.run_progress import SILENT_AFTER, seconds_of


def collect(records: Sequence[RunRecord], root: str, now: float) -> dict[str, Any]:
    """The rows with their labels, states and configurations.

    Args:
        root: where they lie, to show.
        now: seconds since 1970, to separate a running run from one whose status is out of date.
    """
    configs = [record.config for record in records]
    base, differences = compact(configs)
    rows = [
        {**record.row, **_state(record.row, now), "config": difference, "num_views": len(record.views)}
        for record, difference in zip(records, differences, strict=True)
    ]
    for row, label in zip(rows, _labels(rows), strict=True):
        row["label"] = label
    return {
        "root": root,
        "ap_names": AP_NAMES,
        "runs": rows,
        "base_config": base,
        "factors": find_factors(configs),
        "other_keys": find_other_keys(configs),
    }


def is_silent(row: dict[str, Any], now: float) -> bool:
    """Whether the status of a run is running, and was not updated for a while."""
    updated = seconds_of(row.get("updated_at"))
    return row["state"] == layout.RUNNING and (updated is None or now - updated > SILENT_AFTER)


def _state(row: dict[str, Any], now: float) -> dict[str, Any]:
    if not is_silent(row, now):
        return {}
    since = f"since {row['updated_at']}" if row.get("updated_at") else "at all"
    return {"state": "silent", "problems": [*row["problems"], f"says it is running, but gave no sign of life {since}"]}


def _labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A short name of each run that no other one has: experiment and seed, and as much more as it takes."""
    labels = [f"{row['name']} s{row['seed']}" if row.get("seed") is not None else str(row["name"]) for row in rows]
    for more in ("recipe", "data", "identity", "key"):
        counts = Counter(labels)
        labels = [
            f"{label} {row[more]}" if counts[label] > 1 and row.get(more) else label
            for label, row in zip(labels, rows, strict=True)
        ]
    return labels
