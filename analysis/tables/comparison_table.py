"""Comparisons of rows with one of them as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.statistics.bootstrap import METRICS, BootstrapDifference, WelchTest
from analysis.statistics.comparison import MeasuredRows, RowComparison
from analysis.tables.formats import DASH, Grid, grid


def comparison_grid(
    measured: MeasuredRows, base: int, comparisons: Sequence[RowComparison], confidence: float, title: str | None = None
) -> Grid:
    """The comparisons with one row as a table."""
    percent = f"{100 * confidence:g}%"
    several = len(comparisons) > 1
    has_seeds = any(comparison.seeds for comparison in comparisons)
    header = ["row", "n", "AP", "Δ AP", f"{percent} interval", "p"]
    header += ["p Holm"] if several else []
    header += [f"Δ {name} ({percent})" for name in list(METRICS)[1:]]
    header += ["Δ AP over seeds", "p Welch"] if has_seeds else []

    def start(index: int) -> list[str]:
        ap = 100 * measured.estimates[index][0]
        return [measured.names[index], str(len(measured.seeds[index])), f"{ap:.2f}"]

    rows = [[*start(base), *[""] * (len(header) - 3)]]
    for comparison in comparisons:
        first, *rest = comparison.metrics
        row = [*start(measured.names.index(comparison.name)), f"{first.estimate:+.2f}", _interval(first)]
        row += [_p(first.p_value), *([_p(comparison.adjusted)] if several else [])]
        row += [f"{metric.estimate:+.2f} {_interval(metric)}" for metric in rest]
        if has_seeds and comparison.seeds is not None:
            row += [f"{comparison.seeds.difference:+.2f} {_interval(comparison.seeds)}", _p(comparison.seeds.p_value)]
        elif has_seeds:
            row += [DASH, DASH]
        rows.append(row)
    num_resamples = len(measured.draws)
    remarks = [
        f"AP in percent; differences to the row {measured.names[base]}. Interval and p from {num_resamples} resamples "
        f"of the {measured.num_images} validation images, the same for both rows. They hold for these trained weights: "
        "what another seed would change is not in them, only in a comparison over seeds."
    ]
    if several:
        remarks.append(f"p Holm: corrected for the {len(comparisons)} comparisons of this table.")
    return grid(title or f"Against {measured.names[base]}", header, rows, remarks=tuple(remarks))


def _interval(value: BootstrapDifference | WelchTest) -> str:
    return f"[{value.low:+.2f}, {value.high:+.2f}]"


def _p(value: float) -> str:
    return DASH if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"
