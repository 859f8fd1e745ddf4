"""python -m analysis compare: whether rows really differ, by a bootstrap over validation images and over seeds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.output import add_output_arguments, emit
from analysis.statistics.average_precision import AveragePrecision
from analysis.statistics.bootstrap import METRICS, Difference, Welch, difference, holm, metrics_of, resample, welch
from analysis.statistics.coco_columns import (
    FloatArray,
    GroundTruth,
    check_same_data,
    load_detections,
    load_ground_truth,
)
from analysis.statistics.matching import match
from analysis.summaries import choose_recipe, load_summaries
from analysis.tables.formats import DASH, Grid, grid, render
from analysis.tables.rows import our_rows
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.find import find_runs
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.summary import summarise

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Row:
    """A configuration and its finished runs, one a seed."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Measured:
    """AP, AP50 and AP75 as fractions: ``estimates`` (rows, 3) on all images, ``draws`` (B, rows, 3) on resamples of
    them, and ``seeds``, the AP of each run of each row.
    """

    names: tuple[str, ...]
    num_images: int
    estimates: FloatArray
    draws: FloatArray
    seeds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """A row against another, in percent: by metric the difference over images, and over seeds where there are several.

    ``adjusted`` is the p-value of the AP difference after Holm's correction over the comparisons made together.
    """

    name: str
    metrics: tuple[Difference, ...]
    adjusted: float
    seeds: Welch | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "rows",
        nargs="+",
        metavar="RUN",
        help="a run directory, a folder of runs, or the name of an experiment under --runs; seeds of one configuration "
        "are one row. The first row is what the others are compared with",
    )
    parser.add_argument("--baseline", metavar="RUN", help="compare with this one instead of the first")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where experiments named are (default runs)")
    parser.add_argument("--recipe", help="of the experiments named (default: the one there is)")
    add_bootstrap_arguments(parser)
    add_output_arguments(parser)


def add_bootstrap_arguments(parser: argparse.ArgumentParser) -> None:
    """What a bootstrap needs to know."""
    parser.add_argument("--annotations", type=Path, help="the validation annotations (default: where the run says)")
    parser.add_argument(
        "--resamples", type=int, default=NUM_RESAMPLES, help=f"of the validation images (default {NUM_RESAMPLES})"
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default 0)")


def run(args: argparse.Namespace) -> None:
    check_bootstrap_arguments(args)
    given = [args.baseline, *args.rows] if args.baseline else args.rows
    runs = [found for name in given for found in _runs(name, args.runs, args.recipe)]
    rows = group_rows(runs)
    if len(rows) < 2:
        raise UserError(f"{', '.join(given)}: this is one run; name at least two to compare")
    measured = measure(rows, args.annotations, args.resamples, args.seed)
    comparisons = compare(measured, 0, range(1, len(rows)), args.confidence)
    emit(render([comparison_grid(measured, 0, comparisons, args.confidence)], args.format), args.out)


def check_bootstrap_arguments(args: argparse.Namespace) -> None:
    """Raises UserError for numbers that no bootstrap can have."""
    if args.resamples < 1:
        raise UserError(f"--resamples {args.resamples}: give at least 1 (1000 for a report)")
    if not 0 < args.confidence < 1:
        raise UserError(f"--confidence {args.confidence}: give a number between 0 and 1, such as 0.95")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give a number of at least 0")


def group_rows(runs: Sequence[Run]) -> list[Row]:
    """Runs of one configuration as one row; where all are of one, each run for itself.

    Raises:
        UserError: a run is not finished.
    """
    unique = {run.run_id: run for run in runs}
    for run in unique.values():
        if not run.is_finished:
            raise UserError(f"{run.path} is not finished ({run.status.get('state')}): finish it first")
    summaries = {run_id: summarise(run) for run_id, run in unique.items()}
    identities = dict.fromkeys(summary.identity for summary in summaries.values())
    if len(identities) == 1:
        return [Row(run_id, (run,)) for run_id, run in unique.items()]
    names = {s.identity: str(unique[s.run_id].meta.get("experiment") or s.identity) for s in summaries.values()}
    rows = []
    for identity in identities:
        is_only = list(names.values()).count(names[identity]) == 1
        own = tuple(unique[i] for i, summary in sorted(summaries.items()) if summary.identity == identity)
        rows.append(Row(names[identity] if is_only else f"{names[identity]} {identity}", own))
    return rows


