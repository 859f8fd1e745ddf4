"""The events of a run as curves of few points: loss and AP over steps, epochs and seconds of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from analysis.dashboard.values import AP_NAMES, number, percent
from analysis.work_time import Points, wall_seconds
from sparse_rcnn.rundir import metric_keys

MAX_POINTS = 200
MAX_LOSSES = 8


def downsample(columns: Mapping[str, Points], max_points: int = MAX_POINTS) -> dict[str, Points]:
    """Columns of at most so many rows, each the mean of a stretch of rows; None counts for nothing in it.

    A mean and not every n-th row, because a loss of single steps is noisy.
    """
    num_rows = len(next(iter(columns.values()), []))
    if num_rows <= max_points:
        return {name: list(column) for name, column in columns.items()}
    edges = [index * num_rows // max_points for index in range(max_points + 1)]
    return {name: [_mean(column[start:end]) for start, end in pairwise(edges)] for name, column in columns.items()}


def curves(events: Sequence[Mapping[str, Any]], started: float | None, resumed: Sequence[float]) -> dict[str, Any]:
    """The curves of a run.

    Args:
        events: of metrics.jsonl, any names.
        started: seconds since 1970 of the first process.
        resumed: of the later ones.

    Returns:
        `train` and `eval`, each with the columns `step`, `epoch` and `seconds` and a dict `values` of columns: losses
        by name, and the six AP numbers in percent. `seconds` is the work until the last event, or None.
    """
    chosen = [event for event in events if event["event"] in ("train", "eval") and _metrics(event) is not None]
    chosen.sort(key=lambda event: (event["step"], number(event.get("time"), 16) or 0.0))
    walls = wall_seconds([number(event.get("time"), 16) for event in chosen], started, resumed)
    train = [(event, wall) for event, wall in zip(chosen, walls, strict=True) if event["event"] == "train"]
    evals = [(event, wall) for event, wall in zip(chosen, walls, strict=True) if event["event"] == "eval"]
    prefix = metric_keys.LOSS
    names = {name: None for event, _ in train for name in event["metrics"] if name.startswith(prefix)}
    losses = {name: [number(event["metrics"].get(name), 5) for event, _ in train] for name in list(names)[:MAX_LOSSES]}
    aps = {name: [percent(event["metrics"].get(metric_keys.bbox(name))) for event, _ in evals] for name in AP_NAMES}
    return {
        "train": _curve(train, {name.removeprefix(prefix).removeprefix("loss_"): losses[name] for name in losses}),
        "eval": _curve(evals, aps),
        "seconds": next((wall for wall in reversed(walls) if wall is not None), None),
    }


def _curve(rows: Sequence[tuple[Mapping[str, Any], float | None]], values: Mapping[str, Points]) -> dict[str, Any]:
    axes: dict[str, Points] = {
        "step": [event["step"] for event, _ in rows],
        "epoch": [number(event.get("epoch")) for event, _ in rows],
        "seconds": [wall for _, wall in rows],
    }
    thin = downsample({**axes, **{f"values/{name}": column for name, column in values.items()}})
    return {**{name: thin[name] for name in axes}, "values": {name: thin[f"values/{name}"] for name in values}}


def _metrics(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    metrics = event.get("metrics")
    return metrics if isinstance(metrics, dict) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return number(sum(known) / len(known)) if known else None
