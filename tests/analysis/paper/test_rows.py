"""The paper's rows and the experiments that are each of them."""

from __future__ import annotations

from analysis.paper.rows import EXPERIMENTS, published_rows
from tests.support.paths import ROOT


def test_every_row_of_the_paper_is_one_of_ours() -> None:
    ours = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    for table in EXPERIMENTS:
        rows = published_rows(table)
        assert rows, table
        assert {row.experiment for row in rows} <= ours
        assert len({row.experiment for row in rows}) == len(rows)
    assert [(r.experiment, r.ap) for r in published_rows("table8")] == [("head_attention", 35.7), ("baseline", 42.3)]
    assert [r.ap for r in published_rows("table7")] == [21.7, 36.2, 39.9, 42.3, 41.6]
    assert [r.ap for r in published_rows("table1")] == [42.3, 43.5, 44.5, 45.6]
