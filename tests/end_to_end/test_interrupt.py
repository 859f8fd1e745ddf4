"""Signals: the run stops in order at the next step boundary, says so, and goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from sparse_rcnn.interrupt import Interrupted, StopRequest
from tests.support import training
from tests.support.resumes import EVERYTHING, assert_same, reference
from tests.support.signaller import signalled

NUM_VAL_IMAGES = 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_saves_stops_and_the_next_start_ends_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    arguments = training.overrides(tmp_path, *EVERYTHING)
    handlers = [signal.getsignal(s) for s in StopRequest.SIGNALS]
    with pytest.raises(SystemExit) as caught:
        training.train([*arguments, *signalled(2, number)])  # the line of step 2 is written while its checkpoint is
    assert caught.value.code == 128 + number
    message = f"stopped by {number.name} after step 2; the checkpoint is saved, run again to continue\n"
    assert capfd.readouterr().err == message
    run = training.only_run(tmp_path)
    status = training.status(run)
    assert (status["state"], status["step"], status["error"]) == ("interrupted", 2, None)
    assert training.newest_state(run)["step"] == 2
    assert [signal.getsignal(s) for s in StopRequest.SIGNALS] == handlers

    assert_same(training.train(arguments), reference(EVERYTHING))


def test_stopped_again_and_again_it_ends_the_same(tmp_path: Path) -> None:
    arguments = training.overrides(tmp_path, *EVERYTHING, "train.checkpoint_every=null")
    for step in (1, 3):
        # A line is written while the next step is under way: the stop comes at the end of that one.
        with pytest.raises(SystemExit):
            training.train([*arguments, *signalled(step, signal.SIGTERM)])
        run = training.only_run(tmp_path)
        assert training.status(run)["state"] == "interrupted"
        assert training.newest_state(run)["step"] == step + 1
    with pytest.raises(SystemExit):
        training.train([*arguments, *signalled(5, signal.SIGTERM)])  # all steps are done: before the last evaluation
    assert training.newest_state(run)["step"] == training.NUM_STEPS
    assert_same(training.train(arguments), reference(EVERYTHING))
    assert len(json.loads((run / "meta.json").read_text())["resumes"]) == 3


@pytest.mark.parametrize("when", ["within", "last"])
def test_a_signal_ends_an_evaluation_at_once_and_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    arguments = training.overrides(tmp_path, *EVERYTHING)
    images_of, begun = DataLoader.__iter__, []

    def images_or_signal(loader: DataLoader[Any]) -> Any:
        if len(loader.dataset) == NUM_VAL_IMAGES:
            begun.append(loader)
            if len(begun) == (1 if when == "within" else 2):
                os.kill(os.getpid(), signal.SIGUSR2)
                raise AssertionError("it went on")
        return images_of(loader)

    with monkeypatch.context() as patch:
        patch.setattr(DataLoader, "__iter__", images_or_signal)
        with pytest.raises(SystemExit) as caught:
            training.train(arguments)
    assert caught.value.code == 128 + signal.SIGUSR2
    run = training.only_run(tmp_path)
    assert training.status(run)["state"] == "interrupted"
    assert not (run / "error.log").exists()
    assert not (run / "results.json").exists()
    assert_same(training.train(arguments), reference(EVERYTHING))


def test_what_runs_at_once_is_stopped_once() -> None:
    with StopRequest() as stop:
        with stop.at_once(7):
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # outside it waits for the step boundary
        assert stop.requested
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 7"), stop.at_once(7):
            raise AssertionError("a request from before counts")
    cleaned = []

    def work(stop: StopRequest) -> None:
        with stop.at_once(3):
            try:
                os.kill(os.getpid(), signal.SIGUSR2)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # does not disturb the way out, and hides nothing
                cleaned.append(True)

    with StopRequest() as stop:
        with pytest.raises(Interrupted) as caught:
            work(stop)
        assert cleaned
        assert (caught.value.step, caught.value.signal_number) == (3, signal.SIGUSR2)
        assert stop.signal_number == signal.SIGUSR2


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    arguments = training.overrides(tmp_path, *EVERYTHING)
    with pytest.raises(KeyboardInterrupt):
        training.train([*arguments, *signalled(3, signal.SIGINT, 2)])
    run = training.only_run(tmp_path)
    assert training.status(run)["state"] == "interrupted"
    assert training.newest_state(run)["step"] == 2  # nothing was saved any more
    assert_same(training.train(arguments), reference(EVERYTHING))


def test_a_second_signal_of_another_kind_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        training.train(training.overrides(tmp_path, *signalled(3, signal.SIGTERM, 3)))
    assert caught.value.code == 128 + signal.SIGTERM


def test_the_message_says_by_what() -> None:
    assert str(Interrupted(3, signal.SIGUSR1)).startswith("stopped by SIGUSR1 after step 3;")
    assert str(Interrupted(3, 0)).startswith("stopped by a signal to another rank after step 3;")


# --- real processes ----------------------------------------------------------------------------------------

ENDLESS = ("schedule.length=1000000", "train.checkpoint_every=null", "train.log_every=1")


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not get there"
        time.sleep(0.05)


def is_training(runs_root: Path) -> bool:
    return any(p.read_text().count("\n") > 2 for p in runs_root.glob("*/*/metrics.jsonl"))


def test_a_signal_to_all_processes_of_a_job_stops_in_order(tmp_path: Path) -> None:
    """As a scheduler does it: the data workers get the signal as well, and must not die of it."""
    arguments = training.overrides(tmp_path, *ENDLESS, "data.num_workers=1")
    process = subprocess.Popen(
        training.command(arguments),
        cwd=training.ROOT,
        env=training.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: is_training(tmp_path), process)
    os.killpg(process.pid, signal.SIGTERM)
    code, out, err = training.finish(process)
    run = training.only_run(tmp_path)
    step = training.newest_state(run)["step"]
    message = f"stopped by SIGTERM after step {step}; the checkpoint is saved, run again to continue\n"
    assert (code, out, err) == (128 + signal.SIGTERM, "", message)
    assert training.status(run)["state"] == "interrupted"
    assert training.leftovers(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=lambda n: n.name)
def test_other_signals_stop_a_real_process_too(tmp_path: Path, number: signal.Signals) -> None:
    process = training.start(training.overrides(tmp_path, *ENDLESS))
    wait_until(lambda: is_training(tmp_path), process)
    process.send_signal(number)
    code, _, err = training.finish(process)
    assert code == 128 + number
    assert err.startswith(f"stopped by {number.name} after step ")
    assert len(err.splitlines()) == 1
    assert training.status(training.only_run(tmp_path))["state"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_ranks_stops_both(tmp_path: Path, rank: int) -> None:
    group = training.start_group(training.overrides(tmp_path, *ENDLESS), 2)
    wait_until(lambda: is_training(tmp_path), group[0])
    group[rank].send_signal(signal.SIGUSR1)
    ends = [training.finish(process) for process in group]
    run = training.only_run(tmp_path)
    step = training.newest_state(run)["step"]
    # The one that was signalled says by what; the other one ends as after SIGTERM. Rank 0 says it, once.
    codes = [128 + (signal.SIGUSR1 if r == rank else signal.SIGTERM) for r in (0, 1)]
    assert [code for code, _, _ in ends] == codes, ends
    who = "SIGUSR1" if rank == 0 else "a signal to another rank"
    assert ends[0][2] == f"stopped by {who} after step {step}; the checkpoint is saved, run again to continue\n"
    assert ends[1][2] == ""
    assert training.status(run)["state"] == "interrupted"
    assert len(training.newest_state(run)["rng"]) == 2
