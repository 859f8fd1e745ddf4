"""Figure 1 of the paper: AP of the finished runs of rows over epochs and over time of work, with published points."""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.our_rows import our_rows
from analysis.output import write_figure
from analysis.paper.rows import EXPERIMENTS, published_tables
from analysis.work_time import resume_moments, wall_seconds
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import metric_keys
from sparse_rcnn.rundir.reader import Run, RunSource
from sparse_rcnn.rundir.run_progress import seconds_of
from sparse_rcnn.rundir.summary import RunSummary, finite_numbers

DEFAULT_EXPERIMENTS = EXPERIMENTS["table1"]
# Okabe and Ito (2008), distinct under the common colour blindnesses; black is for what was published.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = "osD^vPX"
LINES = ("-", "--", ":")
PUBLISHED = ("RetinaNet", "Faster R-CNN", "DETR", "Sparse R-CNN")  # the detectors of the paper's figure
PUBLISHED_MARKERS = "x+1*"
LOG_FROM = 4.0  # times as long as the shortest is the longest training, from which on the axis is logarithmic


@dataclass(frozen=True)
class APCurve:
    """AP in percent over epochs, both (E,): mean, smallest and largest over n seeds that were evaluated there.

    ``hours``: of work until each evaluation, evaluations included, the mean over the seeds; empty where the runs do not
    have them, as those of W&B.
    """

    name: str
    epochs: tuple[float, ...]
    hours: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int


def write_figure1(
    summaries: Sequence[RunSummary], recipe: str, out: Path, experiments: Sequence[str] | None = None
) -> list[Path]:
    """Draw the convergence curves of the finished runs of rows over epochs and, where it is known, over time.

    The published points are drawn where the data are COCO: over epochs, for no time of these detectors is published.

    Raises:
        UserError: a row that is asked for has no finished run, or none has; a file cannot be written.
    """
    chosen = curves(summaries, recipe, experiments)
    names = {curve.name for curve in chosen}
    runs = [run for run in summaries if run.finished and run.recipe == recipe and names & set(run.experiments)]
    published = published_points() if {run.data_name for run in runs} == {"coco"} else {}
    devices = sorted({device for run in runs for device in run.devices})
    paths = [out / f"figure1.{suffix}" for suffix in ("png", "pdf")]
    for path in paths:
        write_figure(path, _figure1(chosen, published, recipe, devices))
    return paths


def curves(summaries: Sequence[RunSummary], recipe: str, experiments: Sequence[str] | None = None) -> list[APCurve]:
    """The curves of rows, from the evaluations of their finished runs."""
    rows = our_rows(summaries, recipe)
    names = list(dict.fromkeys(experiments or DEFAULT_EXPERIMENTS))
    missing = [name for name in names if name not in rows or not rows[name].used]
    if experiments and missing:
        raise UserError(
            f"{missing[0]} has no finished run of recipe {recipe}: leave it out of --experiments or train it"
        )
    found = [curve(name, rows[name].used) for name in names if name not in missing]
    if not any(item.epochs for item in found):
        which = ", ".join(names) if experiments else "the rows of table 1"
        raise UserError(
            f"none of {which} has a finished run of recipe {recipe} with evaluations: "
            "name other rows with --experiments"
        )
    return [item for item in found if item.epochs]


def curve(name: str, runs: Sequence[RunSummary]) -> APCurve:
    """One row's AP over epochs, over its seeds; a damaged evaluation is left out and named on stderr."""
    aps: dict[float, list[float]] = defaultdict(list)
    times: dict[float, list[float]] = defaultdict(list)
    for summary in runs:
        hours = _hours(summary.source)
        for evaluation in _evaluations(summary.source):
            ap, epoch = evaluation["metrics"].get(metric_keys.AP), float(evaluation["epoch"])
            if ap is not None and ap >= 0:
                aps[epoch].append(100 * ap)
                times[epoch] += [hours[evaluation["step"]]] if evaluation["step"] in hours else []
    epochs = tuple(sorted(aps))
    by_epoch = [aps[epoch] for epoch in epochs]
    mean, low, high = (tuple(float(f(own)) for own in by_epoch) for f in (np.mean, min, max))
    is_timed = all(len(times[epoch]) == len(aps[epoch]) for epoch in epochs)
    mean_hours = tuple(float(np.mean(times[epoch])) for epoch in epochs) if is_timed else ()
    return APCurve(name, epochs, mean_hours, mean, low, high, len(runs))


