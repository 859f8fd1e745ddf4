"""All records under a root as the one object that the page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from analysis.dashboard.factors import compact, find_factors, find_other_keys
from analysis.dashboard.record import RunRecord
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.metric_keys import AP_NAMES
from sparse_rcnn.rundir.run_progress import running_or_gone


def collect(records: Sequence[RunRecord], root: str, now: float) -> dict[str, Any]:
    """The rows with their labels, states and configurations.

    Args:
        root: where they lie, to show.
        now: seconds since 1970, to separate a running run from one whose status is out of date.
    """
    configs = [record.config for record in records]
    base, differences = compact(configs)
    rows = [
        {**record.row, **_state(record, now), "config": difference, "num_views": len(record.views)}
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


def state_now(record: RunRecord, now: float) -> str:
    """The state of a run at this moment: one that was running may be dead or silent."""
    state: str = record.row["state"]
    if state != layout.RUNNING or record.path is None:
        return state
    age = None if record.last_sign is None else max(0.0, now - record.last_sign)
    return running_or_gone(record.path, record.host, age)


def _state(record: RunRecord, now: float) -> dict[str, Any]:
    state = state_now(record, now)
    if state == record.row["state"]:
        return {}
    moment = None if record.last_sign is None else datetime.fromtimestamp(record.last_sign, timezone.utc)
    since = "at all" if moment is None else f"since {moment.isoformat(timespec='seconds')}"
    return {"state": state, "problems": [*record.row["problems"], f"{state}: no sign of life {since}"]}


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
