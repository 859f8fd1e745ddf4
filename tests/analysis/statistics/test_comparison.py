"""Rows and seeds as they are measured and compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.statistics.comparison import compare, group_rows, measure
from sparse_rcnn.rundir.reader import Run
from tests.support.compared_runs import Suite, ap, make_compared_runs


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return make_compared_runs(tmp_path)


def test_seeds_of_a_configuration_are_one_row(suite: Suite) -> None:
    rows = group_rows([Run(suite[name]) for name in ("good1", "bad0", "good0", "bad1")])
    assert [(row.name, [run.path for run in row.runs]) for row in rows] == [
        ("good", [suite["good0"], suite["good1"]]),
        ("bad", [suite["bad0"], suite["bad1"]]),
    ]
    alone = group_rows([Run(suite["good0"]), Run(suite["good1"])])
    assert [row.name for row in alone] == [suite["good0"].name, suite["good1"].name]
    assert len(group_rows([Run(suite["good0"])] * 2)) == 1


def test_what_is_measured_is_what_the_run_says(suite: Suite) -> None:
    rows = group_rows([Run(suite[name]) for name in ("good0", "bad0", "bad1", "same")])
    measured = measure(rows, None, 50, 0)
    expected = [ap(suite["good0"]), (ap(suite["bad0"]) + ap(suite["bad1"])) / 2, ap(suite["same"])]
    assert 100 * measured.estimates[:, 0] == pytest.approx(expected, abs=1e-10)
    assert 100 * np.array(measured.seeds[1]) == pytest.approx([ap(suite["bad0"]), ap(suite["bad1"])], abs=1e-10)
    bad, same = compare(measured, 0, [1, 2])
    assert bad.metrics[0].estimate == pytest.approx(expected[1] - expected[0])
    assert bad.metrics[0].high < 0
    assert bad.metrics[0].p_value == pytest.approx(2 / 51)
    assert bad.adjusted == pytest.approx(4 / 51)
    assert (same.metrics[0].estimate, same.metrics[0].low, same.metrics[0].high) == (0, 0, 0)
    assert same.metrics[0].p_value == same.adjusted == 1
    assert bad.seeds is None, "one seed of the other"
    both = measure(group_rows([Run(suite[name]) for name in sorted(suite)]), None, 5, 0)
    names = list(both.names)
    (welch,) = compare(both, names.index("good"), [names.index("bad")])
    assert welch.seeds is not None
    assert welch.seeds.difference == pytest.approx(
        100 * np.diff([np.mean(both.seeds[names.index(n)]) for n in ("good", "bad")])[0]
    )


def test_the_order_of_runs_changes_nothing(suite: Suite) -> None:
    runs = [Run(path) for path in suite.values()]
    a, b = (measure(group_rows(order), None, 10, 0) for order in (runs, runs[::-1]))
    for name in a.names:
        np.testing.assert_array_equal(a.draws[:, a.names.index(name)], b.draws[:, b.names.index(name)])