def measure(rows: Sequence[Row], annotations: Path | None, num_resamples: int, seed: int) -> Measured:
    """Match every run once and resample the matches.

    Raises:
        UserError: the runs are of different data, or their detections or annotations cannot be read.
    """
    check_same_data([run for row in rows for run in row.runs])
    truth = load_ground_truth(rows[0].runs[0], annotations)
    if not len(truth.image_ids):
        raise UserError(f"{rows[0].runs[0].path} was evaluated on no images")
    precisions = [[_precision(run, truth) for run in row.runs] for row in rows]
    return Measured(
        tuple(row.name for row in rows),
        len(truth.image_ids),
        np.array([metrics_of(row) for row in precisions]),
        resample(precisions, num_resamples, seed),
        tuple(tuple(float(run().mean()) for run in row) for row in precisions),
    )


def compare(measured: Measured, base: int, others: Sequence[int], confidence: float = 0.95) -> list[Comparison]:
    """The rows ``others`` against the row ``base``."""
    comparisons = []
    for other in others:
        estimates = 100 * (measured.estimates[other] - measured.estimates[base])
        draws = 100 * (measured.draws[:, other] - measured.draws[:, base])
        by_metric = [difference(float(estimates[i]), draws[:, i], confidence) for i in range(len(METRICS))]
        own, reference = ([100 * ap for ap in measured.seeds[row]] for row in (other, base))
        comparisons.append((measured.names[other], tuple(by_metric), welch(own, reference, confidence)))
    adjusted = holm([by_metric[0].p_value for _, by_metric, _ in comparisons])
    return [Comparison(name, by_metric, p, w) for (name, by_metric, w), p in zip(comparisons, adjusted, strict=True)]


def comparison_grid(
    measured: Measured, base: int, comparisons: Sequence[Comparison], confidence: float, title: str | None = None
) -> Grid:
    """The comparisons with one row as a table."""
    percent = f"{100 * confidence:g}%"
    several = len(comparisons) > 1
    has_seeds = any(comparison.seeds for comparison in comparisons)
    header = ["row", "n", "AP", "Δ AP", f"{percent} interval", "p"]
    header += ["p Holm"] if several else []
    header += [f"Δ {name} ({percent})" for name in list(METRICS)[1:]]
    header += ["Δ AP over seeds", "p Welch"] if has_seeds else []

    def start(index: int) -> list[str]:
        ap = 100 * measured.estimates[index][0]
        return [measured.names[index], str(len(measured.seeds[index])), f"{ap:.2f}"]

    rows = [[*start(base), *[""] * (len(header) - 3)]]
    for comparison in comparisons:
        first, *rest = comparison.metrics
        row = [*start(measured.names.index(comparison.name)), f"{first.estimate:+.2f}", _interval(first)]
        row += [_p(first.p_value), *([_p(comparison.adjusted)] if several else [])]
        row += [f"{metric.estimate:+.2f} {_interval(metric)}" for metric in rest]
        if has_seeds and comparison.seeds is not None:
            row += [f"{comparison.seeds.difference:+.2f} {_interval(comparison.seeds)}", _p(comparison.seeds.p_value)]
        elif has_seeds:
            row += [DASH, DASH]
        rows.append(row)
    num_resamples = len(measured.draws)
    remarks = [
        f"AP in percent; differences to the row {measured.names[base]}. Interval and p from {num_resamples} resamples "
        f"of the {measured.num_images} validation images, the same for both rows. They hold for these trained weights: "
        "what another seed would change is not in them, only in a comparison over seeds."
    ]
    if several:
        remarks.append(f"p Holm: corrected for the {len(comparisons)} comparisons of this table.")
    return grid(title or f"Against {measured.names[base]}", header, rows, remarks=tuple(remarks))


def _runs(name: str, root: Path, recipe: str | None) -> list[Run]:
    if Path(name).is_dir():
        found = find_runs(name)
        finished = [run for run in found if run.is_finished]
        if not found:
            raise UserError(f"{name} holds no run")
        if not finished:
            raise UserError(f"{name} holds no finished run: finish one first")
        return finished
    if not root.is_dir():
        raise UserError(f"{name} is no folder; as the name of an experiment it needs --runs, and {root} is no folder")
    summaries = load_summaries([root])
    row = our_rows(summaries, choose_recipe(summaries, recipe)).get(name)
    if row is None or not row.used:
        raise UserError(f"{name} is neither a folder nor an experiment with a finished run under {root}")
    return [summary.directory for summary in row.used]


def _precision(run: Run, truth: GroundTruth) -> AveragePrecision:
    return AveragePrecision(match(truth, load_detections(run, truth)))


def _interval(value: Difference | Welch) -> str:
    return f"[{value.low:+.2f}, {value.high:+.2f}]"


def _p(value: float) -> str:
    return DASH if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"
