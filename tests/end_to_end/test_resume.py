"""A run that was killed anywhere and started again ends bit for bit as one that was left alone."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import lock
from sparse_rcnn.rundir.reader import Run
from tests.support import training
from tests.support.damage import flip_for_good, some_bits, without_digests
from tests.support.paths import names
from tests.support.resumes import EVERYTHING, assert_same, reference, stopped_run

# Runs experiments.train and kills it with SIGKILL at the n-th time that it comes to a point of KILL_AT=point:n.
DRIVER = """
import io, os, shutil, signal, sys
from pathlib import Path

point, _, number = os.environ["KILL_AT"].rpartition(":")
left = int(number)

def is_it():
    global left
    left -= 1
    return left == 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

import torch
import sparse_rcnn.checkpoint
from sparse_rcnn.runlog import JsonlWriter

real_replace, real_save, real_write = os.replace, torch.save, Path.write_bytes
real_rmtree, real_step, real_log = shutil.rmtree, torch.optim.AdamW.step, JsonlWriter.log

def replace(source, target, *args, **kwargs):
    name = Path(target).name
    parts = {"rename": name.startswith("step_") and not name.endswith(".json"), "renamed": False,
             "eval": name.startswith("step_") and name.endswith(".json"), "results": name == "results.json",
             "weights-at-the-end": name == "model.safetensors" and ".tmp" not in str(target),
             "meta": name == "meta.json",
             "finished": name == "status.json" and os.path.exists(f"{Path(target).parent}/results.json")}
    if parts.get(point) and is_it():
        die()
    real_replace(source, target, *args, **kwargs)
    if point == "renamed" and parts["rename"] and is_it():
        die()

def save(value, file, *args, **kwargs):
    if point == "state" and is_it():
        buffer = io.BytesIO()
        real_save(value, buffer)
        file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        file.flush()
        die()
    real_save(value, file, *args, **kwargs)

