"""The order of rows against the published one: hand-made runs, hand-computed pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.paper.rows import EXPERIMENTS, published_rows, published_tables
from analysis.row_order import main, mean_ap, pairs, report
from analysis.runs import find_runs
from tests.helpers import ROOT, shared


def make_run(
    root: Path, experiment: str, ap: float, seed: int = 0, recipe: str = "mini", state: str = "finished"
) -> Path:
    run = root / experiment / f"{abs(hash((experiment, recipe))):x}-seed{seed}"
    run.mkdir(parents=True)
    meta = {"schema_version": 1, "run_id": run.name, "experiment": experiment, "recipe": recipe, "seed": seed}
    (run / "meta.json").write_text(json.dumps(meta))
    (run / "status.json").write_text(json.dumps({"state": state}))
    (run / "results.json").write_text(json.dumps({"val/bbox/AP": ap}))
    return run


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


def test_published_numbers_are_those_given() -> None:
    assert published_tables() == json.loads((shared("paper") / "tables.json").read_text())


def test_pairs_and_their_order(tmp_path: Path) -> None:
    for experiment, aps in {"stages_1": [0.1], "stages_2": [0.5, 0.7], "stages_12": [0.65]}.items():
        for seed, ap in enumerate(aps):
            make_run(tmp_path, experiment, ap, seed)
    run = make_run(tmp_path, "baseline", 0.62)
    (run / "names").mkdir()
    (run / "names" / "stages_3").touch()
    make_run(tmp_path, "stages_6", 0.9, recipe="paper")  # another recipe
    make_run(tmp_path, "stages_6", 0.9, state="running")
    ours = mean_ap(find_runs(tmp_path), "mini")
    assert ours["stages_2"] == (pytest.approx(60), 2)
    assert ours["stages_3"] == ours["baseline"] == (pytest.approx(62), 1)
    assert "stages_6" not in ours
    found = {(p.low.experiment, p.high.experiment): p.agrees for p in pairs("table7", ours)}
    assert len(found) == 10, "all ten pairs differ by more than 0.5"
    assert found["stages_1", "stages_2"] is True
    assert found["stages_3", "stages_12"] is True
    assert found["stages_12", "stages_6"] is None
    assert len(pairs("table7", ours, min_difference=1)) == 9  # 42.3 - 41.6 is left out
    (pair,) = [
        p for p in pairs("table5", {"baseline": (50.0, 1), "proposal_init_grid": (55.0, 1)}) if p.agrees is False
    ]
    assert (pair.high.experiment, pair.low.experiment) == ("baseline", "proposal_init_grid")
    text = report(ours, "mini")
    assert "| stages_2 | 36.2 | 60.0 (2) |" in text
    assert "6 of 6 pairs in the published order (10 pairs in all)" in text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 1
    assert "there is no finished run of recipe mini" in capsys.readouterr().err
    make_run(tmp_path, "head_attention", 0.5)
    make_run(tmp_path, "baseline", 0.4)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "other order: baseline (42.3 > 35.7 published; 40.0 against 50.0 here) and head_attention" in out
    assert out.strip().endswith("All tables: 0 of 1 pairs in the published order.")
