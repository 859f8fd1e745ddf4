"""python -m analysis errors: where a run's AP, or the difference between two, comes from.

AP by size, class, crowding and stage; duplicates by stage, and before and after non-maximum suppression.
"""

from __future__ import annotations

import argparse

from analysis.arguments import add_output_arguments
from analysis.output import emit
from analysis.statistics.suppression import NMS_IOU
from analysis.tables.error_tables import MIN_SCORE, error_grids
from analysis.tables.formats import render
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import user_path
from sparse_rcnn.rundir.reader import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="one run directory, or two to compare")
    parser.add_argument(
        "--annotations", type=user_path, help="the validation annotations (default: where the run says)"
    )
    parser.add_argument(
        "--score",
        type=float,
        default=MIN_SCORE,
        help=f"duplicates are counted from this score on (default {MIN_SCORE})",
    )
    parser.add_argument(
        "--nms-iou",
        type=float,
        default=NMS_IOU,
        help=f"IoU above which the NMS of the last table removes a detection (default {NMS_IOU})",
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if len(args.runs) > 2:
        raise UserError(f"{len(args.runs)} runs are given: give one, or two to compare")
    if len({path.resolve() for path in args.runs}) < len(args.runs):
        raise UserError(f"{args.runs[0]} is given twice: give it once, or another run to compare it with")
    if not 0 <= args.score <= 1:
        raise UserError(f"--score {args.score:g}: scores lie between 0 and 1, give such a number, as {MIN_SCORE}")
    if not 0 <= args.nms_iou <= 1:
        raise UserError(f"--nms-iou {args.nms_iou:g}: an IoU lies between 0 and 1, give such a number, as {NMS_IOU}")
    runs = [Run(path) for path in args.runs]
    for item in runs:
        if not item.is_finished:
            raise UserError(f"{item.path} is not finished ({item.status.get('state')}): finish it first")
    emit(render(error_grids(runs, args.annotations, args.score, args.nms_iou), args.format), args.out)
