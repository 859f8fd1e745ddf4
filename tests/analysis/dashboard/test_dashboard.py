"""The dashboard's data: what it makes of good, unfinished, damaged and foreign folders, its size, and its server."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("plotly", reason="the dashboard draws with plotly, which is not installed")

from analysis.__main__ import main
from analysis.commands import dashboard
from analysis.dashboard import page, watched_runs
from analysis.dashboard.collect import collect
from analysis.dashboard.curves import downsample, wall_seconds
from analysis.dashboard.factors import compact, find_factors, flat_config
from analysis.dashboard.pack import pack_view, quantised
from analysis.dashboard.page import build_page, script_json
from analysis.dashboard.record import read_record
from analysis.dashboard.serve import Server
from analysis.dashboard.signature import signature
from analysis.dashboard.views import collect_views
from analysis.dashboard.watched_runs import WatchedRuns
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.reader import Run
from tests.support.dashboard_pages import NASTY, arguments, data_in, get, serving, wait_for
from tests.support.runs import START, STARTED_AT, event, make_logged_run, small_config, write_json
from tests.support.views import add_views, view_content

NOW = START + 1000


def row_of(path: Path) -> dict[str, Any]:
    return collect([read_record(path, path.parent.parent)], "runs", NOW)["runs"][0]


class TestRow:
    def test_a_finished_run(self, tmp_path: Path) -> None:
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

    def test_an_unfinished_run_has_the_numbers_of_its_newest_evaluation(self, tmp_path: Path) -> None:
        row = row_of(make_logged_run(tmp_path, state="interrupted"))
        assert (row["state"], row["step"], row["num_steps"]) == ("interrupted", 150, 300)
        assert (row["ap"][0], row["ap_step"]) == (25.0, 150)
        assert row["seconds"] == 150.5
        assert row["problems"] == []

    def test_without_evaluation_files_the_logged_ones_count(self, tmp_path: Path) -> None:
        path = make_logged_run(tmp_path, state="interrupted")
        (path / "eval" / "step_00000150.json").unlink()
        row = row_of(path)
        assert (row["ap"][0], row["ap_step"]) == (25.0, 150)
        assert (row["classes"], row["precision_recall"]) == ([], {})

    def test_a_run_of_which_nothing_is_written_yet(self, tmp_path: Path) -> None:
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

    def test_an_older_evaluation_without_precision_recall(self, tmp_path: Path) -> None:
        row = row_of(make_logged_run(tmp_path, precision_recall=False))
        assert (row["precision_recall"], row["problems"]) == ({}, [])
        assert row["classes"]

    def test_a_running_run_is_silent_after_ten_minutes(self, tmp_path: Path) -> None:
        record = read_record(make_logged_run(tmp_path, state="running"), tmp_path)
        fresh, old = (collect([record], "runs", START + seconds)["runs"][0] for seconds in (599, 601))
        assert (fresh["state"], fresh["problems"]) == ("running", [])
        assert old["state"] == "silent"
        assert old["problems"] == [f"says it is running, but gave no sign of life since {STARTED_AT}"]

    def test_a_failed_run_says_why(self, tmp_path: Path) -> None:
        row = row_of(make_logged_run(tmp_path, state="failed"))
        assert (row["state"], row["error"]) == ("failed", "it broke")

    def test_finished_without_results(self, tmp_path: Path) -> None:
        path = make_logged_run(tmp_path)
        (path / "results.json").unlink()
        assert row_of(path)["problems"] == ["finished, but results.json is missing"]

    def test_a_torn_line_is_told_where_nobody_writes_any_more(self, tmp_path: Path) -> None:
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


class TestBadFolders:
    def test_a_foreign_folder(self, tmp_path: Path) -> None:
        (tmp_path / "baseline" / "notes").mkdir(parents=True)
        row = row_of(tmp_path / "baseline" / "notes")
        assert (row["state"], row["is_run"], row["label"]) == ("foreign", False, "baseline/notes")
        assert "no meta.json" in row["problems"][0]

    def test_a_newer_schema(self, tmp_path: Path) -> None:
        path = make_logged_run(tmp_path, meta={"schema_version": 99})
        row = row_of(path)
        assert (row["state"], row["is_run"]) == ("newer", False)
        assert row["problems"][0].startswith("it was written with schema version 99")

    def test_an_unreadable_meta(self, tmp_path: Path) -> None:
        path = make_logged_run(tmp_path)
        (path / "meta.json").write_text("{")
        row = row_of(path)
        assert row["state"] == "unreadable"
        assert "meta.json is not valid JSON" in row["problems"][0]

    @pytest.mark.parametrize(
        ("name", "kept"),
        [("config.json", "ap"), ("status.json", "ap"), ("results.json", "ap"), ("eval/step_00000150.json", "train")],
    )
    def test_a_damaged_file_costs_its_own_part(self, tmp_path: Path, name: str, kept: str) -> None:
        path = make_logged_run(tmp_path)
        (path / name).write_text('{"a":')
        row = row_of(path)
        assert row["is_run"]
        assert row[kept]
        assert [problem.startswith(f"{name} is not valid JSON") for problem in row["problems"]] == [True]

    @pytest.mark.parametrize("name", ["config.json", "status.json", "results.json", "eval/step_00000300.json"])
    @pytest.mark.parametrize(
        "content",
        [
            "[]",
            "null",
            "7",
            '{"metrics": 1, "per_class": [], "state": {}, "step": "x"}',
            '{"val/bbox/AP": "good", "per_class": {"a": 1}, "precision_recall": {"0.5": [1]}}',
            '{"val/bbox/AP": 1e999, "a": NaN, "step": 1e400, "\\ud800": "\\ud800"}',
        ],
    )
    def test_whatever_a_file_holds_the_page_is_made(self, tmp_path: Path, name: str, content: str) -> None:
        good = make_logged_run(tmp_path, "good")
        path = make_logged_run(tmp_path, "bad")
        (path / name).write_text(content)
        made = WatchedRuns(tmp_path, 10**8).read()
        rows = data_in(build_page(made.data, made.views))["runs"]
        assert [row["key"] for row in rows] == ["bad/0123456789ab-seed0", "good/0123456789ab-seed0"]
        assert rows[1]["ap"][0] == 50.0
        assert good.is_dir()

    @pytest.mark.parametrize(
        "meta",
        [{"seed": "three"}, {"data": "x"}, {"git": []}, {"git": {"sha": 1}},
         {"resumes": [1, {"resumed_at": "soon"}]}, {"recipe": {"a": [1]}}, {"identity": None}],
    )  # fmt: skip
    def test_whatever_meta_holds_the_row_is_there(self, tmp_path: Path, meta: dict[str, Any]) -> None:
        row = row_of(make_logged_run(tmp_path, meta=meta))
        assert row["is_run"]
        assert row["ap"][0] == 50.0

    @pytest.mark.parametrize("name", [None, 7])
    def test_a_run_without_a_name_is_told(self, tmp_path: Path, name: Any) -> None:
        row = row_of(make_logged_run(tmp_path, meta={"experiment": name}))
        assert (row["state"], row["is_run"]) == ("unreadable", False)
        assert f"experiment must be a string that is not empty, not {name}" in row["problems"][0]

    def test_odd_events_are_left_out(self, tmp_path: Path) -> None:
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

    def test_damaged_views_are_told_and_left_out(self, tmp_path: Path) -> None:
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

    def test_places_of_runs(self, tmp_path: Path) -> None:
        first, second = make_logged_run(tmp_path, "a"), make_logged_run(tmp_path, "b", 1)
        flat = tmp_path / "copied"
        second.rename(flat)
        (tmp_path / "b" / "half").mkdir()
        (tmp_path / "empty").mkdir()
        (tmp_path / ".sweeps" / "x").mkdir(parents=True)
        (tmp_path / "note.txt").touch()
        # A run in the root makes the folders beside it places of runs.
        keys = [row["key"] for row in json.loads(WatchedRuns(tmp_path, 10**8).read().data)["runs"]]
        assert keys == [f"a/{first.name}", "b", flat.name, "empty"]
        assert read_record(first, first).row["key"] == first.name
        with pytest.raises(UserError, match="absent does not exist; give the runs_root"):
            WatchedRuns(tmp_path / "absent", 10**6).read()


class TestCurves:
    def test_means_of_stretches(self) -> None:
        columns = {"step": list(range(10)), "loss": [0, 2, 4, 6, None, 10, 1, 1, None, None]}
        thin = downsample(columns, 5)
        assert thin == {"step": [0.5, 2.5, 4.5, 6.5, 8.5], "loss": [1, 5, 10, 1, None]}
        assert downsample(columns, 10) == columns

    @pytest.mark.parametrize("num_rows", [0, 1, 199, 200, 201, 399, 12345])
    def test_no_more_than_200_points_and_no_row_lost(self, num_rows: int) -> None:
        column = [float(i) for i in range(num_rows)]
        thin = downsample({"step": column})["step"]
        assert len(thin) == min(num_rows, 200)
        assert thin == sorted(thin)
        if num_rows % 200 == 0 and num_rows:
            assert np.mean(thin) == pytest.approx(np.mean(column))

    def test_time_without_interruptions(self) -> None:
        times = [10.0, 20.0, 30.0, 1000.0, 1010.0]
        assert wall_seconds(times, 5.0, []) == [5, 15, 25, 995, 1005]  # a long evaluation is work
        assert wall_seconds(times, 5.0, [990.0]) == [5, 15, 25, 35, 45]  # a resume: one usual gap
        assert wall_seconds([10.0, 20.0, 30.0, 5000.0], 5.0, []) == [5, 15, 25, 35]  # more than half an hour
        assert wall_seconds([10.0, None, 8.0, 20.0], None, []) == [12, None, 12, 24]
        assert wall_seconds([], None, []) == []

    def test_steps_repeated_after_a_resume(self, tmp_path: Path) -> None:
        resumed = "2026-01-01T01:00:00+00:00"
        path = make_logged_run(tmp_path, state="interrupted", meta={"resumes": [{"resumed_at": resumed}]})
        with (path / "metrics.jsonl").open("a") as file:
            for step in (140, 150, 160):
                file.write(event("train", step, {"train/loss/total": 1.0}, START + 3600 + step - 130))
        row = row_of(path)
        assert row["train"]["step"][-4:] == [130, 140, 150, 160]
        # From 130 to 140 lies the hour; the evaluation at 150 was not repeated and keeps its time before it.
        assert row["train"]["seconds"][-4:-2] == [130, 140]
        assert row["seconds"] < 250


class TestFactors:
    def test_keys_that_vary_together_are_one(self) -> None:
        grid = {"num_stages": 3, "model": {"num_stages": 3, "init": {"_target_": "a.GridInit", "rows": 4}}, "lr": 1}
        image = {"num_stages": 3, "model": {"num_stages": 3, "init": {"_target_": "a.ImageInit"}}, "lr": 1}
        none = {"num_stages": 3, "model": {"num_stages": 3, "init": None}, "lr": 1}
        six = {"num_stages": 6, "model": {"num_stages": 6, "init": {"_target_": "a.ImageInit"}}, "lr": 2}
        found = find_factors([flat_config(grid), flat_config(image), None, flat_config(six), flat_config(none)])
        assert found == [
            {"key": "model.init._target_", "label": "init", "also": ["model.init", "model.init.rows"]},
            {"key": "lr", "label": "lr", "also": []},  # of the same runs as num_stages, but another thing
            {"key": "num_stages", "label": "num_stages", "also": ["model.num_stages"]},
        ]

    def test_an_argument_that_varies_by_itself_is_a_factor(self) -> None:
        rows = [{"a": {"_target_": name, "x": x}} for name, x in [("A", 1), ("A", 2), ("B", 1)]]
        assert [factor["key"] for factor in find_factors([flat_config(row) for row in rows])] == ["a._target_", "a.x"]

    @pytest.mark.parametrize(
        "path",
        ["seed", "runs_root", "log.progress", "data.root", "data.num_workers", "data.val.images", "train.device",
         "eval.backend", "data.generator.seed", "train.log_every", "experiment_name"],
    )  # fmt: skip
    def test_paths_and_logging_are_no_factors(self, path: str) -> None:
        assert find_factors([{path: 1, "dropout": 0}, {path: 2, "dropout": 0}]) == []

    @pytest.mark.parametrize(
        "path", ["train.batch_size", "dropout", "model.stage.dropout", "optim.lr", "seeds", "logits"]
    )
    def test_what_changes_a_result_is_one(self, path: str) -> None:
        assert [factor["key"] for factor in find_factors([{path: 1}, {path: 2}])] == [path]

    def test_one_and_one_point_zero_are_equal(self) -> None:
        assert find_factors([flat_config({"a": {"b": 1, "c": [1.0]}}), flat_config({"a": {"b": 1.0, "c": [1]}})]) == []

    def test_compact_configs_can_be_put_together_again(self) -> None:
        configs = [
            flat_config(small_config(num_stages=n, **more))
            for n, more in [(3, {}), (6, {}), (3, {"dropout": 0.1, "new": 1})]
        ]
        configs.append({"other": "program"})
        base, differences = compact([*configs, None])
        assert differences[-1] is None
        assert differences[0] == {"set": {}, "absent": []}
        for whole, difference in zip(configs, differences, strict=False):
            assert difference is not None
            kept = {key: value for key, value in base.items() if key not in difference["absent"]}
            assert {**kept, **difference["set"]} == whole

    def test_labels_say_as_much_as_it_takes(self, tmp_path: Path) -> None:
        paths = [
            make_logged_run(tmp_path, "a"),
            make_logged_run(tmp_path, "a", 1),
            make_logged_run(tmp_path, "b", identity="b" * 12),
            make_logged_run(tmp_path, "b", identity="c" * 12, recipe="paper"),
            make_logged_run(tmp_path, "c", folder="x"),
            make_logged_run(tmp_path, "c", folder="y"),
        ]
        rows = collect([read_record(path, tmp_path) for path in paths], "", NOW)["runs"]
        labels = [row["label"] for row in rows]
        assert labels[:4] == ["a s0", "a s1", "b s0 mini", "b s0 paper"]
        assert labels[4].endswith("x/0123456789ab-seed0")
        assert len(set(labels)) == len(labels)


class TestViews:
    def test_packed_numbers_come_back(self, tmp_path: Path) -> None:
        path = make_logged_run(tmp_path)
        content = view_content(5, num_stages=2, num_proposals=4)
        add_views(path, [content])
        packed = pack_view(Run(path), 5)
        boxes = np.frombuffer(base64.b64decode(packed.numbers["boxes"]), "<u2").reshape(3, 4, 4)
        expected = np.array([content["proposals_xyxy_abs"], *(stage["boxes_xyxy_abs"] for stage in content["stages"])])
        assert np.abs((boxes / 65535 * 3 - 1) * 160 - expected).max() <= 160 * 1.5 / 65535 + 1e-9
        scores = np.frombuffer(base64.b64decode(packed.numbers["scores"]), "u1").reshape(2, 4) / 255
        assert np.abs(scores - [stage["scores"] for stage in content["stages"]]).max() <= 0.5 / 255
        labels = np.frombuffer(base64.b64decode(packed.numbers["labels"]), "u1")
        assert labels.tolist() == [0, 1, 2, 0] * 2
        assert packed.responses == content["responses"]["uint8_base64"]
        assert packed.scene["truth_labels"] == [0, 1]

    def test_far_away_edges_stay_out_of_sight(self) -> None:
        levels = quantised(np.array([-1e6, -100.0, 0.0, 100.0, 200.0, 1e6]), 100)
        assert levels.tolist() == [0, 0, 21845, 43690, 65535, 65535]

    def test_runs_share_pictures_and_scenes(self, tmp_path: Path) -> None:
        paths = [make_logged_run(tmp_path, name) for name in "ab"]
        for path in paths:
            add_views(path, [view_content(1), view_content(2)])
        made = collect_views({str(path): read_record(path, tmp_path).views for path in paths}, 10**7)
        assert (len(made["pictures"]), len(made["scenes"]), made["notes"]) == (2, 2, [])
        assert [[item["scene"] for item in items] for items in made["runs"].values()] == [[0, 1], [0, 1]]
        assert all(item["responses"] for items in made["runs"].values() for item in items)

    def test_a_budget_drops_heat_maps_and_then_images(self, tmp_path: Path) -> None:
        views = {}
        for name in "abc":
            path = make_logged_run(tmp_path, name)
            add_views(path, [view_content(i, 6, 100) for i in range(1, 5)])
            views[name] = read_record(path, tmp_path).views
        whole = len(json.dumps(collect_views(views, 10**9)))
        assert not collect_views(views, 10**9)["notes"]
        seen = []
        for budget in [whole + 5000, whole // 2, whole // 5, whole // 10, 1000, 0, -5]:
            made = collect_views(views, budget)
            assert len(json.dumps({**made, "notes": []})) <= max(budget, 200)
            kept = {len(items) for items in made["runs"].values()}
            heat = sum(item["responses"] is not None for items in made["runs"].values() for item in items) // 3
            assert len(kept) == 1  # all runs the same images
            seen.append((kept.pop(), heat))
            assert bool(made["notes"]) == (seen[-1] != (4, 4))
        assert seen == [(4, 4), (4, 1), (3, 0), (1, 0), (0, 0), (0, 0), (0, 0)]
        assert collect_views(views, 0)["notes"][0] == "To stay within its size this page holds no images."


class TestPage:
    def test_json_is_harmless_in_html(self) -> None:
        value = {NASTY: "<!--\u2028\u2029&amp;\ud800"}
        text = script_json(value)
        assert not re.search(r"[<>&\u2028\u2029]", text)
        assert text.isascii()
        assert json.loads(text) == value
        with pytest.raises(ValueError, match="Out of range"):
            script_json(math.nan)

    def test_text_of_runs_breaks_out_nowhere(self, tmp_path: Path) -> None:
        path = make_logged_run(tmp_path, NASTY, folder="<img src=x onerror=alert(1)>", classes=(NASTY, "b"))
        add_views(path, [view_content(1, classes=(NASTY, "b"))])
        made = WatchedRuns(tmp_path, 10**8).read()
        html = build_page(made.data, made.views)
        assert b"onerror=alert(1)>" not in html
        assert html.count(b"</script>") == build_page("null", "null").count(b"</script>")
        row = data_in(html)["runs"][0]
        assert (row["name"], row["classes"][0][0]) == (NASTY, NASTY)
        assert data_in(html, "views")["scenes"][0]["classes"][0] == NASTY

    def test_our_own_parts_name_no_address(self) -> None:
        for file in page.STATIC.iterdir():
            assert not re.search(r"https?:|//www|@import|url\(", file.read_text()), file
        assert {file.name for file in page.STATIC.iterdir()} == {*page.SCRIPTS, "style.css", "page.html"}

    def test_our_own_scripts_make_no_html_of_text(self) -> None:
        for name in page.SCRIPTS:
            code = (page.STATIC / name).read_text()
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code), (
                name
            )
            assert len(code.splitlines()) <= 300, name

    def test_the_policy_allows_just_these_scripts(self) -> None:
        html = build_page("null", "null").decode()
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
        assert policy is not None
        assert "default-src 'none'" in policy[1]
        assert "connect-src 'none'" in policy[1]
        hashes = re.findall(r"'sha256-([^']*)'", policy[1])
        scripts = re.findall(r'<script(?: type="text/plain" id="plotly")?>(.*?)</script>', html, re.DOTALL)
        made = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
        assert set(hashes) == made
        assert len(hashes) == 2
        assert "\r" not in html  # an HTML parser would change it, and the hash with it
        assert "connect-src 'self'" in build_page("null", "null", 5).decode()


class TestCommand:
    def test_one_file_in_a_new_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make_logged_run(tmp_path / "runs")
        out = tmp_path / "new" / "folder" / "page.html"
        assert main(["dashboard", "--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
        assert data_in(out.read_bytes())["runs"][0]["ap"][0] == 50.0
        assert [file.name for file in out.parent.iterdir()] == ["page.html"]
        assert "1 runs" in capsys.readouterr().out
        assert out.stat().st_mode & 0o777 == 0o644

    def test_no_runs(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a" / "b").mkdir(parents=True)
        out = tmp_path / "page.html"
        assert main(["dashboard", "--runs", str(tmp_path), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(
            f"error: there is no run under {tmp_path}: runs lie in <runs_root>/<experiment>/<run id>/"
        )
        assert not out.exists()

    @pytest.mark.parametrize(
        ("given", "message"),
        [([], "--out page.html, --serve, or both"),
         (["--out", "x", "--max-mb", "0"], "--max-mb must be above 0, got 0"),
         (["--serve", "--interval", "-1"], "--interval must be above 0"),
         (["--serve", "--interval", "nan"], "--interval must be above 0"),
         (["--serve", "--port", "70000"], "choose another --port")],
    )  # fmt: skip
    def test_wrong_arguments(self, tmp_path: Path, given: list[str], message: str) -> None:
        make_logged_run(tmp_path)
        with pytest.raises(UserError, match=re.escape(message)):
            dashboard.run(arguments("--runs", str(tmp_path), *given))

    def test_a_port_in_use(self, tmp_path: Path) -> None:
        make_logged_run(tmp_path)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            with pytest.raises(UserError, match=f"cannot serve at 127.0.0.1:{port}: .*choose another --port"):
                dashboard.run(arguments("--runs", str(tmp_path), "--serve", "--port", port))

    def test_a_file_that_cannot_be_written_leaves_nothing(self, tmp_path: Path) -> None:
        make_logged_run(tmp_path / "runs")
        (tmp_path / "page.html").mkdir()
        with pytest.raises(UserError, match=r"cannot write .*page\.html: "):
            dashboard.run(arguments("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "page.html")))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "runs"]

    def test_the_size_limit_counts_the_whole_page(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in "abc":
            add_views(make_logged_run(tmp_path / "runs", name), [view_content(i, 6, 100) for i in range(1, 5)])
        out = tmp_path / "page.html"
        limit = (page.fixed_size() + 150_000) / 1e6
        dashboard.run(arguments("--runs", str(tmp_path / "runs"), "--out", str(out), "--max-mb", f"{limit:.6f}"))
        assert out.stat().st_size <= limit * 1e6
        assert "of 4 images" in data_in(out.read_bytes(), "views")["notes"][0]
        dashboard.run(arguments("--runs", str(tmp_path / "runs"), "--out", str(out), "--max-mb", "1"))
        assert "more than the 1 MB of --max-mb" in capsys.readouterr().out


class TestServe:
    def test_only_changed_runs_are_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = [make_logged_run(tmp_path, name) for name in "abc"]
        reads: list[Path] = []
        monkeypatch.setattr(
            watched_runs, "read_record", lambda path, root: reads.append(path) or read_record(path, root)
        )
        runs = WatchedRuns(tmp_path, 10**8)
        first = runs.read()
        assert reads == paths
        assert runs.read().is_as(first)
        assert reads == paths
        with (paths[1] / "metrics.jsonl").open("a") as file:
            file.write(event("train", 400, {"train/loss/total": 0.5}))
        second = runs.read()
        assert reads == [*paths, paths[1]]
        assert not second.is_as(first)
        assert second.views_version == first.views_version
        new = make_logged_run(tmp_path, "d")
        runs.read()
        assert reads[4:] == [new]

    @pytest.mark.parametrize(
        "name", ["status.json", "results.json", "eval/step_00000300.json", "names/x", "views/1.json"]
    )
    def test_every_file_the_page_shows_is_watched(self, tmp_path: Path, name: str) -> None:
        path = make_logged_run(tmp_path)
        before = signature(path)
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps({"state": "interrupted and longer"}))
        assert signature(path) != before

    def test_over_http(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = make_logged_run(tmp_path / "runs", state="running")
        out = tmp_path / "page.html"
        runs = WatchedRuns(tmp_path / "runs", 10**8)
        with serving(Server(("127.0.0.1", 0), runs, runs.read_or_refuse(), 0.05, lambda c: write_to(out, c))) as server:
            data, views = get(server, "data.json"), get(server, "views.json")
            assert data["runs"][0]["train"]["step"][-1] == 150
            assert status(server, f"data.json?have={data['version']}") == 204
            assert status(server, f"views.json?have={views['version']}") == 204
            assert status(server, "data.json?have=older") == 200
            assert status(server, "") == 200
            assert status(server, "../../etc/passwd") == 404
            with (path / "metrics.jsonl").open("a") as file:
                file.write(event("train", 160, {"train/loss/total": 0.5}))
            newer = wait_for(lambda: get(server, "data.json"), lambda found: found["version"] != data["version"])
            assert newer["runs"][0]["train"]["step"][-1] == 160
            assert get(server, "views.json")["version"] == views["version"]
            wait_for(out.exists, bool)
            assert data_in(out.read_bytes())["runs"][0]["train"]["step"][-1] == 160
            (tmp_path / "runs").rename(tmp_path / "moved")
            wait_for(lambda: capsys.readouterr().err, lambda error: "the page stays as it was" in error)
            assert get(server, "data.json")["runs"][0]["train"]["step"][-1] == 160


def write_to(out: Path, content: watched_runs.PageContent) -> None:
    dashboard.write_page(out, content)


def status(server: Server, name: str) -> int:
    try:
        with urllib.request.urlopen(server.url + name, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
