"""The paper's tables from synthetic runs: cells, differences and flags."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from analysis.our_rows import COLUMNS, baseline_of, our_rows
from analysis.paper.rows import EXPERIMENTS, published_tables
from analysis.summaries import choose_recipe, load_summaries
from analysis.tables.formats import DASH, Grid
from analysis.tables.paper_tables import TABLES, build_table, build_tables
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.summary import summarise
from tests.support.paths import shared
from tests.support.runs import config_without_stages, edit_meta, make_run, write_json


def table(root: Path, number: int, recipe: str = "mini") -> Grid:
    return build_table(f"table{number}", our_rows(load_summaries([root]), recipe), recipe)


def texts(grid: Grid) -> list[list[str]]:
    return [[cell.text for cell in row] for row in grid.rows]


def line(grid: Grid, source: str) -> dict[str, str]:
    (found,) = (row for row in texts(grid) if source in row)
    return dict(zip(grid.header, found, strict=True))


def notes(grid: Grid, source: str) -> list[str]:
    """The footnotes of a row."""
    (marks,) = (cell.marks for row in grid.rows for cell in row if cell.text == source)
    return [dict(grid.footnotes)[mark] for mark in marks]


def test_published_numbers_are_those_given() -> None:
    given = json.loads((shared("paper") / "tables.json").read_text())
    for name in TABLES:
        records = build_table(name, {}, "mini").records
        assert records is not None
        rows = given[name]["rows"]
        base = rows[EXPERIMENTS[name].index(baseline_of(name))]
        keys = {column.title: column.published for column in COLUMNS}
        num_columns = len(records) // len(rows)
        for i, record in enumerate(records):
            key, row = keys[record["metric"]], rows[i // num_columns]
            assert record["experiment"] == EXPERIMENTS[name][i // num_columns]
            assert all(str(value) in record["row"] for value in row.values() if isinstance(value, str))
            published = row.get(key)
            assert record["published"] == published
            if published is not None:
                assert record["published_difference"] == pytest.approx(published - base[key])


def test_a_whole_table_cell_by_cell(tmp_path: Path) -> None:
    cost = {
        "train__time__seconds": 1800.0,
        "model__size__num_parameters": 2_340_000,
        "model__cost__forward_gflops": 1.5,
    }
    for seed, ap in enumerate((0.50, 0.52, 0.57)):
        make_run(
            tmp_path,
            "baseline",
            seed,
            ap,
            val__bbox__AP50=ap + 0.2,
            val__bbox__AP75=-1,
            config={"num_proposals": 20},
            **cost,
        )
    make_run(
        tmp_path, "num_proposals_300", ap=0.475, val__bbox__AP50=0.6, config={"num_proposals": 40}, model__speed__fps=7
    )
    found = table(tmp_path, 6)
    assert found.title == "Table 6: Number of proposals"
    assert found.header == ("proposals", "source", "n", "AP", "AP50", "AP75", "FPS", "training h", "params M", "GFLOPs")
    # 53.0 is the mean of 50, 52, 57 and 3.6 = sqrt((9 + 1 + 16) / 2); 44.6 - 42.3 = 2.3.
    assert texts(found) == [
        ["20", "baseline", "3", "53.0 ± 3.6", "73.0 ± 3.6", DASH, DASH, "0.50 ± 0.00", "2.34", "1.50"],
        ["100", "paper", "", "42.3", "61.2", "45.7", "23", "19", "", ""],
        ["40", "num_proposals_300", "1", "47.5 (-5.5)", "60.0 (-13.0)", DASH, "7.0", DASH, DASH, DASH],
        ["300", "paper", "", "43.9 (+1.6)", "62.3 (+1.1)", "47.4 (+1.7)", "22 (-1)", "24 (+5)", "", ""],
        [DASH, "num_proposals_500", DASH, *[DASH] * 7],
        ["500", "paper", "", "44.6 (+2.3)", "63.2 (+2.0)", "48.5 (+2.8)", "20 (-3)", "60 (+41)", "", ""],
    ]  # fmt: skip
    assert notes(found, "num_proposals_500") == [
        "no finished run; train it with `python -m experiments.train experiment=num_proposals_500 recipe=mini`"
    ]
    assert notes(found, "baseline") == notes(found, "num_proposals_300") == []
    assert "None of these runs has a measured FPS." not in found.remarks


def test_every_table_has_the_papers_rows_and_columns(tmp_path: Path) -> None:
    make_run(tmp_path)
    for name, grid in zip(TABLES, build_tables(load_summaries([tmp_path]), "mini"), strict=True):
        rows = published_tables()[name]["rows"]
        assert sum(row[grid.header.index("source")] == "paper" for row in texts(grid)) == len(rows)
        assert {"AP", "AP50", "AP75"} <= set(grid.header)
        assert ("APs" in grid.header) == ("APs" in rows[0])
        assert ("FPS" in grid.header) == ("FPS" in rows[0])
        assert ("training h" in grid.header) == ("training_hours" in rows[0])
        for row in grid.rows:
            assert len(row) == len(grid.header)


def test_a_missing_number_is_never_the_papers(tmp_path: Path) -> None:
    make_run(tmp_path, "something_else")
    for name in TABLES:
        for record in build_table(name, our_rows(load_summaries([tmp_path]), "mini"), "mini").records or ():
            assert (record["mean"], record["std"], record["difference"], record["n"]) == (None, None, None, 0)
            assert record["command"] == f"python -m experiments.train experiment={record['experiment']} recipe=mini"


def test_a_detector_without_the_axes_of_others(tmp_path: Path) -> None:
    """Tables 1 and 9 have no gap, and an axis that a detector lacks is a dash."""
    for table_ in ("table1", "table9"):
        for name in EXPERIMENTS[table_]:
            run = make_run(tmp_path, name, ap=0.4, model__speed__fps=9, config=config_without_stages())
            assert summarise(Run(run)).axes == {}
        found = build_table(table_, our_rows(load_summaries([tmp_path]), "mini"), "mini")
        assert len(found.rows) == 2 * len(EXPERIMENTS[table_])
        assert found.footnotes == (), "no row without a run"
    one = line(table(tmp_path, 1), "retinanet")
    assert (one["detector"], one["feature"], one["epochs"], one["AP"], one["FPS"]) == (
        "RetinaNet", "FPN", "10", "40.0 (+0.0)", "9.0 (+0.0)",
    )  # fmt: skip
    make_run(tmp_path, "stages_1", ap=0.4, config=config_without_stages())
    assert line(table(tmp_path, 7), "stages_1")["stages"] == DASH


def test_one_run_is_every_row_it_has_the_name_of(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", ap=0.6, names=("stages_3",), config={"num_stages": 3})
    make_run(tmp_path, "stages_6", ap=0.65, config={"num_stages": 6})
    found = table(tmp_path, 7)
    assert line(found, "stages_3")["AP"] == "60.0 (-5.0)", "to stages_6, the table's baseline"
    assert line(found, "stages_3")["stages"] == "3"
    assert line(found, "stages_6")["AP"] == "65.0"
    assert line(table(tmp_path, 8), "baseline")["AP"] == "60.0"


def test_a_name_of_one_seed_is_one_of_all(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", 0, ap=0.6, names=("stages_3",))
    make_run(tmp_path, "baseline", 1, ap=0.7)
    assert line(table(tmp_path, 7), "stages_3")["AP"] == f"65.0 ± {statistics.stdev((60, 70)):.1f}"


def test_without_the_baseline_row_there_is_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path, "head_attention", ap=0.4)
    found = table(tmp_path, 8)
    assert line(found, "head_attention")["AP"] == "40.0"
    assert "No differences of ours: the row baseline has no finished run." in found.remarks


def test_flags(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", 0, 0.5)
    make_run(tmp_path, "baseline", 1, 0.6, dirty=True)
    make_run(tmp_path, "baseline", 2, 0.9, state="running")
    make_run(tmp_path, "baseline", 3, None, state="interrupted")
    make_run(tmp_path, "baseline", 0, 0.1, recipe="paper")
    make_run(tmp_path, "head_attention", 0, 0.4, val="ef" * 32)
    found = table(tmp_path, 8)
    assert line(found, "baseline")["AP"] == f"55.0 ± {statistics.stdev((50, 60)):.1f}"
    name = next(path.name for path in (tmp_path / "baseline").iterdir() if path.name.endswith("-seed3"))[:12]
    assert notes(found, "baseline") == [
        "1 finished run of recipe paper, not used",
        f"{name}-seed2 is unfinished and not used (running, step 7 of 9)",
        f"{name}-seed3 is unfinished and not used (interrupted, step 7 of 9)",
        f"{name}-seed1 ran code with uncommitted changes",
    ]
    (other_data,) = notes(found, "head_attention")
    assert other_data.endswith("-seed0 has other validation data than the table's baseline row or most of it")
    assert any("shapes abababab, shapes efefefef" in remark for remark in found.remarks)


def test_the_baseline_says_which_data_are_the_tables(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline")
    make_run(tmp_path, "proposal_init_grid", val="ef" * 32)
    make_run(tmp_path, "proposal_init_random", val="ef" * 32)
    found = table(tmp_path, 5)
    assert notes(found, "baseline") == []
    for name in ("proposal_init_grid", "proposal_init_random"):
        (note,) = notes(found, name)
        assert note.endswith("has other validation data than the table's baseline row or most of it")


def test_a_resume_with_other_code_recipe_or_data_is_flagged(tmp_path: Path) -> None:
    path = make_run(tmp_path, "baseline")
    data = json.loads((path / "meta.json").read_text())["data"]
    data["val"]["fingerprint"] = "ff" * 32
    edit_meta(path, resumes=[{"git": {"sha": "f" * 40, "dirty": True}, "recipe": "photos", "data": data}])
    assert [note.split(" ", 1)[1] for note in notes(table(tmp_path, 8), "baseline")] == [
        "ran code with uncommitted changes",
        "was resumed with other data",
        "was resumed with other recipe",
    ]


def test_configurations_are_no_seeds_of_one_another(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", 0, 0.5, identity="a" * 12)
    make_run(tmp_path, "baseline", 1, 0.6, identity="a" * 12)
    make_run(tmp_path, "baseline", 2, 0.9, identity="b" * 12)
    found = table(tmp_path, 8)
    assert line(found, "baseline")["AP"].startswith("55.0 ±")
    assert notes(found, "baseline") == [
        "bbbbbbbbbbbb-seed2 has another configuration than aaaaaaaaaaaa and is not used"
    ]


def test_damaged_runs_are_named_and_the_others_used(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", 0, 0.5)
    damaged = make_run(tmp_path, "baseline", 1)
    (damaged / "results.json").write_text('{"val/bbox/AP": 0.')
    torn = make_run(tmp_path, "baseline", 2, 0.7)
    (torn / "metrics.jsonl").write_text('{"event": "train", "step": 1, "metrics": {}}\n{"event": "tr')
    no_number = make_run(tmp_path, "baseline", 3)
    write_json(no_number / "results.json", {"val/bbox/AP": None})
    (damaged.parent / "half-created").mkdir()
    write_json(damaged.parent / "foreign" / "meta.json", {"something": "else"})
    found = table(tmp_path, 8)
    assert line(found, "baseline")["AP"] == f"60.0 ± {statistics.stdev((50, 70)):.1f}"
    unreadable, missing = notes(found, "baseline")
    assert unreadable.startswith(f"{damaged.name} cannot be read and is not used: results.json is not valid JSON")
    assert missing == f"{no_number.name} has no AP in its results"


def test_a_table_is_of_one_recipe(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", ap=0.5)
    make_run(tmp_path, "baseline", ap=0.4, recipe="paper")
    assert line(table(tmp_path, 8, "paper"), "baseline")["AP"] == "40.0"


def test_a_recipe_that_nobody_has_trained_is_dashes_and_commands(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", ap=0.5)
    found = table(tmp_path, 8, choose_recipe(load_summaries([tmp_path]), "paper"))
    assert line(found, "baseline")["AP"] == DASH
    assert (
        "train it with `python -m experiments.train experiment=baseline recipe=paper`" in notes(found, "baseline")[-1]
    )
    assert choose_recipe([], "paper") == "paper"


def test_overrides_make_no_row_of_the_papers(tmp_path: Path) -> None:
    """A run of the experiment's name that is something else neither takes its place nor goes unsaid."""
    other = make_run(tmp_path, "baseline", 0, 0.1, identity="b" * 12)
    edit_meta(other, deviations=["num_stages: 6 -> 1"], created_at="2027-01-01T00:00:00+00:00")
    also = make_run(tmp_path, "baseline", 1, 0.1, identity="b" * 12)
    edit_meta(also, deviations=["num_stages: 6 -> 1"])
    found = table(tmp_path, 8)
    assert line(found, "baseline")["AP"] == "10.0 ± 0.0", "better than nothing"
    assert notes(found, "baseline")[0] == f"{other.name} is not plain baseline (num_stages: 6 -> 1)"
    make_run(tmp_path, "baseline", 0, 0.5, identity="a" * 12)
    found = table(tmp_path, 8)
    assert line(found, "baseline")["AP"] == "50.0", "one plain seed before two others"
    assert notes(found, "baseline")[1] == f"{also.name} is not plain baseline (num_stages: 6 -> 1) and is not used"


