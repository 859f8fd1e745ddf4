"""Kendall's tau of our order and the paper's: by hand, against scipy, and what the tables say of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.our_rows import OurRow, our_rows
from analysis.paper.rows import published_rows, published_tables
from analysis.statistics.agreement import (
    SeedSpread,
    _interval_over_seeds,
    agreement,
    published_noise,
    seed_spread,
    tau_b,
)
from analysis.summaries import load_summaries
from analysis.tables.agreement_table import agreement_grid, agreements, pair_lines
from tests.support.commands import run_command
from tests.support.runs import make_run


def rows(root: Path, aps: dict[str, list[float]]) -> dict[str, OurRow]:
    for name, values in aps.items():
        for seed, ap in enumerate(values):
            make_run(root, name, seed, ap / 100)
    return our_rows(load_summaries([root]), "mini")


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
        "table7", rows(tmp_path, {"stages_1": [20], "stages_2": [50], "stages_3": [45], "stages_6": [60]})
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
    found = seed_spread(rows(tmp_path, aps))
    # (1 + 1) + (4 + 1 + 9) over 1 + 2 degrees of freedom.
    assert found == SeedSpread(pytest.approx((16 / 3) ** 0.5), 3, 2)
    assert seed_spread(rows(tmp_path / "one", {"baseline": [40], "stages_1": [5]})) is None


def test_a_spread_gives_every_table_an_interval(tmp_path: Path) -> None:
    one_seed_each = rows(tmp_path, {"head_attention": [30], "baseline": [40]})
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
        interval = _interval_over_seeds([np.array([ap]) for ap in seen], published, spread, 400)
        assert interval is not None
        num_covered += interval[0] <= tau_b(fresh, published) <= interval[1]
    assert num_covered / num_trials == pytest.approx(0.95, abs=0.05)


def test_rows_on_other_data_are_left_out_and_named(tmp_path: Path) -> None:
    made = rows(tmp_path, {"baseline": [40], "stages_1": [5]})
    make_run(tmp_path, "head_attention", ap=0.1, val="ef" * 32)
    make_run(tmp_path, "stages_2", ap=0.3, dirty=True)
    grid, found = agreements(our_rows(load_summaries([tmp_path]), "mini"), "mini")
    assert found["table8"].num_known == 1
    assert found["table7"].num_known == 2
    assert grid.remarks[-2:] == (
        "Left out, trained or evaluated on other data than the others: head_attention.",
        "With flags, which the tables spell out: stages_2.",
    )
    assert len(made) == 2


def test_too_few_rows_have_none(tmp_path: Path) -> None:
    none = agreement("table8", {})
    assert (none.num_known, none.tau, none.interval, none.p_value) == (0, None, None, None)
    two = agreement("table9", rows(tmp_path, {"baseline": [40], "positional_encoding_sine": [30]}))
    assert (two.tau, two.interval) == (1.0, None)
    equal = agreement("table9", rows(tmp_path / "e", {"baseline": [40], "positional_encoding_sine": [40]}))
    assert equal.tau is None


def test_differences_within_the_published_noise_are_no_order(tmp_path: Path) -> None:
    found = agreement("table5", rows(tmp_path, {"baseline": [40], "proposal_init_random": [50]}))
    assert pair_lines(found) == [
        "baseline (42.3) and proposal_init_random (42.1): published within the noise of 0.3 AP; here 40.0 and 50.0."
    ]
    (line,) = (row for row in agreement_grid([found], "mini").rows if row[0].text == "5")
    assert [cell.text for cell in line[-2:]] == ["0 of 0", "5 of 6"]
    published = [row.ap for row in published_rows("table5")]
    assert sum(abs(a - b) > 0.3 for i, a in enumerate(published) for b in published[:i]) == 5


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows(tmp_path, {"head_attention": [30], "baseline": [40]})
    assert run_command("agreement", ["--runs", str(tmp_path), "--format", "csv"]) == 0
    rows_read = [list(row.values())[1:-1] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert rows_read[7][:3] == ["8", "2 of 2", "+1.00"]
    assert rows_read[7][-2:] == ["1 of 1", "1 of 1"]
    assert rows_read[-1][0] == "all"
    assert rows_read[-1][-2:] == ["1 of 1", "35 of 36"]
