"""Figure 1 of the paper: AP over epochs of the finished runs of rows, with the published points."""

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
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import metric_keys
from sparse_rcnn.rundir.reader import Run, RunSource
from sparse_rcnn.rundir.summary import RunSummary

DEFAULT_EXPERIMENTS = tuple(name for name in EXPERIMENTS["table1"] if name is not None)
# Okabe and Ito (2008), distinct under the common colour blindnesses; black is for what was published.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = "osD^vPX"
LINES = ("-", "--", ":")
PUBLISHED = ("RetinaNet", "Faster R-CNN", "DETR", "Sparse R-CNN")  # the detectors of the paper's figure
PUBLISHED_MARKERS = "x+1*"


@dataclass(frozen=True)
class APCurve:
    """AP in percent over epochs, both (E,): mean, smallest and largest over n seeds that were evaluated there."""

    name: str
    epochs: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int


def write_figure1(
    summaries: Sequence[RunSummary], recipe: str, out: Path, experiments: Sequence[str] | None = None
) -> list[Path]:
    """Draw the convergence curves of the finished runs of rows; the published points too where the data are COCO.

    Raises:
        UserError: a row that is asked for has no finished run, or none has; a file cannot be written.
    """
    chosen = curves(summaries, recipe, experiments)
    names = {curve.name for curve in chosen}
    is_coco = {run.data_name for run in summaries if run.finished and names & set(run.experiments)} == {"coco"}
    published = published_points() if is_coco else {}
    paths = [out / f"figure1.{suffix}" for suffix in ("png", "pdf")]
    for path in paths:
        write_figure(path, _figure1(chosen, published, recipe))
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
        raise UserError(
            f"none of {', '.join(names)} has a finished run of recipe {recipe} with evaluations: "
            "name other rows with --experiments"
        )
    return [item for item in found if item.epochs]


def curve(name: str, runs: Sequence[RunSummary]) -> APCurve:
    """One row's AP over epochs, over its seeds; a damaged evaluation is left out and named on stderr."""
    aps: dict[float, list[float]] = defaultdict(list)
    for summary in runs:
        for evaluation in _evaluations(summary.source):
            ap = evaluation["metrics"].get(metric_keys.AP)
            if ap is not None and ap >= 0:
                aps[float(evaluation["epoch"])].append(100 * ap)
    epochs = tuple(sorted(aps))
    by_epoch = [aps[epoch] for epoch in epochs]
    mean, low, high = (tuple(float(f(own)) for own in by_epoch) for f in (np.mean, min, max))
    return APCurve(name, epochs, mean, low, high, len(runs))


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


def _figure1(chosen: Sequence[APCurve], published: Mapping[str, tuple[int, float]], recipe: str) -> Any:
    # Not pyplot: it keeps figures and picks a backend by the screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, item in enumerate(chosen):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        line = LINES[i // len(COLOURS) % len(LINES)]
        label = item.name if item.n == 1 else f"{item.name} ({item.n} seeds)"
        axes.plot(item.epochs, item.mean, color=colour, linestyle=line, marker=marker, markersize=4, label=label)
        if item.n > 1:
            axes.fill_between(item.epochs, item.low, item.high, color=colour, alpha=0.2, linewidth=0)
    for marker, (name, (epochs, ap)) in zip(PUBLISHED_MARKERS, published.items(), strict=False):
        axes.plot([epochs], [ap], color="black", marker=marker, linestyle="none", label=f"{name}, published")
    if published:
        axes.set_xscale("log")  # 36 epochs and 500
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("epochs")
    axes.set_ylabel("AP in percent, validation")
    axes.set_title(f"Convergence, recipe {recipe}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