def test_a_name_of_its_own_is_judged_by_itself(tmp_path: Path) -> None:
    """`num_stages=1` made a run called baseline; later it turned out to be exactly stages_1."""
    path = make_run(tmp_path, "baseline", ap=0.2, config={"num_stages": 1})
    edit_meta(path, deviations=["num_stages: 6 -> 1"])
    write_json(path / "names" / "stages_1", [])
    assert notes(table(tmp_path, 7), "stages_1") == []
    assert notes(table(tmp_path, 8), "baseline") == [f"{path.name} is not plain baseline (num_stages: 6 -> 1)"]


def test_a_run_of_another_detector_is_never_a_row_of_this_one(tmp_path: Path) -> None:
    path = make_run(tmp_path, "baseline", 0, 0.4)
    edit_meta(path, deviations=["criterion: SetCriterion -> Other", "model: SparseRCNN -> Other(num_queries=20)"])
    found = table(tmp_path, 8)
    assert notes(found, "baseline")[0] == f"{path.name} is another detector than baseline and is not used"
    assert "40.0" not in str(line(found, "baseline"))


def test_each_number_says_of_how_many_runs_it_is(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", 0, 0.5, model__speed__fps=10)
    make_run(tmp_path, "baseline", 1, 0.6)
    found = table(tmp_path, 6)
    assert line(found, "baseline")["n"] == "2"
    (cell,) = (cell for row in found.rows for cell in row if cell.text == "10.0")
    assert [dict(found.footnotes)[mark] for mark in cell.marks] == ["FPS of 1 of the 2 runs"]


def test_what_does_not_compare_has_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", ap=0.5, model__speed__fps=10, model__size__num_parameters=1e6)
    one = make_run(tmp_path, "num_proposals_300", ap=0.6, model__speed__fps=8, model__size__num_parameters=3e6)
    edit_meta(one, device="NVIDIA H100", world_size=8)
    make_run(tmp_path, "num_proposals_500", ap=0.7, val="ef" * 32)
    found = table(tmp_path, 6)
    cells = line(found, "num_proposals_300")
    assert (cells["AP"], cells["FPS"], cells["params M"]) == ("60.0 (+10.0)", "8.0", "3.00 (+2.00)")
    assert line(found, "num_proposals_500")["AP"] == "70.0", "other data"
    assert any("trained on 8 x NVIDIA H100, cpu" in remark for remark in found.remarks)


def test_numbers_that_cannot_be_are_named(tmp_path: Path) -> None:
    percent = make_run(tmp_path, "baseline", 0, 62.0)
    huge = make_run(tmp_path, "baseline", 1, 0.5, val__bbox__AP50=10**400)
    unfinished = make_run(tmp_path, "baseline", 2, None)
    found = table(tmp_path, 8)
    assert line(found, "baseline")["AP"] == "50.0"
    assert notes(found, "baseline") == [
        f"{percent.name} cannot be read and is not used: results.json: val/bbox/AP is 62, not a fraction",
        f"{unfinished.name} is unfinished and not used (finished, but results.json is missing)",
    ]
    assert huge.name in {run.run_id for run in load_summaries([tmp_path])}
