"""Weights & Biases over sweeps, kills and resumes, and a server that is not there."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from experiments.tracking.wandb_history import wandb_files
from sparse_rcnn.rundir.reader import Run
from tests.support import training
from tests.support.damage import flip_for_good
from tests.support.resumes import stopped_run
from tests.support.wandb_files import WANDB, hide_keys, records, rows_of, settle
from tests.support.wandb_stand_in import StandIn


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path_factory):
    hide_keys(monkeypatch, tmp_path_factory.mktemp("home"))


@pytest.mark.slow
def test_two_sweeps_one_of_their_runs_killed(tmp_path):
    """The right groups and ids, no step twice, and none missing, over a kill, a stop and a resume."""
    finished = tmp_path / "runs"
    base = ["eval.every_epochs=1", *WANDB]
    sweeps = {
        "num_stages": ["experiment=baseline,proposal_init_center", "seed=0"],
        "initialization": ["experiment=proposal_init_grid", "seed=0,1"],
    }
    for name, rows in sweeps.items():
        common = training.overrides(finished, *base, f"sweep={name}", "hydra/launcher=basic")
        process = training.start(["-m", *common, *rows], WANDB_MODE="offline")
        code, _, err = training.finish(process, timeout=300)
        assert code == 0, err
    groups = {}
    for path in finished.glob("*/*/wandb/*/*.wandb"):
        (record,) = records(path, "run")
        groups[record.display_name] = record.run_group
        assert record.run_id == path.parents[2].name
    assert groups == {
        "baseline-seed0": "num_stages",
        "proposal_init_center-seed0": "num_stages",
        "proposal_init_grid-seed0": "initialization",
        "proposal_init_grid-seed1": "initialization",
    }

    # One more, killed in the middle without a word, then stopped by a signal, then finished.
    arguments = training.overrides(finished, *base, "seed=7", "schedule.length=120", "train.checkpoint_every=20")
    driver = training.slow_driver(tmp_path, 0.05)
    killed = training.start(arguments, driver, WANDB_MODE="offline")
    path = _wait_for_step(finished, 50)
    killed.send_signal(signal.SIGKILL)
    training.finish(killed)
    stopped = training.start(arguments, driver, WANDB_MODE="offline")
    _wait_for_step(finished, 90)
    stopped.send_signal(signal.SIGTERM)
    assert training.finish(stopped)[0] == 128 + signal.SIGTERM
    code, _, err = training.finish(training.start(arguments, WANDB_MODE="offline"))
    assert code == 0, err

    files = wandb_files(path / "wandb", path.name)
    assert len(files) == 3
    assert [end.exit_code for file in files[1:] for end in records(file, "exit")] == [1, 0]
    steps = [row["_step"] for row in rows_of(path)]
    assert steps == sorted(set(steps))  # each position once, and the axis goes on where it was
    expected = [2 * event["step"] + (event["event"] == "eval") for event in Run(path).events()]
    assert steps == sorted(expected)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_in_the_summary(tmp_path, monkeypatch):
    run = stopped_run(tmp_path, monkeypatch, *WANDB)
    flip_for_good(run / "checkpoints" / "step_00000004" / "model.safetensors", 8 * 900)
    training.train(training.overrides(tmp_path, *WANDB))
    path = wandb_files(run / "wandb", run.name)[-1]
    settle(path)
    status = {}
    for item in (item for part in records(path, "summary") for item in part.update):
        if item.key == "run_directory/status":
            status = json.loads(item.value_json)
    assert status == training.status(run)
    assert [item["checkpoint"] for item in status["set_aside"]] == ["damaged-step_00000004"]


def _wait_for_step(root: Path, step: int) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for status in root.glob("*/*-seed7/status.json"):
            events = Run(status.parent).events("train")
            if events and events[-1]["step"] >= step:
                return status.parent
        time.sleep(0.05)
    raise AssertionError("the run does not get there")


@pytest.mark.slow
def test_online_a_killed_run_goes_on_in_the_same_run(tmp_path):
    """Against a stand-in of the server: one run, every row once, the axis going on after the kill."""
    with StandIn() as server:
        key = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.url}
        arguments = training.overrides(
            tmp_path, "log=wandb", "seed=7", "schedule.length=600", "train.checkpoint_every=50", "eval.every_epochs=25",
            "+log.writers.wandb.settings.x_file_stream_transmit_interval=0.2",
        )  # fmt: skip
        killed = training.start(arguments, training.slow_driver(tmp_path, 0.1), **key)
        path = _wait_for_step(tmp_path, 50)
        deadline = time.monotonic() + 60
        while "run_directory/status" not in server.run(path.name)["summary"]:
            assert time.monotonic() < deadline, "W&B is told nothing"
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        training.finish(killed)
        assert 50 <= Run(path).events("train")[-1]["step"] < 600
        assert server.run(path.name)["summary"]["run_directory/status"]["state"] == "running"
        code, _, err = training.finish(training.start(arguments, **key))
        assert code == 0, err
        assert "goes on without it" not in err
        assert list(server.runs) == [path.name]
        run = server.runs[path.name]
    assert {upsert["groupName"] for upsert in run["upserts"]} <= {None}
    assert run["summary"]["run_directory/status"] == json.loads((path / "status.json").read_text())
    assert run["upserts"][0]["jobType"] == "train"
    steps = [row["_step"] for row in run["history"]]
    assert steps == sorted(set(steps))
    expected = {2 * event["step"] + (event["event"] == "eval") for event in Run(path).events()}
    assert set(steps) == expected  # what the killed process had not sent, the next one sends
    assert len(wandb_files(path / "wandb", path.name)) == 2


def test_a_server_that_is_down_costs_one_warning(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    run = _online(tmp_path, address)
    assert training.status(run)["state"] == "finished"


def test_a_server_that_never_answers_holds_nothing_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])  # and never says a word
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        run = _online(tmp_path, f"http://127.0.0.1:{server.getsockname()[1]}")
        for connection in taken:
            connection.close()
    assert taken
    assert training.status(run)["state"] == "finished"


def _online(tmp_path: Path, address: str) -> Path:
    """A training in a process of its own: it has to come to its end as well, and not wait for W&B there."""
    arguments = ("log=wandb", "log.writers.wandb.timeout=4", "+log.writers.wandb.settings.init_timeout=2")
    key = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": address}
    code, _, err = training.finish(training.start(training.overrides(tmp_path, *arguments), **key), timeout=90)
    assert code == 0, err
    assert err.count("the training goes on without it") == 1, err
    assert "Traceback" not in err
    return training.only_run(tmp_path)