def _hours(source: RunSource) -> dict[int, float]:
    """The hours of work until the end of each evaluation, by its step; empty where they are not known."""
    if not isinstance(source, Run):
        return {}
    try:
        events, started = source.events(), seconds_of(source.status.get("started_at"))
    except UserError:
        return {}
    events = [event for event in events if finite_numbers({"time": event.get("time")})]
    # At one step the evaluation follows the training, whatever their order in the file.
    events.sort(key=lambda event: (event["step"], event["time"]))
    seconds = wall_seconds([event["time"] for event in events], started, resume_moments(source.meta))
    return {
        event["step"]: wall / 3600
        for event, wall in zip(events, seconds, strict=True)
        if event["event"] == "eval" and wall is not None
    }


def _evaluations(source: RunSource) -> list[dict[str, Any]]:
    if not isinstance(source, Run):  # W&B has no files that may be torn
        return source.evaluations
    found, problems = source.readable_evaluations()
    for problem in problems:
        _print_once(f"left out: {problem}")
    return found


@functools.cache  # a report asks twice for the curves of the same runs
def _print_once(text: str) -> None:
    print(text, file=sys.stderr)


def published_points() -> dict[str, tuple[int, float]]:
    """The epochs and AP of the figure's detectors with ResNet-50, from table 1: the figure itself has no numbers."""
    rows = published_tables()["table1"]["rows"]
    chosen = [row for row in rows if row["detector"] in PUBLISHED and row["backbone"] == "R50"]
    return {f"{row['detector']} {row['backbone']}": (row["epochs"], row["AP"]) for row in chosen}


def _figure1(
    chosen: Sequence[APCurve], published: Mapping[str, tuple[int, float]], recipe: str, devices: Sequence[str]
) -> Any:
    # Not pyplot: it keeps figures and picks a backend by the screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = [item for item in chosen if item.hours]
    longest = max((item.hours[-1] for item in timed), default=0.0)
    per_hour, unit = (3600, "seconds") if longest < 0.05 else (60, "minutes") if longest < 3 else (1, "hours")
    figure = Figure(figsize=(11.0 if timed else 7.6, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    for i, item in enumerate(chosen):
        label = item.name if item.n == 1 else f"{item.name} ({item.n} seeds)"
        _draw(panels[0], i, item, item.epochs, label)
        if item.hours:
            _draw(panels[1], i, item, [per_hour * hours for hours in item.hours], "")
    for marker, (name, (epochs, ap)) in zip(PUBLISHED_MARKERS, published.items(), strict=False):
        panels[0].plot([epochs], [ap], color="black", marker=marker, linestyle="none", label=f"{name}, published")
    ends = [item.epochs[-1] for item in chosen] + [epochs for epochs, _ in published.values()]
    _finish(panels[0], "epochs", ends)
    panels[0].set_ylabel("AP in percent, validation")
    if timed:
        where = devices[0] if len(devices) == 1 else "different devices"
        _finish(panels[1], f"{unit} of work, evaluations included, on {where}", [item.hours[-1] for item in timed])
        if without := [item.name for item in chosen if not item.hours]:
            panels[1].set_title(f"no times: {', '.join(without)}", fontsize="x-small")
    figure.suptitle(f"Convergence, recipe {recipe}", fontsize="medium")
    figure.legend(loc="outside right upper", fontsize="x-small")
    return figure


def _draw(axes: Any, index: int, item: APCurve, x: Sequence[float], label: str) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    line = LINES[index // len(COLOURS) % len(LINES)]
    axes.plot(x, item.mean, color=colour, linestyle=line, marker=marker, markersize=4, label=label)
    if item.n > 1:
        axes.fill_between(x, item.low, item.high, color=colour, alpha=0.2, linewidth=0)


def _finish(axes: Any, title: str, ends: Sequence[float]) -> None:
    from matplotlib.ticker import StrMethodFormatter

    if min(ends) > 0 and max(ends) >= LOG_FROM * min(ends):  # 36 epochs and 500
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel(title)
    axes.grid(alpha=0.3)
