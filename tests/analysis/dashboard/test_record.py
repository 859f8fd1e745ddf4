"""A folder as a row of the dashboard: good, unfinished, damaged and foreign ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.dashboard.collect import collect
from analysis.dashboard.record import read_record
from tests.support.dashboard_rows import row_of
from tests.support.runs import START, STARTED_AT, event, make_logged_run, write_json
from tests.support.views import add_views, view_content, view_without_stages


def test_a_finished_run(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path, "stages_6", 2, ap=0.4567)
    (path / "names").mkdir()
    (path / "names" / "other_name").touch()
    row = row_of(path)
    assert row["key"] == "stages_6/0123456789ab-seed2"
    assert (row["label"], row["experiments"]) == ("stages_6 s2", ["other_name", "stages_6"])
    assert (row["state"], row["recipe"], row["seed"], row["data"]) == ("finished", "mini", 2, "shapes")
    assert row["ap"] == pytest.approx([45.67, 65.67, 55.67, 35.67, 45.67, None])
    assert row["ap_step"] is None  # the final numbers
    assert row["seconds"] == 250.0
    assert [(stage, ap[0]) for stage, ap in row["stages"]] == [
        (s, pytest.approx(45.67 * (s + 1) / 3, abs=1e-4)) for s in range(3)
    ]
    assert row["classes"][1] == ["square", pytest.approx(35.67), pytest.approx(55.67)]
    assert row["precision_recall"]["0.50"][2] == 0.99
    assert "0.75" not in row["precision_recall"]  # -1 everywhere
    assert row["train"]["step"][:2] == [10, 20]
    assert row["train"]["values"]["total"][:2] == pytest.approx([9.7, 9.4])
    assert row["train"]["values"]["l1"][0] == pytest.approx(4.85)
    assert row["eval"]["values"]["AP"] == pytest.approx([22.835, 45.67])
    assert row["eval"]["values"]["APl"] == [None, None]
    assert row["eval"]["seconds"] == [150.5, 300.5]
    assert row["problems"] == []


def test_a_run_without_stages(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path, num_stages=0)
    add_views(path, [view_without_stages(1), view_without_stages(2, num_detections=0)])
    row = row_of(path)
    assert (row["stages"], row["problems"]) == ([], [])
    assert row["ap"][0] == 50


def test_an_unfinished_run_has_the_numbers_of_its_newest_evaluation(tmp_path: Path) -> None:
    row = row_of(make_logged_run(tmp_path, state="interrupted"))
    assert (row["state"], row["step"], row["num_steps"]) == ("interrupted", 150, 300)
    assert (row["ap"][0], row["ap_step"]) == (25.0, 150)
    assert row["seconds"] == 150.5
    assert row["problems"] == []


def test_without_evaluation_files_the_logged_ones_count(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path, state="interrupted")
    (path / "eval" / "step_00000150.json").unlink()
    row = row_of(path)
    assert (row["ap"][0], row["ap_step"]) == (25.0, 150)
    assert (row["classes"], row["precision_recall"]) == ([], {})


def test_a_run_of_which_nothing_is_written_yet(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path)
    for name in (
        "status.json",
        "metrics.jsonl",
        "results.json",
        "eval/step_00000150.json",
        "eval/step_00000300.json",
    ):
        (path / name).unlink()
    row = row_of(path)
    assert (row["state"], row["problems"], row["train"]["step"]) == ("created", [], [])


def test_an_older_evaluation_without_precision_recall(tmp_path: Path) -> None:
    row = row_of(make_logged_run(tmp_path, precision_recall=False))
    assert (row["precision_recall"], row["problems"]) == ({}, [])
    assert row["classes"]


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    row = row_of(make_logged_run(tmp_path, state="failed"))
    assert (row["state"], row["error"]) == ("failed", "it broke")


def test_finished_without_results(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path)
    (path / "results.json").unlink()
    assert row_of(path)["problems"] == ["finished, but results.json is missing"]


def test_a_torn_line_is_told_where_nobody_writes_any_more(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path)
    with (path / "metrics.jsonl").open("a") as file:
        file.write("garbage\n" + event("train", 301, {})[:20])
    row = row_of(path)
    assert row["train"]["step"][-1] == 300
    assert row["problems"] == [
        "metrics.jsonl: 1 unreadable line left out",
        "metrics.jsonl: the last line is cut off and left out",
    ]
    write_json(path / "status.json", {"state": "running", "updated_at": STARTED_AT})
    assert collect([read_record(path, tmp_path)], "", START)["runs"][0]["problems"] == row["problems"][:1]


def test_damaged_checkpoints_are_problems(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path)
    status = json.loads((path / "status.json").read_text())
    aside = [{"checkpoint": "damaged-step_00000040", "problem": "digests.json is missing", "at": STARTED_AT}, "?"]
    write_json(path / "status.json", {**status, "set_aside": aside})
    assert row_of(path)["problems"] == ["checkpoint set aside: damaged-step_00000040: digests.json is missing"]


def test_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "baseline" / "notes").mkdir(parents=True)
    row = row_of(tmp_path / "baseline" / "notes")
    assert (row["state"], row["is_run"], row["label"]) == ("foreign", False, "baseline/notes")
    assert "no meta.json" in row["problems"][0]


def test_a_newer_schema(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path, meta={"schema_version": 99})
    row = row_of(path)
    assert (row["state"], row["is_run"]) == ("newer", False)
    assert row["problems"][0].startswith("it was written with schema version 99")


def test_an_unreadable_meta(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path)
    (path / "meta.json").write_text("{")
    row = row_of(path)
    assert row["state"] == "unreadable"
    assert "meta.json is not valid JSON" in row["problems"][0]


@pytest.mark.parametrize(
    ("name", "kept"),
    [("config.json", "ap"), ("status.json", "ap"), ("results.json", "ap"), ("eval/step_00000150.json", "train")],
)
def test_a_damaged_file_costs_its_own_part(tmp_path: Path, name: str, kept: str) -> None:
    path = make_logged_run(tmp_path)
    (path / name).write_text('{"a":')
    row = row_of(path)
    assert row["is_run"]
    assert row[kept]
    assert [problem.startswith(f"{name} is not valid JSON") for problem in row["problems"]] == [True]


@pytest.mark.parametrize("torn", [300, 150])
def test_a_torn_evaluation_costs_no_other_one(tmp_path: Path, torn: int) -> None:
    path = make_logged_run(tmp_path)
    file = path / "eval" / f"step_{torn:08d}.json"
    file.write_bytes(file.read_bytes()[:-20])
    row = row_of(path)
    assert [problem.startswith(f"eval/{file.name} is not valid JSON") for problem in row["problems"]] == [True]
    assert row["evaluated_step"] == 450 - torn
    assert [name for name, *_ in row["classes"]] == ["disc", "square", "triangle"]
    assert row["precision_recall"]


@pytest.mark.parametrize(
    "meta",
    [{"seed": "three"}, {"data": "x"}, {"git": []}, {"git": {"sha": 1}},
     {"resumes": [1, {"resumed_at": "soon"}]}, {"recipe": {"a": [1]}}, {"identity": None}],
)  # fmt: skip
def test_whatever_meta_holds_the_row_is_there(tmp_path: Path, meta: dict[str, Any]) -> None:
    row = row_of(make_logged_run(tmp_path, meta=meta))
    assert row["is_run"]
    assert row["ap"][0] == 50.0


@pytest.mark.parametrize("name", [None, 7])
def test_a_run_without_a_name_is_told(tmp_path: Path, name: Any) -> None:
    row = row_of(make_logged_run(tmp_path, meta={"experiment": name}))
    assert (row["state"], row["is_run"]) == ("unreadable", False)
    assert f"experiment must be a string that is not empty, not {name}" in row["problems"][0]


def test_odd_events_are_left_out(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path)
    odd: list[dict[str, Any]] = [
        {"event": "train", "step": 400, "metrics": None},
        {"event": "train", "step": 401},
        {"event": "x", "step": 1},
        {"event": "train", "step": 402, "time": "now", "epoch": None, "metrics": {"train/loss/total": "high"}},
    ]
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(item) + "\n" for item in odd)
    row = row_of(path)
    assert row["train"]["step"][-2:] == [300, 402]
    assert row["train"]["values"]["total"][-2:] == [1.0, None]
    assert row["train"]["seconds"][-1] is None


def test_damaged_views_are_told_and_left_out(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path)
    add_views(path, [view_content(1), view_content(2), view_content(3)])
    (path / "views" / "1.json").write_text('{"step": 3')
    short = view_content(2)
    short["stages"][1]["labels"].pop()
    write_json(path / "views" / "2.json", short)
    (path / "views" / "3.jpg").write_bytes(b"<html>")
    record = read_record(path, tmp_path)
    assert [view.scene["image_id"] for view in record.views] == [3]
    assert record.views[0].picture == ""
    problems = record.row["problems"]
    assert [
        name in problem
        for name, problem in zip(("1.json", "the view of image 2", "3.jpg is not a JPEG"), problems, strict=True)
    ]
    assert len(problems) == 3
