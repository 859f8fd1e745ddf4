"""How far rows are in the order of the paper's: all its tables as one, and the pairs that differ as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.our_rows import OurRow, on_same_data
from analysis.paper.rows import EXPERIMENTS, published_rows
from analysis.statistics.agreement import MIN_ROWS, SeedSpread, TableAgreement, agreement, published_noise, seed_spread
from analysis.tables.formats import DASH, Grid, grid
from analysis.tables.paper_tables import epochs_remark


def agreements(rows: Mapping[str, OurRow], recipe: str) -> tuple[Grid, dict[str, TableAgreement]]:
    """The order of rows in all tables, as one table and by table; rows on other data than the most are left out."""
    same, others = on_same_data(rows)
    spread = seed_spread(same)
    found = {table: agreement(table, same, spread) for table in EXPERIMENTS}
    own = {row.experiment for table in EXPERIMENTS for row in published_rows(table)}
    left_out = [name for name in others if name in own]
    flagged = [name for name, row in same.items() if name in own and row.used and row.flags]
    lengths = [remark for table in EXPERIMENTS for remark in epochs_remark(table, same)]
    return agreement_grid(list(found.values()), recipe, spread, left_out, flagged, lengths), found


def agreement_grid(
    agreements: Sequence[TableAgreement],
    recipe: str,
    spread: SeedSpread | None = None,
    left_out: Sequence[str] = (),
    flagged: Sequence[str] = (),
    lengths: Sequence[str] = (),
) -> Grid:
    """All tables in one table; below it rows ``left_out`` and ``flagged``, and remarks on ``lengths`` of training."""
    noise = published_noise()
    lines, totals = [], np.zeros(3, np.int64)
    for item in agreements:
        clear = [pair for pair in item.pairs if pair.difference > noise]
        known = [pair for pair in clear if pair.agrees is not None]
        agreeing = sum(bool(pair.agrees) for pair in known)
        totals += [agreeing, len(known), len(clear)]
        interval = DASH if item.interval is None else f"[{item.interval[0]:+.2f}, {item.interval[1]:+.2f}]"
        lines.append(
            [
                item.table.removeprefix("table"),
                f"{item.num_known} of {item.num_rows}",
                DASH if item.tau is None else f"{item.tau:+.2f}",
                interval,
                DASH if item.interval is None else item.over,
                DASH if item.p_value is None else f"{item.p_value:.2f}",
                f"{agreeing} of {len(known)}",
                f"{len(clear)} of {len(item.pairs)}",
            ]
        )
    num_pairs = sum(len(item.pairs) for item in agreements)
    lines.append(["all", "", DASH, DASH, DASH, DASH, f"{totals[0]} of {totals[1]}", f"{totals[2]} of {num_pairs}"])
    header = ["table", "rows", "Kendall τ", "95% interval", "over", "p", "pairs agree", f"pairs > {noise} AP"]
    if spread is None:
        interval = f"No row has several seeds: the interval is a bootstrap over the rows, of at least {MIN_ROWS}"
    else:
        configurations = (
            "one configuration" if spread.num_configurations == 1 else (f"{spread.num_configurations} configurations")
        )
        interval = (
            f"The interval covers about 95% of what as many other seeds would give, all with the spread of "
            f"{configurations} that have several ({spread.ap:.2f} AP, {spread.degrees_of_freedom} degrees of freedom)"
        )
    remarks = [
        f"Recipe {recipe}. τ (tau-b) of our mean AP and the published AP over the rows that have finished runs. "
        f"{interval}. p: of no association, over the few rows of a table.",
        f"Pairs of rows whose published AP differs by more than {noise}, the noise between two runs that the authors "
        "state, and how many of those known here come out in that order.",
    ]
    remarks += lengths
    if left_out:
        remarks.append(f"Left out, trained or evaluated on other data than the others: {', '.join(left_out)}.")
    if flagged:
        remarks.append(f"With flags, which the tables spell out: {', '.join(flagged)}.")
    return grid("Order of rows against the paper's", header, lines, remarks=tuple(remarks))


def pair_lines(item: TableAgreement) -> list[str]:
    """One line for each pair in another order than the published one, or published within the noise."""
    noise = published_noise()
    lines = []
    for pair in item.pairs:
        names = f"{pair.high.experiment} ({pair.high.ap:.1f}) and {pair.low.experiment} ({pair.low.ap:.1f})"
        here = None if pair.agrees is None else f"{pair.high_ap:.1f} and {pair.low_ap:.1f}"
        if pair.difference <= noise:
            lines.append(f"{names}: published within the noise of {noise} AP" + (f"; here {here}." if here else "."))
        elif pair.agrees is False:
            lines.append(f"{names}: here the other order or equal, {here}.")
    return lines
