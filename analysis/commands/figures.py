"""python -m analysis figures: figure 1, AP over epochs and time, and figure 4, an image stage by stage, PNG and PDF."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis.arguments import add_source_arguments, summaries_of
from analysis.figures.convergence import write_figure1
from analysis.figures.figure4 import write_figure4
from analysis.summaries import choose_recipe
from sparse_rcnn.places import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument(
        "--out",
        type=user_path,
        default=Path("figures"),
        metavar="DIR",
        help="folder for figure1 and figure4, .png and .pdf (default figures)",
    )
    parser.add_argument(
        "--experiments", nargs="+", metavar="NAME", help="rows of figure 1 (default: those of table 1 that have runs)"
    )
    parser.add_argument("--score-threshold", type=float, default=0.3, help="boxes of figure 4 (default 0.3)")


def run(args: argparse.Namespace) -> None:
    summaries = summaries_of(args)
    recipe = choose_recipe(summaries, args.recipe)
    for path in write_figure1(summaries, recipe, args.out, args.experiments):
        print(path)
    figure4, reason = write_figure4(summaries, recipe, args.out, args.score_threshold)
    for path in figure4:
        print(path)
    if reason:
        print(f"no figure 4: {reason}", file=sys.stderr)
