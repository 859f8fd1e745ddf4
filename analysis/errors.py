"""python -m analysis errors: where a run's AP comes from: size, class, crowding, stage; duplicates by stage."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from analysis import breakdown
from analysis.average_precision import AveragePrecision
from analysis.boxes_data import check_same_data, load_detections, load_ground_truth, load_stage_detections
from analysis.breakdown import CROWDED_IOU, Part, Stage
from analysis.duplicates import Duplicates
from analysis.formats import DASH, Grid, grid, render
from analysis.matches import match
from analysis.output import add_output_arguments, emit
from analysis.runs import Run, RunError, read_run

MIN_SCORE = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="one run directory, or two to compare")
    parser.add_argument("--annotations", type=Path, help="the validation annotations (default: where the run says)")
    parser.add_argument(
        "--score",
        type=float,
        default=MIN_SCORE,
        help=f"duplicates are counted from this score on (default {MIN_SCORE})",
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if len(args.runs) > 2:
        raise RunError(f"{len(args.runs)} runs are given: give one, or two to compare")
    runs = [read_run(path) for path in args.runs]
    for item in runs:
        if not item.is_finished:
            raise RunError(f"{item.path} is not finished ({item.status.get('state')}): finish it first")
    emit(render(error_grids(runs, args.annotations, args.score), args.format), args.out)


def error_grids(runs: Sequence[Run], annotations: Path | None, min_score: float = MIN_SCORE) -> list[Grid]:
    """The tables of one run, or of two with their differences.

    Raises:
        RunError: the runs are of different data, or their detections or annotations cannot be read.
    """
    check_same_data(runs)
    truth = load_ground_truth(runs[0], annotations)
    detections = [load_detections(item, truth) for item in runs]
    precisions = [AveragePrecision(match(truth, own)) for own in detections]
    names = [_name(item, runs) for item in runs]
    grids = [_parts_grid("AP by size", "size", "boxes", names, [breakdown.by_size(truth, own) for own in detections])]
    sections: tuple[tuple[str, str, str, Callable[..., list[Part]]], ...] = (
        ("AP by class", "class", "boxes", breakdown.by_class),
        ("AP by number of boxes in the image", "boxes in it", "images", breakdown.by_box_count),
        ("AP by the largest IoU between boxes of the image", "IoU", "images", breakdown.by_overlap),
    )
    for title, label, unit, function in sections:
        grids.append(_parts_grid(title, label, unit, names, [function(truth, precision) for precision in precisions]))
    missing = [item for item in runs if not (item.path / "stage_detections.npz").is_file()]
    if missing:
        reason = f"No table by stage: {missing[0].run_id} has no stage_detections.npz (a run of an older version)."
        grids[-1] = replace(grids[-1], remarks=(reason,))
    else:
        stages = [breakdown.by_stage(truth, load_stage_detections(item, truth), min_score) for item in runs]
        grids += [
            _stage_grid(names, stages),
            *(_duplicates_grid(n, s, min_score) for n, s in zip(names, stages, strict=True)),
        ]
    return grids


def _name(item: Run, runs: Sequence[Run]) -> str:
    names = [str(other.meta.get("experiment")) for other in runs]
    own = str(item.meta.get("experiment"))
    return own if names.count(own) == 1 else item.run_id


def _parts_grid(title: str, label: str, unit: str, names: Sequence[str], parts: Sequence[Sequence[Part]]) -> Grid:
    rows = []
    for own in zip(*parts, strict=True):
        rows.append([own[0].name, str(own[0].count), *_values([part.ap for part in own])])
    return grid(title, [label, unit, *_headers(names)], rows)


def _stage_grid(names: Sequence[str], stages: Sequence[Sequence[Stage]]) -> Grid:
    rows = []
    for index, own in enumerate(zip_longest(*stages)):
        rows.append([str(index), *_values([None if stage is None else stage.ap for stage in own])])
    return grid("AP by stage, each stage's own output", ["stage", *_headers(names)], rows)


def _duplicates_grid(name: str, stages: Sequence[Stage], min_score: float) -> Grid:
    header = ["stage", "detections", "find a box", "duplicates", "on nothing", "per box found", "share"]
    header += ["share in crowded images", "share in others"]
    rows = []
    for stage in stages:
        count = stage.everywhere
        numbers = (count.num_detections, count.num_true, count.num_duplicates, count.num_others)
        ratio = DASH if not count.num_true else f"{count.num_duplicates / count.num_true:.2f}"
        shares = (_share(part) for part in (count, stage.crowded, stage.elsewhere))
        rows.append([str(stage.index), *map(str, numbers), ratio, *shares])
    remark = (
        f"Of the detections with a score of at least {min_score:g}; a duplicate overlaps, with an IoU of at least 0.5, "
        "a box of its class that a better-scored detection has found. Per box found: duplicates for each detection "
        "that finds a box. Share: duplicates among the detections. Crowded "
        f"images have two boxes with an IoU of at least {CROWDED_IOU:g}."
    )
    return grid(f"Duplicates by stage: {name}", header, rows, remarks=(remark,))


def _share(count: Duplicates) -> str:
    return DASH if count.share is None else f"{100 * count.share:.1f}%"


def _headers(names: Sequence[str]) -> list[str]:
    return [*names, *(["Δ"] if len(names) == 2 else [])]


def _values(values: Sequence[float | None]) -> list[str]:
    texts = [DASH if value is None else f"{value:.1f}" for value in values]
    if len(values) == 2:
        first, second = values
        texts.append(DASH if first is None or second is None else f"{second - first:+.1f}")
    return texts
