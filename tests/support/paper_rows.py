"""Rows of the paper's tables from synthetic runs."""

from __future__ import annotations

from pathlib import Path

from analysis.our_rows import OurRow, our_rows
from analysis.summaries import load_summaries
from tests.support.runs import make_run


def rows_with_aps(root: Path, aps: dict[str, list[float]]) -> dict[str, OurRow]:
    """Rows of recipe mini: for each name the AP in percent of its seeds."""
    for name, values in aps.items():
        for seed, ap in enumerate(values):
            make_run(root, name, seed, ap / 100)
    return our_rows(load_summaries([root]), "mini")
