"""Rows measured on their validation images and compared: over resampled images and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.statistics.average_precision import AveragePrecision
from analysis.statistics.bootstrap import (
    METRICS,
    BootstrapDifference,
    WelchTest,
    difference,
    holm,
    metrics_of,
    resample,
    welch,
)
from analysis.statistics.coco_columns import (
    FloatArray,
    GroundTruth,
    check_same_data,
    load_detections,
    load_ground_truth,
)
from analysis.statistics.matching import match
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.summary import summarise


@dataclass(frozen=True)
class ComparedRow:
    """A configuration to compare, and its finished runs, one a seed."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class MeasuredRows:
    """AP, AP50 and AP75 as fractions: ``estimates`` (rows, 3) on all images, ``draws`` (B, rows, 3) on resamples of
    them, and ``seeds``, the AP of each run of each row.
    """

    names: tuple[str, ...]
    num_images: int
    estimates: FloatArray
    draws: FloatArray
    seeds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class RowComparison:
    """A row against another, in percent: by metric the difference over images, and over seeds where there are several.

    ``adjusted`` is the p-value of the AP difference after Holm's correction over the comparisons made together.
    """

    name: str
    metrics: tuple[BootstrapDifference, ...]
    adjusted: float
    seeds: WelchTest | None


def group_rows(runs: Sequence[Run]) -> list[ComparedRow]:
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
        return [ComparedRow(run_id, (run,)) for run_id, run in unique.items()]
    names = {s.identity: str(unique[s.run_id].meta.get("experiment") or s.identity) for s in summaries.values()}
    rows = []
    for identity in identities:
        is_only = list(names.values()).count(names[identity]) == 1
        own = tuple(unique[i] for i, summary in sorted(summaries.items()) if summary.identity == identity)
        rows.append(ComparedRow(names[identity] if is_only else f"{names[identity]} {identity}", own))
    return rows


def measure(rows: Sequence[ComparedRow], annotations: Path | None, num_resamples: int, seed: int) -> MeasuredRows:
    """Match every run once and resample the matches.

    Raises:
        UserError: the runs are of different data, or their detections or annotations cannot be read.
    """
    check_same_data([run for row in rows for run in row.runs])
    truth = load_ground_truth(rows[0].runs[0], annotations)
    if not len(truth.image_ids):
        raise UserError(f"{rows[0].runs[0].path} was evaluated on no images")
    precisions = [[_precision(run, truth) for run in row.runs] for row in rows]
    return MeasuredRows(
        tuple(row.name for row in rows),
        len(truth.image_ids),
        np.array([metrics_of(row) for row in precisions]),
        resample(precisions, num_resamples, seed),
        tuple(tuple(float(run().mean()) for run in row) for row in precisions),
    )


def compare(measured: MeasuredRows, base: int, others: Sequence[int], confidence: float = 0.95) -> list[RowComparison]:
    """The rows ``others`` against the row ``base``."""
    comparisons = []
    for other in others:
        estimates = 100 * (measured.estimates[other] - measured.estimates[base])
        draws = 100 * (measured.draws[:, other] - measured.draws[:, base])
        by_metric = [difference(float(estimates[i]), draws[:, i], confidence) for i in range(len(METRICS))]
        own, reference = ([100 * ap for ap in measured.seeds[row]] for row in (other, base))
        comparisons.append((measured.names[other], tuple(by_metric), welch(own, reference, confidence)))
    adjusted = holm([by_metric[0].p_value for _, by_metric, _ in comparisons])
    return [RowComparison(name, by_metric, p, w) for (name, by_metric, w), p in zip(comparisons, adjusted, strict=True)]


def _precision(run: Run, truth: GroundTruth) -> AveragePrecision:
    return AveragePrecision(match(truth, load_detections(run, truth)))
