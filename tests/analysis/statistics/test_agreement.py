"""Kendall's tau of our order and the paper's: by hand, against scipy, and its interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.paper.rows import published_tables
from analysis.statistics.agreement import (
    SeedSpread,
    agreement,
    interval_over_seeds,
    published_noise,
    seed_spread,
    tau_b,
)
from analysis.tables.agreement_table import pair_lines
from tests.support.paper_rows import rows_with_aps


def test_tau_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (2, 50, 6)).astype(float)
    expected = [stats.kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(tau_b(x, y), expected)
    assert np.isnan(tau_b(np.ones(3), np.arange(3.0)))


def test_the_noise_is_the_one_stated() -> None:
    assert published_noise() == 0.3
    assert "about 0.3 AP noise" in published_tables()["official_release"]["note"]


def test_by_hand(tmp_path: Path) -> None:
    # Published 21.7 36.2 39.9 42.3 41.6: of the six pairs of the four rows known, (2, 3) alone is the other way.
    found = agreement(
        "table7", rows_with_aps(tmp_path, {"stages_1": [20], "stages_2": [50], "stages_3": [45], "stages_6": [60]})
    )
    assert (found.num_known, found.num_rows, found.over) == (4, 5, "rows")
    assert found.tau == pytest.approx((5 - 1) / 6)
    assert found.interval is not None
    assert -1 <= found.interval[0] <= found.tau <= found.interval[1] <= 1
    assert found.p_value == pytest.approx(stats.kendalltau([20, 50, 45, 60], [1, 2, 3, 4]).pvalue)
    agrees = {(pair.low.experiment, pair.high.experiment): pair.agrees for pair in found.pairs}
    assert agrees["stages_2", "stages_3"] is False
    assert agrees["stages_12", "stages_6"] is None
    assert sum(value is True for value in agrees.values()) == 5
    assert pair_lines(found) == ["stages_3 (39.9) and stages_2 (36.2): here the other order or equal, 45.0 and 50.0."]


def test_the_spread_is_pooled_over_configurations(tmp_path: Path) -> None:
    aps = {"head_attention": [30, 32], "baseline": [40, 41, 45], "stages_1": [5]}
    found = seed_spread(rows_with_aps(tmp_path, aps))
    # (1 + 1) + (4 + 1 + 9) over 1 + 2 degrees of freedom.
    assert found == SeedSpread(pytest.approx((16 / 3) ** 0.5), 3, 2)
    assert seed_spread(rows_with_aps(tmp_path / "one", {"baseline": [40], "stages_1": [5]})) is None


def test_a_spread_gives_every_table_an_interval(tmp_path: Path) -> None:
    one_seed_each = rows_with_aps(tmp_path, {"head_attention": [30], "baseline": [40]})
    found = agreement("table8", one_seed_each, SeedSpread(0.5, 5, 5))
    assert (found.tau, found.over, found.interval) == (1.0, "seeds", (1.0, 1.0))
    assert agreement("table8", one_seed_each, SeedSpread(20.0, 5, 5)).interval == (-1.0, 1.0)


@pytest.mark.parametrize("gap", [0.5, 1.0, 2.0])
def test_the_interval_covers_what_other_seeds_give(gap: float) -> None:
    """Five rows of one seed each, ``gap`` standard deviations apart; a spread known from four degrees of freedom."""
    rng, num_covered, num_trials = np.random.default_rng(0), 0, 400
    published = np.arange(5.0)
    for _ in range(num_trials):
        seen, fresh = gap * published + rng.standard_normal((2, 5))
        spread = SeedSpread(float(np.sqrt(rng.chisquare(4) / 4)), 4, 4)
        interval = interval_over_seeds([np.array([ap]) for ap in seen], published, spread, 400)
        assert interval is not None
        num_covered += interval[0] <= tau_b(fresh, published) <= interval[1]
    assert num_covered / num_trials == pytest.approx(0.95, abs=0.05)


def test_too_few_rows_have_none(tmp_path: Path) -> None:
    none = agreement("table8", {})
    assert (none.num_known, none.tau, none.interval, none.p_value) == (0, None, None, None)
    two = agreement("table9", rows_with_aps(tmp_path, {"baseline": [40], "positional_encoding_sine": [30]}))
    assert (two.tau, two.interval) == (1.0, None)
    equal = agreement("table9", rows_with_aps(tmp_path / "e", {"baseline": [40], "positional_encoding_sine": [40]}))
    assert equal.tau is None
