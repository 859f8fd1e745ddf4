"""Tables of where the AP of a run, or the difference between two, comes from."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from analysis.statistics import breakdown
from analysis.statistics.average_precision import AveragePrecision
from analysis.statistics.bootstrap import METRICS, metrics_of
from analysis.statistics.breakdown import CROWDED_IOU, StageBreakdown, SubsetAP
from analysis.statistics.coco_columns import (
    FoundBoxes,
    GroundTruth,
    check_same_data,
    load_detections,
    load_ground_truth,
    load_stage_detections,
)
from analysis.statistics.duplicates import IOU, DuplicateCounts, removed_percent
from analysis.statistics.matching import match
from analysis.statistics.suppression import NMS_IOU
from analysis.tables.formats import DASH, Cell, Grid, grid
from analysis.tables.suppression_table import NamedDetections, suppression_grid
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.reader import Run

MIN_SCORE = 0.3


def error_grids(
    runs: Sequence[Run], annotations: Path | None, min_score: float = MIN_SCORE, nms_iou: float = NMS_IOU
) -> list[Grid]:
    """The tables of one run, or of two with their differences.

    Raises:
        UserError: the runs are of different data, or their detections or annotations cannot be read.
    """
    check_same_data(runs)
    truth = load_ground_truth(runs[0], annotations)
    detections = [load_detections(item, truth) for item in runs]
    precisions = [AveragePrecision(match(truth, own)) for own in detections]
    names = _names(runs)
    grids = [
        _ap_grid(names, precisions, _compare_command(runs, annotations)),
        _parts_grid("AP by size", "size", "boxes", names, [breakdown.by_size(truth, own) for own in detections]),
        _classes_grid(names, [breakdown.by_class(truth, precision) for precision in precisions]),
    ]
    sections: tuple[tuple[str, str, str, Callable[..., list[SubsetAP]]], ...] = (
        ("AP by number of boxes in the image", "boxes in it", "images", breakdown.by_box_count),
        ("AP by the largest IoU between boxes of the image", "IoU", "images", breakdown.by_overlap),
    )
    for title, label, unit, function in sections:
        grids.append(_parts_grid(title, label, unit, names, [function(truth, precision) for precision in precisions]))
    missing = [item for item in runs if not (item.path / layout.STAGE_DETECTIONS).is_file()]
    by_stage = [{"detections": own} for own in detections]
    if missing:
        reason = f"No table by stage: {missing[0].run_id} has no stage_detections.npz (a run of an older version)."
        grids[-1] = replace(grids[-1], remarks=(reason,))
    else:
        by_stage = [_by_stage(item, own, truth) for item, own in zip(runs, detections, strict=True)]
        stages = [breakdown.by_stage(truth, list(own.values()), min_score) for own in by_stage]
        labels = [list(own) for own in by_stage]
        is_staged = ["detections" not in own for own in by_stage]
        if any(is_staged):
            grids.append(_stage_grid(names, [own if has else [] for own, has in zip(stages, is_staged, strict=True)]))
        grids += [_duplicates_grid(*about, min_score) for about in zip(names, labels, stages, strict=True)]
        if all(is_staged) and all(stages):
            grids.append(_removed_grid(names, stages, min_score))
    named = [NamedDetections(name, item, own) for name, item, own in zip(names, runs, by_stage, strict=True)]
    return [*grids, suppression_grid(truth, named, min_score, nms_iou)]


def _by_stage(run: Run, detections: FoundBoxes, truth: GroundTruth) -> dict[str, FoundBoxes]:
    """The detections by stage, or as ``detections`` where the run's detector has none."""
    stages = load_stage_detections(run, truth)
    if len(stages) < 2 and not metric_keys.stages_in(run.results or {}):
        return {"detections": detections}
    return {f"stage {index}": own for index, own in enumerate(stages)}


