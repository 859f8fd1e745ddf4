"""python -m analysis.row_order: do our rows come out in the order of the paper's? A finding, per table and pair."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from analysis.paper.rows import EXPERIMENTS, PublishedRow, published_rows, published_tables
from analysis.runs import Run, RunError, find_runs

MIN_DIFFERENCE = 0.5  # AP, between published rows; smaller ones are within the noise between two runs


@dataclass(frozen=True)
class Pair:
    """Two rows of a table, ``low`` and ``high`` as published; AP in percent, ours None where a row has no run."""

    low: PublishedRow
    high: PublishedRow
    low_ap: float | None
    high_ap: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether ours come out in the same order; None where one is missing."""
        return None if self.low_ap is None or self.high_ap is None else self.high_ap > self.low_ap


def mean_ap(runs: Sequence[Run], recipe: str) -> dict[str, tuple[float, int]]:
    """Mean final AP (percent) and number of seeds of each experiment, of the finished runs of a recipe."""
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if run.is_finished and run.meta.get("recipe") == recipe:
            for name in run.experiments:
                values[name].append(100 * run.results["val/bbox/AP"])
    return {name: (statistics.fmean(aps), len(aps)) for name, aps in values.items()}


def pairs(table: str, ours: Mapping[str, tuple[float, int]], min_difference: float = MIN_DIFFERENCE) -> list[Pair]:
    """The pairs of a table's rows whose published AP differs by more than ``min_difference``."""
    found = []
    for a, b in combinations(published_rows(table), 2):
        low, high = sorted((a, b), key=lambda row: row.ap)
        if high.ap - low.ap > min_difference:
            low_ap, high_ap = (ours[row.experiment][0] if row.experiment in ours else None for row in (low, high))
            found.append(Pair(low, high, low_ap, high_ap))
    return found


def report(ours: Mapping[str, tuple[float, int]], recipe: str, min_difference: float = MIN_DIFFERENCE) -> str:
    """A Markdown section for each table."""
    lines = [f"Order of rows, recipe `{recipe}` (AP in percent; seeds in brackets), against the published order.", ""]
    total = [0, 0]
    for table in EXPERIMENTS:
        found = pairs(table, ours, min_difference)
        known = [pair for pair in found if pair.agrees is not None]
        agreeing = sum(bool(pair.agrees) for pair in known)
        total = [total[0] + agreeing, total[1] + len(known)]
        lines += [f"### {table.capitalize()}: {published_tables()[table]['title']}", ""]
        lines += ["| row | published | ours |", "|---|---:|---:|"]
        for row in published_rows(table):
            value = f"{ours[row.experiment][0]:.1f} ({ours[row.experiment][1]})" if row.experiment in ours else "-"
            lines.append(f"| {row.experiment} | {row.ap:.1f} | {value} |")
        lines += ["", f"{agreeing} of {len(known)} pairs in the published order ({len(found)} pairs in all)."]
        lines += [
            f"- other order: {pair.high.experiment} ({pair.high.ap:.1f} > {pair.low.ap:.1f} published; "
            f"{pair.high_ap:.1f} against {pair.low_ap:.1f} here) and {pair.low.experiment}"
            for pair in known
            if not pair.agrees
        ]
        lines.append("")
    lines.append(f"All tables: {total[0]} of {total[1]} pairs in the published order.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of the runs under a folder; 1 where it cannot be read or holds no finished run."""
    parser = argparse.ArgumentParser(prog="python -m analysis.row_order", description=__doc__)
    parser.add_argument("runs_root", nargs="?", default="runs")
    parser.add_argument("--recipe", default="mini", help="only runs of this recipe (default mini)")
    parser.add_argument(
        "--min-difference", type=float, default=MIN_DIFFERENCE, help="published AP apart, in percent (default 0.5)"
    )
    options = parser.parse_args(arguments)
    try:
        ours = mean_ap(find_runs(options.runs_root), options.recipe)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not ours:
        print(f"error: there is no finished run of recipe {options.recipe} under {options.runs_root}", file=sys.stderr)
        return 1
    print(report(ours, options.recipe, options.min_difference))
    return 0


if __name__ == "__main__":
    sys.exit(main())
