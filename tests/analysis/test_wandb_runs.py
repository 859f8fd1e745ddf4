"""Tables, order and curves from a W&B project: the same bytes as from the directories of the same runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.figures.convergence import curves
from analysis.summaries import load_summaries
from analysis.wandb_runs import WandbRun
from sparse_rcnn.errors import NewerSchemaError, RunError
from sparse_rcnn.rundir.find import find_runs
from sparse_rcnn.rundir.remote_copy import PREFIX as DIRECTORY
from sparse_rcnn.rundir.remote_copy import copy_of
from sparse_rcnn.rundir.writer import RunDirectory
from tests.support import training
from tests.support.commands import run_command
from tests.support.paths import ROOT
from tests.support.runs import edit_meta, make_run
from tests.support.wandb_stand_in import StandIn


class FakeRun:
    """A run as W&B's API gives it: what went through JSON, and a history of positions."""

    def __init__(self, name: str, summary: dict[str, Any], config: dict[str, Any], history: list[dict[str, Any]]):
        self.id = name
        self.summary_metrics, self.config = json.loads(json.dumps([summary, config]))
        self._history = history

    def scan_history(self, keys: list[str], use_cache: bool) -> list[dict[str, Any]]:
        assert not use_cache, "a file of an earlier time"
        return [{key: row[key] for key in keys} for row in self._history if set(keys) <= set(row)]


def on_wandb(root: Path) -> list[FakeRun]:
    """The runs of a folder as the writer puts them there."""
    found = []
    for run in find_runs(root):
        history: list[dict[str, Any]] = [
            {"_step": 2, "progress/step": 1, "progress/epoch": 0.1, "train/loss/total": 3.0},
            {"_step": 3, "progress/step": 1, "progress/epoch": 0.1, "val/bbox/AP": "NaN"},
        ]
        for item in run.evaluations:
            ap = item["metrics"]["val/bbox/AP"]
            row = {"_step": 2 * item["step"] + 1, "progress/step": item["step"], "val/bbox/AP": ap}
            history.append({**row, "progress/epoch": item["epoch"] + 1e-9})
        found.append(FakeRun(run.run_id, {**copy_of(run), "val/bbox/AP": 0.99}, run.config, history))
    return found


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """The runs of the project me/p, to be filled."""
    import wandb

    runs: list[FakeRun] = []

    class Api:
        def runs(self, path: str, **_: Any) -> list[FakeRun]:
            if path != "me/p":
                raise ValueError(f"Could not find project {path}")
            return runs

    monkeypatch.setattr(wandb, "Api", Api)
    return runs