def _names(runs: Sequence[Run]) -> list[str]:
    """The shortest names that differ between the runs: experiment, run id, path."""
    by_experiment = [str(item.meta.get("experiment")) for item in runs]
    by_id = [item.run_id for item in runs]
    paths = [str(item.path) for item in runs]
    return next((names for names in (by_experiment, by_id) if len(set(names)) == len(names)), paths)


def _compare_command(runs: Sequence[Run], annotations: Path | None) -> str:
    arguments = [str(item.path) for item in runs]
    arguments += [] if annotations is None else ["--annotations", str(annotations)]
    return f"python -m analysis compare {shlex.join(arguments)}"


def _ap_grid(names: Sequence[str], precisions: Sequence[AveragePrecision], compare: str) -> Grid:
    columns = [[None if np.isnan(v) else 100 * float(v) for v in metrics_of([own])] for own in precisions]
    rows = [[metric, *_values(own, 2)] for metric, *own in zip(METRICS, *columns, strict=True)]
    remarks = (f"Whether they really differ: `{compare}` tests it.",) if len(names) == 2 else ()
    return grid("AP", ["metric", *_headers(names)], rows, remarks=remarks)


def _parts_grid(title: str, label: str, unit: str, names: Sequence[str], parts: Sequence[Sequence[SubsetAP]]) -> Grid:
    rows = []
    for own in zip(*parts, strict=True):
        rows.append([own[0].name, str(own[0].count), *_values([part.ap for part in own])])
    return grid(title, [label, unit, *_headers(names)], rows)


def _classes_grid(names: Sequence[str], classes: Sequence[Sequence[SubsetAP]]) -> Grid:
    table = _parts_grid("AP by class", "class", "boxes", names, classes)
    if len(names) < 2:
        return table
    added = [Cell(_number(value, "+.2f")) for value in breakdown.contributions(*classes)]
    groups = tuple(((*row, cell),) for row, cell in zip(table.rows, added, strict=True))
    remark = (
        "Contribution: what the class adds to the difference in AP. AP is the mean over these classes, so this is Δ "
        "divided by their number, and the contributions add up to the difference."
    )
    return replace(table, header=(*table.header, "contribution"), groups=groups, remarks=(remark,))


def _stage_grid(names: Sequence[str], stages: Sequence[Sequence[StageBreakdown]]) -> Grid:
    rows = []
    for index, own in enumerate(zip_longest(*stages)):
        rows.append([str(index), *_values([None if stage is None else stage.ap for stage in own])])
    without = [name for name, own in zip(names, stages, strict=True) if not own]
    remarks = tuple(f"{name} has no stages." for name in without)
    return grid("AP by stage, each stage's own output", ["stage", *_headers(names)], rows, remarks=remarks)


def _duplicates_grid(name: str, labels: Sequence[str], stages: Sequence[StageBreakdown], min_score: float) -> Grid:
    has_stages = "detections" not in labels
    header = ["stage" if has_stages else "of", "detections", "find a box", "duplicates", "on nothing", "share"]
    header += ["share, crowded", "share, others", "per box found", "per box found, N best"]
    rows = []
    for label, stage in zip(labels, stages, strict=True):
        scenes = stage.above_score
        count = scenes.everywhere
        numbers = (count.num_detections, count.num_true, count.num_duplicates, count.num_others)
        shares = (_share(part) for part in (count, scenes.crowded, scenes.elsewhere))
        ratios = (_ratio(part) for part in (count, stage.best.everywhere))
        rows.append([label.removeprefix("stage "), *map(str, numbers), *shares, *ratios])
    remark = (
        f"Of the detections with a score of at least {min_score:g}; a duplicate overlaps, with an IoU of at least "
        f"{IOU:g}, a box of its class that a better-scored detection has found. Share: duplicates among the "
        f"detections; crowded images have two boxes with an IoU of at least {CROWDED_IOU:g}. Per box found: duplicates "
        "for each detection that finds a box. N best: instead of those from a score on, as many of the best-scored "
        "detections as there are boxes, so that it does not matter how high a stage or a detector scores."
    )
    title = f"Duplicates by stage: {name}" if has_stages else f"Duplicates: {name}"
    return grid(title, header, rows, remarks=(remark, *_removed_remark(stages)))


