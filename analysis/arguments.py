"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.summaries import load_summaries
from analysis.tables.formats import FORMATS
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import user_path
from sparse_rcnn.rundir.summary import RunSummary

NUM_RESAMPLES = 1000


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """``--runs`` and ``--recipe``, as all commands over many runs have them."""
    parser.add_argument(
        "--runs",
        nargs="+",
        type=user_path,
        default=[Path("runs")],
        metavar="RUNS",
        help="folders of runs (default runs)",
    )
    parser.add_argument("--recipe", help="use runs of this recipe (default: the one there is)")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """The same, and ``--wandb``, for commands that need no more than W&B has."""
    add_run_arguments(parser)
    parser.set_defaults(runs=None)
    parser.add_argument(
        "--wandb", metavar="ENTITY/PROJECT", help="runs of a Weights & Biases project, with --runs besides those there"
    )


def summaries_of(args: argparse.Namespace) -> list[RunSummary]:
    """The runs that `add_source_arguments` asks for."""
    roots = [Path("runs")] if args.runs is None and args.wandb is None else args.runs or []
    return load_summaries(roots, args.wandb)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """``--format`` and ``--out``, as all commands that print tables have them."""
    parser.add_argument("--format", choices=FORMATS, default="text", help="default text")
    parser.add_argument("--out", type=user_path, metavar="FILE", help="write there instead of printing")


def add_bootstrap_arguments(parser: argparse.ArgumentParser) -> None:
    """``--annotations`` and the settings of a bootstrap over the validation images."""
    parser.add_argument(
        "--annotations", type=user_path, help="the validation annotations (default: where the run says)"
    )
    parser.add_argument(
        "--resamples", type=int, default=NUM_RESAMPLES, help=f"of the validation images (default {NUM_RESAMPLES})"
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default 0)")


def check_bootstrap_arguments(args: argparse.Namespace) -> None:
    """Raises UserError for numbers that no bootstrap can have."""
    if args.resamples < 1:
        raise UserError(f"--resamples {args.resamples}: give at least 1 (1000 for a report)")
    if not 0 < args.confidence < 1:
        raise UserError(f"--confidence {args.confidence}: give a number between 0 and 1, such as 0.95")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give a number of at least 0")
