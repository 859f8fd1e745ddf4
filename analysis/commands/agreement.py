"""python -m analysis agreement: does the order of our rows agree with the paper's? Kendall's tau and the pairs."""

from __future__ import annotations

import argparse

from analysis.arguments import add_output_arguments, add_source_arguments, summaries_of
from analysis.our_rows import our_rows
from analysis.output import emit
from analysis.summaries import choose_recipe
from analysis.tables.agreement_table import agreements
from analysis.tables.formats import render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> None:
    summaries = summaries_of(args)
    recipe = choose_recipe(summaries, args.recipe)
    grid, _ = agreements(our_rows(summaries, recipe), recipe)
    emit(render([grid], args.format), args.out)
