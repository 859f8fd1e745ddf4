"""The reader of run directories: what it tolerates, what it refuses, and what it does not import."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparse_rcnn.errors import NewerSchemaError, RunError
from sparse_rcnn.rundir.find import find_foreign_folders, find_runs
from sparse_rcnn.rundir.layout import SCHEMA_VERSION
from sparse_rcnn.rundir.reader import Run, check_meta
from tests.support.paths import ROOT
from tests.support.runs import make_bare_run, write_json


def line(event: str, step: int, **metrics: float) -> str:
    return json.dumps({"event": event, "step": step, "epoch": 0, "time": 0.0, "metrics": metrics}) + "\n"


def test_a_run_without_results_yet(tmp_path: Path) -> None:
    run = Run(make_bare_run(tmp_path))
    assert (run.run_id, run.config, run.status) == ("0123456789ab-seed0", {"seed": 0}, {"state": "created"})
    assert (run.results, run.is_finished, run.evaluations, run.events()) == (None, False, [], [])


def test_a_run_is_finished_with_results_and_state(tmp_path: Path) -> None:
    path = make_bare_run(tmp_path)
    write_json(path / "results.json", {"val/bbox/AP": 0.5})
    write_json(path / "status.json", {"state": "running"})
    assert not Run(path).is_finished
    write_json(path / "status.json", {"state": "finished"})
    run = Run(path)
    assert run.is_finished
    assert run.results == {"val/bbox/AP": 0.5}


def test_evaluations_are_sorted_by_step_and_other_files_ignored(tmp_path: Path) -> None:
    path = make_bare_run(tmp_path)
    for step in (100, 20, 123456789):
        write_json(path / "eval" / f"step_{step:08d}.json", {"metrics": {"AP": step}})
    (path / "eval" / ".step_00000200.json.17.tmp").write_text('{"met')
    (path / "eval" / "notes.txt").write_text("")
    evaluations = Run(path).evaluations
    assert [item["step"] for item in evaluations] == [20, 100, 123456789]
    assert evaluations[1]["metrics"] == {"AP": 100}


def test_damaged_evaluations_are_left_out_and_named(tmp_path: Path) -> None:
    path = make_bare_run(tmp_path)
    good = {"epoch": 1.5, "metrics": {"val/bbox/AP": 0.5, "val/bbox/APs": None}}
    damaged: list[Any] = [
        [], {"metrics": {}}, {"epoch": True, "metrics": {}}, {"epoch": math.inf, "metrics": {}},
        {"epoch": 1}, {"epoch": 1, "metrics": [1]}, {"epoch": 1, "metrics": {"val/bbox/AP": "0.5"}},
    ]  # fmt: skip
    for step, content in enumerate([good, *damaged, good]):
        write_json(path / "eval" / f"step_{step:08d}.json", content)
    (path / "eval" / "step_00000100.json").write_text('{"met')
    run = Run(path)
    found, problems = run.readable_evaluations()
    assert found == [{"step": 0, **good}, {"step": 8, **good}]
    names = [f"eval/step_{step:08d}.json" for step in (*range(1, 8), 100)]
    assert [name in problem for name, problem in zip(names, problems, strict=True)] == [True] * 8
    assert problems[1].endswith("step_00000002.json is not an evaluation: epoch must be a number, not None")
    assert problems[5].endswith("step_00000006.json is not an evaluation: metrics must be an object of numbers")
    with pytest.raises(RunError, match=r"step_00000001\.json does not hold a JSON object"):
        _ = run.evaluations


def test_of_a_repeated_event_the_last_wins_and_steps_are_sorted(tmp_path: Path) -> None:
    path = make_bare_run(tmp_path)
    log = line("train", 1, loss=3.0) + line("train", 2, loss=2.0) + line("eval", 2, AP=0.1)
    log += line("train", 2, loss=1.5) + line("train", 10, loss=1.0) + line("train", 1, loss=2.5)
    (path / "metrics.jsonl").write_text(log)
    run = Run(path)
    assert [(e["step"], e["metrics"]["loss"]) for e in run.events("train")] == [(1, 2.5), (2, 1.5), (10, 1.0)]
    assert [(e["event"], e["step"]) for e in run.events()][-1] == ("train", 10)
    assert len(run.events()) == 4
    assert (run.num_unreadable_lines, run.has_torn_line) == (0, False)


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_torn_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    path = make_bare_run(tmp_path)
    (path / "metrics.jsonl").write_bytes((line("train", 1, loss=1.0) + line("train", 2)[:cut]).encode())
    run = Run(path)
    assert [item["step"] for item in run.events()] == [1]
    assert (run.num_unreadable_lines, run.has_torn_line) == (0, True)


def test_unreadable_lines_in_the_middle_are_counted(tmp_path: Path) -> None:
    path = make_bare_run(tmp_path)
    bad = [
        b'{"event": "tra\n',
        b"\x00\x00\xff\xfe\n",
        b"[1, 2]\n",
        b'{"event": "x"}\n',
        b'{"event": "x", "step": "1"}\n',
    ]
    (path / "metrics.jsonl").write_bytes(line("train", 1).encode() + b"".join(bad) + b"\n" + line("train", 2).encode())
    run = Run(path)
    assert [item["step"] for item in run.events()] == [1, 2]
    assert (run.num_unreadable_lines, run.has_torn_line) == (len(bad), False)


def test_a_complete_last_line_without_its_newline_counts(tmp_path: Path) -> None:
    path = make_bare_run(tmp_path)
    (path / "metrics.jsonl").write_text(line("train", 1) + line("train", 2).rstrip("\n"))
    assert len(Run(path).events()) == 2


def test_a_newer_schema_is_refused_by_version(tmp_path: Path) -> None:
    path = make_bare_run(tmp_path, version=SCHEMA_VERSION + 1)
    with pytest.raises(NewerSchemaError, match=f"schema version {SCHEMA_VERSION + 1}.*update it"):
        Run(path)
    with pytest.raises(NewerSchemaError):
        find_runs(tmp_path)


def test_what_is_no_run_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory"):
        Run(tmp_path)
    write_json(tmp_path / "a" / "meta.json", {"something": "else"})
    with pytest.raises(RunError, match=r"meta\.json does not describe a run"):
        Run(tmp_path / "a")
    path = make_bare_run(tmp_path)
    (path / "config.json").write_text('{"seed": ')
    with pytest.raises(RunError, match=r"config\.json is not valid JSON"):
        _ = Run(path).config


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema_version": None}, "schema_version must be a whole number, not None"),
        ({"schema_version": True}, "schema_version must be a whole number, not True"),
        ({"schema_version": "1"}, "schema_version must be a whole number, not '1'"),
        ({"run_id": 7}, "run_id must be a string that is not empty, not 7"),
        ({"run_id": ""}, "run_id must be a string that is not empty, not ''"),
        ({"run_id": 7, "schema_version": 99}, "run_id must be a string that is not empty, not 7"),
        ({"experiment": None}, "experiment must be a string that is not empty, not None"),
        ({"experiment": ["a"]}, r"experiment must be a string that is not empty, not \['a'\]"),
        ({"resumes": {}}, r"resumes must be a list, not {}"),
    ],
)
def test_meta_that_describes_no_run_is_refused_by_key(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = make_bare_run(tmp_path)
    meta = json.loads((path / "meta.json").read_text())
    check_meta({**meta, "resumes": [{}]}, "it")
    write_json(path / "meta.json", {**meta, **changes})
    with pytest.raises(RunError, match=rf"^{path}: its meta\.json does not describe a run: {problem}$"):
        Run(path)
    assert find_runs(tmp_path) == []
    assert find_foreign_folders(tmp_path) == [path]


def test_meta_is_an_object_with_a_name_for_the_run() -> None:
    with pytest.raises(RunError, match="does not describe a run: it must be a JSON object"):
        check_meta([], "it")
    with pytest.raises(RunError, match="does not describe a run: run_id must be a string"):
        check_meta({"schema_version": 1}, "it")
    with pytest.raises(RunError, match="does not describe a run: experiment must be a string"):
        check_meta({"schema_version": 1, "run_id": "a-seed0"}, "it")


def test_the_reader_imports_neither_torch_nor_the_suite() -> None:
    code = "import sys, sparse_rcnn.rundir.summary; print({m.split('.')[0] for m in sys.modules} & set(sys.argv[1:]))"
    names = ["torch", "hydra", "omegaconf", "experiments", "analysis"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