def make_suite(root: Path) -> None:
    """Seeds, names, flags of all kinds, and nothing that is damaged: W&B has no damaged files."""
    for seed, ap in enumerate((0.50, 0.52, 1 / 3)):
        make_run(
            root, "baseline", seed, ap, names=("stages_6", "num_proposals_100"), config={"num_stages": 6},
            evaluations={1: 0.1 * seed, 2.123456: 0.3, 10: ap}, train__time__seconds=1234.567, model__speed__fps=3.3,
        )  # fmt: skip
    make_run(root, "stages_1", 0, 0.2, dirty=True, config={"num_stages": 1}, val__bbox__AP50=-1)
    make_run(root, "stages_2", 0, 0.4, state="running")
    make_run(root, "stages_12", 0, None, state="interrupted")
    make_run(root, "head_attention", 0, 0.1, val="ef" * 32)
    make_run(root, "proposal_init_grid", 0, 0.3, recipe="paper")
    edit_meta(make_run(root, "dropout_0_1", 1, 0.45), resumes=[{"recipe": "paper", "device": "other"}])


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "html"])
def test_tables_are_the_same_bytes(
    project: list[FakeRun], tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    make_suite(tmp_path)
    project += reversed(on_wandb(tmp_path))
    texts = []
    for source in (["--runs", str(tmp_path)], ["--wandb", "me/p"]):
        for command in ("tables", "agreement"):
            assert run_command(command, [*source, "--recipe", "mini", "--format", form]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "45.1" in texts[0]


def test_curves_are_the_same(project: list[FakeRun], tmp_path: Path) -> None:
    make_suite(tmp_path)
    project += on_wandb(tmp_path)
    ours, theirs = (curves(load_summaries(*source), "mini") for source in (([tmp_path],), ([], "me/p")))
    assert theirs == ours
    assert ours[0].epochs == (1.0, 2.123456, 10.0)


def test_both_sources_together_are_each_run_once(project: list[FakeRun], tmp_path: Path) -> None:
    make_suite(tmp_path)
    project += on_wandb(tmp_path)
    taken, own = ([run.directory.path for run in load_summaries([tmp_path], of)] for of in ("me/p", None))
    assert taken == own, "a directory has more"


def test_what_is_no_run_of_ours_is_left_out_and_said(
    project: list[FakeRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path)
    project += [*on_wandb(tmp_path), FakeRun("other", {"loss": 1.0}, {}, [])]
    project.append(FakeRun("odd", {f"{DIRECTORY}/meta": {"run_id": 3}}, {}, []))
    (summary,) = load_summaries([], "me/p")
    assert (
        "me/p: 2 runs there were not logged by this suite, or by an older version of it: left out"
        in capsys.readouterr().err
    )
    with pytest.raises(RunError, match=r"-seed0 was read from W&B, and this needs its run directory: see --runs"):
        _ = summary.directory


def test_figure_4_needs_directories(project: list[FakeRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, evaluations={1: 0.5})
    project += on_wandb(tmp_path)
    assert run_command("figures", ["--wandb", "me/p", "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figure1.pdf", "figure1.png"]
    assert "no figure 4: " in capsys.readouterr().err


def test_what_cannot_be_read_is_one_line(project: list[FakeRun], capsys: pytest.CaptureFixture[str]) -> None:
    for given, message in (
        ("sparse-rcnn", "--wandb sparse-rcnn: give ENTITY/PROJECT"),
        ("me/q", "W&B does not give the runs of me/q: ValueError: Could not find project me/q; it needs a key"),
        ("me/p", "there is no run: give the folder that holds them with --runs, or a project with --wandb"),
    ):
        assert run_command("tables", ["--wandb", given]) == 2
        assert message in capsys.readouterr().err


def test_a_newer_schema_is_refused(project: list[FakeRun], tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (run,) = on_wandb(tmp_path)
    run.summary_metrics[f"{DIRECTORY}/meta"]["schema_version"] = 99
    project.append(run)
    with pytest.raises(NewerSchemaError, match=f"{path.name} on W&B was written with schema version 99"):
        load_summaries([], "me/p")


def test_a_run_without_status_has_just_begun() -> None:
    run = WandbRun(
        FakeRun("a-seed0", {f"{DIRECTORY}/meta": {"schema_version": 1, "run_id": "a", "experiment": "b"}}, {}, [])
    )
    assert (run.status, run.results, run.experiments, run.evaluations) == ({"state": "created"}, None, ["b"], [])


@pytest.mark.slow
def test_from_training_to_tables_over_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs trained online, one of them stopped: W&B's client gives the directories' tables and curves."""
    root = tmp_path / "runs"
    with StandIn() as server:
        key = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.url}
        base = training.overrides(root, "log=wandb", "eval.every_epochs=1")

        def train(*extra: str) -> None:
            code, _, err = training.finish(training.start([*base, *extra], **key))
            assert code == 0, err
            assert "goes on without it" not in err

        train("experiment=baseline")
        train("experiment=stages_1", "num_stages=1")
        slow = training.slow_driver(tmp_path, 0.1)
        stopped = training.start([*base, "experiment=stages_12", "schedule.length=400"], slow, **key)
        deadline = time.monotonic() + 60
        while not list(root.glob("stages_12/*/checkpoints/step_*")):
            assert stopped.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        stopped.send_signal(signal.SIGTERM)
        training.finish(stopped)
        assert len(server.runs) == 3

        def analysis(*arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "analysis", *arguments], cwd=ROOT, env={**os.environ, **key}, text=True,
                capture_output=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        sources = (("--runs", str(root)), ("--wandb", "me/sparse-rcnn"))
        texts = [analysis("tables", "--format", "csv", *source) for source in sources]
        assert texts[0] == texts[1]
        assert "is unfinished and not used (interrupted, step" in texts[0]
        assert texts[0].count("stages_3") > 10, "under mini the baseline is that row too"
        for source, out in zip(sources, ("a", "b"), strict=True):
            analysis("figures", "--out", str(tmp_path / out), *source)
            assert (tmp_path / out / "figure1.png").stat().st_size > 0
        for name, value in key.items():
            monkeypatch.setenv(name, value)
        of_files, of_server = (
            curves(load_summaries(roots, project), "mini")
            for roots, project in (([root], None), ([], "me/sparse-rcnn"))
        )
    # The server's history is read without its times: over epochs the curves are the same.
    assert all(curve.hours for curve in of_files)
    assert of_server == [replace(curve, hours=()) for curve in of_files]


def test_a_run_that_is_another_row_than_it_was_started_as_is_that_row_alone(tmp_path: Path) -> None:
    run = RunDirectory(make_run(tmp_path, "baseline"))
    run.add_experiments({"baseline": ["num_stages: 3 -> 1"], "stages_1": []})
    copied = WandbRun(FakeRun(run.run_id, copy_of(run), {}, []))
    assert (
        (copied.experiments, copied.deviations) == (run.experiments, run.deviations) == (["stages_1"], {"stages_1": []})
    )
