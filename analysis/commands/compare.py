"""python -m analysis compare: whether rows really differ, by a bootstrap over validation images and over seeds."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from analysis.arguments import add_bootstrap_arguments, add_output_arguments, check_bootstrap_arguments
from analysis.our_rows import our_rows
from analysis.output import emit
from analysis.statistics.comparison import compare, group_rows, measure
from analysis.summaries import choose_recipe, load_summaries
from analysis.tables.comparison_table import comparison_grid
from analysis.tables.formats import render
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import user_path
from sparse_rcnn.rundir.find import find_runs
from sparse_rcnn.rundir.reader import Run

_WANTED = "give a run directory, a folder of runs, or the name of an experiment under --runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "rows",
        nargs="+",
        type=os.path.expanduser,
        metavar="RUN",
        help="a run directory, a folder of runs, or the name of an experiment under --runs; seeds of one configuration "
        "are one row. The first row is what the others are compared with",
    )
    parser.add_argument(
        "--baseline", type=os.path.expanduser, metavar="RUN", help="compare with this one instead of the first"
    )
    parser.add_argument(
        "--runs", type=user_path, default=Path("runs"), help="where experiments named are (default runs)"
    )
    parser.add_argument("--recipe", help="of the experiments named (default: the one there is)")
    add_bootstrap_arguments(parser)
    add_output_arguments(parser)


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


def _runs(name: str, root: Path, recipe: str | None) -> list[Run]:
    if Path(name).is_dir():
        found = find_runs(name)
        finished = [run for run in found if run.is_finished]
        if not found:
            raise UserError(f"{name} holds no run")
        if not finished:
            raise UserError(f"{name} holds no finished run: finish one first")
        return finished
    if Path(name).exists():
        raise UserError(f"{name} is a file: {_WANTED}")
    if os.path.basename(name) != name:
        raise UserError(f"{name} does not exist: {_WANTED}")
    if not root.is_dir():
        raise UserError(f"{name} is no folder; as the name of an experiment it needs --runs, and {root} is no folder")
    summaries = load_summaries([root])
    is_known = any(name in summary.experiments for summary in summaries)  # before the recipe that it is wanted of
    row = our_rows(summaries, choose_recipe(summaries, recipe))[name] if is_known else None
    if row is None or not row.used:
        raise UserError(f"{name} is neither a folder nor an experiment with a finished run under {root}")
    return [summary.directory for summary in row.used]