def _removed_remark(stages: Sequence[StageBreakdown]) -> tuple[str, ...]:
    """How duplicates change from the first to the last stage, in a sentence; nothing for a single stage."""
    if len(stages) < 2:
        return ()
    first, last = stages[0], stages[-1]
    above_score = _change(first.above_score.everywhere, last.above_score.everywhere)
    best = _change(first.best.everywhere, last.best.everywhere)
    return (f"Duplicates per box found from the first to the last stage: {above_score}; among the N best {best}.",)


def _change(first: DuplicateCounts, last: DuplicateCounts) -> str:
    percent = removed_percent(first, last)
    verdict = "" if percent is None else f", {abs(percent):.1f}% {'added' if percent < 0 else 'removed'}"
    return f"{_ratio(first)} to {_ratio(last)}{verdict}"


def _removed_grid(names: Sequence[str], stages: Sequence[Sequence[StageBreakdown]], min_score: float) -> Grid:
    groups = []
    for measure, scenes in (
        (f"score ≥ {min_score:g}", [[stage.above_score for stage in own] for own in stages]),
        ("N best", [[stage.best for stage in own] for own in stages]),
    ):
        for index, images in enumerate(("all", "crowded", "others")):
            ends = [_ends([counts[index] for counts in own]) for own in scenes]
            groups.append(_ends_rows([measure, images], names, ends))
    header = ("detections", "images", "run", "first stage", "last stage", "removed in %")
    remark = (
        "Duplicates per box found in the first and in the last stage, and how many of them, in percent, the later "
        "stages remove; below zero they add some. Where the first stage has few, the percentage is large: read it with "
        "the two before it. N best: of these images, as many of their best-scored detections as they have boxes."
    )
    remark += f" Δ: {names[1]} less {names[0]}." if len(names) == 2 else ""
    return Grid("Duplicates removed by later stages", header, tuple(groups), num_label_columns=3, remarks=(remark,))


def _ends(stages: Sequence[DuplicateCounts]) -> list[float | None]:
    """Duplicates per box found of the first and of the last stage, and the percentage removed if they are two."""
    first, last = stages[0], stages[-1]
    return [first.per_box_found, last.per_box_found, removed_percent(first, last) if len(stages) > 1 else None]


def _ends_rows(
    labels: Sequence[str], names: Sequence[str], ends: Sequence[Sequence[float | None]]
) -> tuple[tuple[Cell, ...], ...]:
    """A row of each run's ``_ends``, and with two runs one of their differences."""
    rows = [[name, *map(_number, own, (".2f", ".2f", ".1f"))] for name, own in zip(names, ends, strict=True)]
    if len(names) == 2:
        rows.append(["Δ", *map(_number, map(_difference, *ends), ("+.2f", "+.2f", "+.1f"))])
    return tuple(tuple(map(Cell, (*labels, *row))) for row in rows)


def _ratio(count: DuplicateCounts) -> str:
    return _number(count.per_box_found, ".2f")


def _share(count: DuplicateCounts) -> str:
    return DASH if count.share is None else f"{100 * count.share:.1f}%"


def _headers(names: Sequence[str]) -> list[str]:
    return [*names, *(["Δ"] if len(names) == 2 else [])]


def _values(values: Sequence[float | None], digits: int = 1) -> list[str]:
    texts = [_number(value, f".{digits}f") for value in values]
    return [*texts, _number(_difference(*values), f"+.{digits}f")] if len(values) == 2 else texts


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else second - first


def _number(value: float | None, form: str) -> str:
    return DASH if value is None else f"{value:{form}}"
