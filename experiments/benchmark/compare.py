"""Whether two reports differ beyond noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import mannwhitneyu

from experiments.benchmark.report import Report
from sparse_rcnn.errors import UserError

LEVEL = 0.05  # of wrong verdicts among all parts (Holm)
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """One part in two reports.

    Attributes:
        key: benchmark, setting, part.
        ratio: median seconds of the first over those of the second: above 1 the second is faster.
        low, high: 95 % interval of the ratio, by bootstrap over the passes.
        p: of Mann and Whitney's test, corrected after Holm over all parts.
    """

    key: tuple[str, str, str]
    ratio: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """``faster``, ``slower`` or ``undecided``: the second report against the first."""
        if self.p > LEVEL:
            return "undecided"
        return "faster" if self.ratio > 1 else "slower"


def compare(first: Report, second: Report) -> list[Difference]:
    """The parts that both have, in the order of the first.

    Raises:
        UserError: they have none in common.
    """
    others = {row.key: row for row in second.rows}
    pairs = [(row, others[row.key]) for row in first.rows if row.key in others]
    if not pairs:
        raise UserError("the two reports have no part in common: measure the same benchmarks with the same settings")
    rng = np.random.default_rng(0)
    raw = [float(mannwhitneyu(a.seconds, b.seconds).pvalue) for a, b in pairs]
    corrected = holm(raw)
    differences = []
    for (a, b), p in zip(pairs, corrected, strict=True):
        medians = [np.median(rng.choice(row.seconds, (NUM_RESAMPLES, len(row.seconds))), axis=1) for row in (a, b)]
        low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
        differences.append(Difference(a.key, a.median / b.median, float(low), float(high), p))
    return differences


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction, in the order given."""
    order = np.argsort(p_values)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def show(first: Report, second: Report) -> None:
    """Print the differences, and a line where the machines differ."""
    if (a := first.headline.partition(";")[0]) != (b := second.headline.partition(";")[0]):
        print(f"the machines differ: {a} / {b}")
    table = Table("benchmark", "setting", "part", "ratio", "95 % interval", "p (Holm)", "second is")
    for difference in compare(first, second):
        interval = f"{difference.low:.2f} to {difference.high:.2f}"
        table.add_row(*difference.key, f"{difference.ratio:.2f} x", interval, f"{difference.p:.3f}", difference.verdict)
    Console().print(table)