def write_bytes(self, data):
    parts = {"weights": "model.safetensors", "digests": "digests.json"}
    if ".step_" in str(self) and parts.get(point, "?") in self.name and is_it():
        real_write(self, data[: len(data) // 2])
        die()
    return real_write(self, data)

def rmtree(path, *args, **kwargs):
    if point == "dropping" and Path(path).name.endswith(".dropped.tmp") and Path(path).exists() and is_it():
        (Path(path) / "model.safetensors").unlink()
        die()
    real_rmtree(path, *args, **kwargs)

def step(self, *args, **kwargs):
    if point == "step" and is_it():
        die()
    return real_step(self, *args, **kwargs)

def log(self, event, *args):
    if point == "line" and event == "train" and is_it():
        with open(self.path, "a") as file:
            file.write('{"event": "train", "st')
        die()
    real_log(self, event, *args)

os.replace, torch.save, Path.write_bytes, shutil.rmtree = replace, save, write_bytes, rmtree
torch.optim.AdamW.step, JsonlWriter.log = step, log

from experiments.train import main
main()
"""


POINTS = [
    pytest.param("step:4", 2, id="between-checkpoints"),
    pytest.param("state:2", 2, id="in-the-training-state"),
    *(
        pytest.param(point, resumed_at, marks=pytest.mark.slow, id=name)
        for name, point, resumed_at in (
            ("in-the-first-weights", "weights:1", 0),
            ("in-the-weights", "weights:2", 2),
            ("in-the-digests", "digests:2", 2),
            ("before-the-rename", "rename:2", 2),
            ("after-the-rename", "renamed:3", 6),
            ("while-dropping-the-oldest", "dropping:1", 6),
            ("before-the-evaluation-is-written", "eval:1", 4),
            ("in-a-line-of-the-metrics", "line:3", 2),
            ("before-any-step", "step:1", 0),
            ("in-the-creation", "meta:1", None),
            ("before-the-weights-at-the-end", "weights-at-the-end:1", 6),
            ("before-the-results", "results:1", 6),
            ("before-it-says-finished", "finished:1", 6),
        )
    ),
]


@pytest.mark.parametrize(("point", "resumed_at"), POINTS)
def test_killed_and_started_again_it_ends_as_if_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], point: str, resumed_at: int | None
) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    arguments = training.overrides(tmp_path / "runs", *EVERYTHING)
    code, _, err = training.finish(training.start(arguments, driver, KILL_AT=point))
    assert code == -signal.SIGKILL, err
    capfd.readouterr()

    run = training.train(arguments)
    err = capfd.readouterr().err
    assert (f"resuming at step {resumed_at} of 6" in err) == bool(resumed_at)
    assert_same(run, reference(EVERYTHING))
    assert len(json.loads((run / "meta.json").read_text())["resumes"]) == (resumed_at is not None)


@pytest.mark.slow
def test_killed_with_a_data_worker_running(tmp_path: Path) -> None:
    """The worker of the killed process holds the lock until it notices; the next start waits for that."""
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    arguments = training.overrides(tmp_path / "runs", *EVERYTHING, "data.num_workers=1")
    code, _, err = training.finish(training.start(arguments, driver, KILL_AT="step:4"))
    assert code == -signal.SIGKILL, err
    code, _, err = training.finish(training.start(arguments))
    assert code == 0, err
    assert "resuming at step 2" in err
    assert_same(training.only_run(tmp_path / "runs"), reference(EVERYTHING))


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    arguments = training.overrides(tmp_path / "runs", *EVERYTHING)
    for point in ("step:4", "rename:1", "eval:1", "state:1", "results:1"):
        code, _, err = training.finish(training.start(arguments, driver, KILL_AT=point))
        assert code == -signal.SIGKILL, (point, err)
    assert_same(training.train(arguments), reference(EVERYTHING))


def test_data_workers_change_no_number(tmp_path: Path) -> None:
    run = training.train(training.overrides(tmp_path, *EVERYTHING, "data.num_workers=1"))
    assert_same(run, reference(EVERYTHING))


# --- checkpoints that cannot be used ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "damage", "problem"),
    [
        (
            "model.safetensors",
            lambda p: flip_for_good(p, 8 * p.stat().st_size - 100),
            "has another content ",
        ),
        ("training_state.pt", lambda p: p.write_bytes(p.read_bytes()[:-200]), r"has \d+ bytes, \d+ were written"),
        ("digests.json", lambda p: p.unlink(), "is missing"),
    ],
    ids=["flipped-bit", "truncated-state", "no-digests"],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_as_if_left_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    file: str,
    damage: Any,
    problem: str,
) -> None:
    run = stopped_run(tmp_path, monkeypatch, *EVERYTHING)
    newest = run / "checkpoints" / "step_00000004"
    damage(newest / file)
    before = {path.name: path.read_bytes() for path in newest.iterdir()}
    capfd.readouterr()
    assert_same(training.train(training.overrides(tmp_path, *EVERYTHING)), reference(EVERYTHING))

    lines = capfd.readouterr().err.splitlines()
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    aside = "set aside as damaged-step_00000004, the run goes on from step 2"
    assert re.fullmatch(rf"warning: {newest} is damaged: {file} {problem}.*; {aside}", warning), warning
    assert f"resuming at step 2 of 6 in {run}" in lines
    assert names(run / "checkpoints") == ["damaged-step_00000004", "step_00000004", "step_00000006"]
    after = {path.name: path.read_bytes() for path in (run / "checkpoints" / "damaged-step_00000004").iterdir()}
    assert after == before
    evaluations = (run / "metrics.jsonl").read_text().count('"event": "eval", "step": 4,')
    assert evaluations == 2  # that of the damaged checkpoint's weights does not stand for the new ones
    (noted,) = training.status(run)["set_aside"]
    assert noted.keys() == {"checkpoint", "problem", "at"}
    assert noted["checkpoint"] == "damaged-step_00000004"
    assert re.match(f"{file} {problem}", noted["problem"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("file", ["model.safetensors", "training_state.pt", "digests.json"])
def test_a_bit_flipped_anywhere_changes_nothing_of_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, seed: int
) -> None:
    run = stopped_run(tmp_path, monkeypatch, *EVERYTHING)
    damaged = run / "checkpoints" / "step_00000004" / file
    flip_for_good(damaged, some_bits(damaged, 3, seed)[2])
    assert_same(training.train(training.overrides(tmp_path, *EVERYTHING)), reference(EVERYTHING))
    assert names(run / "checkpoints") == ["damaged-step_00000004", "step_00000004", "step_00000006"]


def test_with_all_checkpoints_damaged_it_begins_anew_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = stopped_run(tmp_path, monkeypatch, *EVERYTHING)
    for step in (2, 4):
        flip_for_good(run / "checkpoints" / f"step_0000000{step}" / "training_state.pt", 8 * 5000)
    assert_same(training.train(training.overrides(tmp_path, *EVERYTHING)), reference(EVERYTHING))
    err = capfd.readouterr().err
    assert err.count("warning: ") == err.count(", the run goes on from the start") == 2
    assert [item["checkpoint"] for item in training.status(run)["set_aside"]] == [
        "damaged-step_00000004",
        "damaged-step_00000002",
    ]


def test_checkpoints_of_an_older_program_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped_run(tmp_path, monkeypatch, *EVERYTHING)
    for step in (2, 4):
        without_digests(run / "checkpoints" / f"step_0000000{step}")
    assert_same(training.train(training.overrides(tmp_path, *EVERYTHING)), reference(EVERYTHING))
    assert "set_aside" not in training.status(run)
    assert names(run / "checkpoints") == ["step_00000004", "step_00000006"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = stopped_run(tmp_path / "a", monkeypatch)
    other = stopped_run(tmp_path / "b", monkeypatch, "optim.lr=0.002")
    shutil.rmtree(mine / "checkpoints")
    shutil.copytree(other / "checkpoints", mine / "checkpoints")
    expected = f"step_00000004 belongs to configuration {other.name[:12]}, this run is {mine.name[:12]}"
    with pytest.raises(UserError, match=expected):
        training.train(training.overrides(tmp_path / "a"))


# --- runs that are done, lines that are torn -------------------------------------------------------------


def test_a_finished_run_is_skipped_and_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = training.train(training.overrides(tmp_path))
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path, *tmp_path.rglob("*"))}
    capsys.readouterr()
    again = training.train(training.overrides(tmp_path, "data.num_workers=1", "train.log_every=3"))  # the same run
    assert again == run
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path, *tmp_path.rglob("*"))} == before
    out = capsys.readouterr().out
    assert f"{run} is finished; nothing to do" in out
    assert "AP50" in out


def test_under_another_experiment_a_finished_run_only_gets_its_name(tmp_path: Path) -> None:
    run = training.train(training.overrides(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    for _ in range(2):
        assert training.train(training.overrides(tmp_path, "experiment_name=other")) == run
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert {p for p in after if after[p] != before.get(p)} == {run / "experiments.json"}
    assert Run(run).experiments == ["baseline", "other", "stages_3"]


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    first, second = (training.train(training.overrides(tmp_path, f"seed={seed}")) for seed in (0, 1))
    assert first.name[:12] == second.name[:12]
    assert first != second
    assert training.losses(first) != training.losses(second)


def test_a_torn_last_line_is_ended_by_the_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped_run(tmp_path, monkeypatch, *EVERYTHING)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 5, "ep')
    assert_same(training.train(training.overrides(tmp_path, *EVERYTHING)), reference(EVERYTHING))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert lines.count('{"event": "train", "step": 5, "ep') == 1


def test_a_run_that_another_process_trains_is_refused_with_its_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped_run(tmp_path, monkeypatch)
    before = training.status(run)
    with lock.lock_run(run):  # a lock of this process, taken by another file descriptor
        holder = json.loads((run / "lock_holder.json").read_text())
        process = training.start(training.overrides(tmp_path))
        code, _, err = training.finish(process)
    assert code == 1
    assert err.startswith(f"error: {run} is in use by process {holder['pid']} on ")
    assert len(err.splitlines()) == 1
    assert training.status(run) == before
