"""The order of rows as a table: rows that are left out, and differences within the published noise."""

from __future__ import annotations

import json
from pathlib import Path

from analysis.our_rows import our_rows
from analysis.paper.rows import published_rows
from analysis.statistics.agreement import (
    agreement,
)
from analysis.summaries import load_summaries
from analysis.tables.agreement_table import agreement_grid, agreements, pair_lines
from analysis.tables.paper_tables import build_table
from tests.support.paper_rows import rows_with_aps
from tests.support.runs import make_run, write_json


def test_rows_on_other_data_are_left_out_and_named(tmp_path: Path) -> None:
    made = rows_with_aps(tmp_path, {"baseline": [40], "stages_1": [5]})
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


def test_rows_of_different_lengths_of_training_are_named(tmp_path: Path) -> None:
    rows_with_aps(tmp_path, {"baseline": [40], "detr": [20]})
    rows = our_rows(load_summaries([tmp_path]), "mini")
    grid, found = agreements(rows, "mini")
    assert found["table1"].num_known == 2
    (remark,) = (text for text in grid.remarks if "differ in epochs" in text)
    assert remark.startswith("The rows of table 1 differ in epochs (published 36 to 500): ")
    assert remark in build_table("table1", rows, "mini").remarks
    longer = next((tmp_path / "detr").glob("*/status.json"))
    write_json(longer, json.loads(longer.read_text()) | {"epoch": 40.0})
    grid, _ = agreements(our_rows(load_summaries([tmp_path]), "mini"), "mini")
    assert sum("differ in epochs (published 36 to 500, here 10 to 40)" in text for text in grid.remarks) == 1


def test_differences_within_the_published_noise_are_no_order(tmp_path: Path) -> None:
    found = agreement("table5", rows_with_aps(tmp_path, {"baseline": [40], "proposal_init_random": [50]}))
    assert pair_lines(found) == [
        "baseline (42.3) and proposal_init_random (42.1): published within the noise of 0.3 AP; here 40.0 and 50.0."
    ]
    (line,) = (row for row in agreement_grid([found], "mini").rows if row[0].text == "5")
    assert [cell.text for cell in line[-2:]] == ["0 of 0", "5 of 6"]
    published = [row.ap for row in published_rows("table5")]
    assert sum(abs(a - b) > 0.3 for i, a in enumerate(published) for b in published[:i]) == 5
