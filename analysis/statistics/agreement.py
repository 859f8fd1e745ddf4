"""Whether rows come out in the order of the paper's: Kendall's tau, its interval, and the pairs of rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.our_rows import OurRow
from analysis.paper.rows import PublishedRow, published_rows, published_tables
from sparse_rcnn.rundir import metric_keys

NUM_RESAMPLES = 2000
MIN_ROWS = 4  # three rows in order leave a bootstrap over rows no other order to draw


@dataclass(frozen=True)
class SeedSpread:
    """Standard deviation of AP, in percent, over seeds, pooled over the configurations that have several."""

    ap: float
    degrees_of_freedom: int
    num_configurations: int


@dataclass(frozen=True)
class RowPair:
    """Two rows, ``low`` below ``high`` as published; AP in percent, ours None where a row has no finished run."""

    low: PublishedRow
    high: PublishedRow
    low_ap: float | None
    high_ap: float | None

    @property
    def difference(self) -> float:
        """As published."""
        return round(self.high.ap - self.low.ap, 6)  # given to one digit

    @property
    def agrees(self) -> bool | None:
        """Whether ours come out in the same order; None where one is missing."""
        return None if self.low_ap is None or self.high_ap is None else self.high_ap > self.low_ap


@dataclass(frozen=True)
class TableAgreement:
    """A table's order: tau-b of our mean AP and the published AP over the rows that have runs, None below two rows.

    ``interval`` covers about 95 % of what other seeds would give, where a spread of seeds is known (``over`` is
    ``seeds``), or is a bootstrap interval over the rows, from four on. ``pairs`` are all pairs of the table's rows.
    """

    table: str
    num_rows: int
    num_known: int
    tau: float | None
    p_value: float | None
    interval: tuple[float, float] | None
    over: str
    pairs: tuple[RowPair, ...]


def seed_spread(rows: Mapping[str, OurRow]) -> SeedSpread | None:
    """The pooled spread over seeds; None where no configuration has several."""
    by_identity = {row.used[0].identity: seed_aps(row) for row in rows.values() if row.used}
    several = [np.array(own) for own in by_identity.values() if len(own) > 1]
    degrees = sum(len(own) - 1 for own in several)
    if not degrees:
        return None
    squares = sum(float(np.square(own - own.mean()).sum()) for own in several)
    return SeedSpread((squares / degrees) ** 0.5, degrees, len(several))


def published_noise() -> float:
    """The AP, in percent, that two runs of one configuration may differ by according to the authors' release."""
    found = re.search(r"about ([\d.]+) AP noise", published_tables()["official_release"]["note"])
    assert found is not None, "tables.json states the noise"
    return float(found[1])


def seed_aps(row: OurRow | None) -> list[float]:
    """AP in percent of each finished run of a row."""
    runs = row.used if row is not None else ()
    return [100 * run.values[metric_keys.AP] for run in runs if run.values.get(metric_keys.AP, -1.0) >= 0]


def agreement(
    table: str, rows: Mapping[str, OurRow], spread: SeedSpread | None = None, num_resamples: int = NUM_RESAMPLES
) -> TableAgreement:
    """How far our rows of a table are in the published order."""
    published = published_rows(table)
    aps = {row.experiment: seed_aps(rows.get(row.experiment)) for row in published}
    means = {name: float(np.mean(values)) if values else None for name, values in aps.items()}
    pairs = []
    for a, b in combinations(published, 2):
        low, high = sorted((a, b), key=lambda row: row.ap)
        pairs.append(RowPair(low, high, means[low.experiment], means[high.experiment]))
    known = [row for row in published if aps[row.experiment]]
    theirs = np.array([row.ap for row in known])
    values = [np.array(aps[row.experiment]) for row in known]
    over = "rows" if spread is None else "seeds"
    tau = p_value = interval = None
    if len(known) > 1:
        ours = np.array([own.mean() for own in values])
        tau = _none_if_nan(float(tau_b(ours, theirs)))
        p_value = _none_if_nan(float(stats.kendalltau(ours, theirs).pvalue))
        if spread is not None:
            interval = interval_over_seeds(values, theirs, spread, num_resamples)
        elif len(known) >= MIN_ROWS:
            interval = _interval_over_rows(ours, theirs, num_resamples)
    return TableAgreement(table, len(published), len(known), tau, p_value, interval, over, tuple(pairs))


def tau_b(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Kendall's tau-b along the last axis; NaN where all of one are equal."""
    first, second = np.triu_indices(x.shape[-1], 1)
    signs_x, signs_y = (np.sign(values[..., first] - values[..., second]) for values in (x, y))
    norm = np.sqrt(np.abs(signs_x).sum(axis=-1) * np.abs(signs_y).sum(axis=-1))
    total = (signs_x * signs_y).sum(axis=-1)
    return np.divide(total, norm, out=np.full(np.shape(total), np.nan), where=norm > 0)


def interval_over_seeds(
    values: Sequence[npt.NDArray[np.float64]], theirs: npt.NDArray[np.float64], spread: SeedSpread, num_resamples: int
) -> tuple[float, float] | None:
    """Interval that covers about 95 % of the tau-b that other seeds would give; None where no draw has a tau."""
    generator = np.random.default_rng(0)
    means, counts = np.array([own.mean() for own in values]), np.array([len(own) for own in values])
    # The means at hand have as much noise as those of other seeds will have: twice the variance. And each draw has a
    # spread of its own, which is known from few seeds.
    scale = np.sqrt(spread.degrees_of_freedom / generator.chisquare(spread.degrees_of_freedom, num_resamples))
    noise = generator.standard_normal((num_resamples, len(means))) * spread.ap * np.sqrt(2 / counts)
    draws = tau_b(means + scale[:, None] * noise, np.broadcast_to(theirs, (num_resamples, len(theirs))))
    return _central(draws)


def _interval_over_rows(
    ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], num_resamples: int
) -> tuple[float, float] | None:
    chosen = np.random.default_rng(0).integers(len(ours), size=(num_resamples, len(ours)))
    return _central(tau_b(ours[chosen], theirs[chosen]))


def _central(draws: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    draws = draws[~np.isnan(draws)]
    return (float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))) if len(draws) else None


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value
