"""Alerts of real trainings."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from sparse_rcnn.errors import UserError
from tests.support import training


def test_a_run_alerts_when_it_fails_and_when_it_finishes(tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    command = f"cat >> {shlex.quote(str(sent))}; echo >> {shlex.quote(str(sent))}"
    extra = (f'alerts.command="{command}"', "eval.num_pictures=0")
    with pytest.raises(UserError, match="NaN or infinity"):
        training.train(training.overrides(tmp_path / "runs", "optim.lr=1e30", *extra))
    run = training.train(training.overrides(tmp_path / "runs", *extra))
    training.train(training.overrides(tmp_path / "runs", *extra))  # finished: skipped, and nothing is sent again
    failed, finished = [json.loads(line) for line in sent.read_text().splitlines()]
    assert failed["event"] == "non-finite"
    assert "NaN or infinity" in failed["message"]
    assert finished["event"] == "finished"
    assert finished["run"] == str(run)
    assert finished["ap"] == json.loads((run / "results.json").read_text())["val/bbox/AP"]


def test_an_empty_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"alerts\.command|alerts: command is empty"):
        training.train(training.overrides(tmp_path, "alerts.command=''"))
