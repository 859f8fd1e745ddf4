"""python -m analysis tables: the paper's tables 1 to 9 from finished runs, the published numbers beside them."""

from __future__ import annotations

import argparse

from analysis.arguments import add_output_arguments, add_source_arguments, summaries_of
from analysis.output import emit
from analysis.summaries import choose_recipe
from analysis.tables.formats import render
from analysis.tables.paper_tables import TABLES, build_tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument(
        "--table", nargs="+", type=int, choices=range(1, 10), metavar="N", help="only these, 1 to 9 (default all)"
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> None:
    summaries = summaries_of(args)
    recipe = choose_recipe(summaries, args.recipe)
    tables = [f"table{number}" for number in dict.fromkeys(args.table)] if args.table else TABLES
    emit(render(build_tables(summaries, recipe, tables), args.format), args.out)
