"""Runs that were left alone or stopped on the way, and that a resumed one equals the former."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rcnn.rundir.reader import Run
from tests.support import training

# Dropout and the moving average have a state to lose, micro-batches share a step, and with 4 steps an epoch there is
# an evaluation in between.
EVERYTHING = ("dropout=0.1", "train.ema_decay=0.9", "train.num_micro_batches=2", "eval.every_epochs=1")


@functools.cache
def reference(extra: tuple[str, ...]) -> Path:
    """A run that was left alone."""
    return training.train(training.overrides(Path(tempfile.mkdtemp(dir=training.data_root().parent)), *extra))


def assert_same(run: Path, expected: Path) -> None:
    """All that a run leaves, except what tells the time, is bit for bit the same."""
    assert run.name == expected.name
    assert training.equal(training.weights(run / "model.safetensors"), training.weights(expected / "model.safetensors"))
    states = [training.newest_state(r) for r in (run, expected)]
    assert all(s.pop("seconds") > 0 for s in states)
    assert states[0]["step"] == training.NUM_STEPS
    assert training.equal(*states)
    assert training.results(run) == training.results(expected)
    assert training.losses(run) == training.losses(expected)
    assert sorted(training.losses(run)) == list(range(1, training.NUM_STEPS + 1))
    for name in ("detections.json", "detections.png", "config.json"):
        if name != "config.json":  # it holds runs_root
            assert (run / name).read_bytes() == (expected / name).read_bytes(), name
    evaluations = [{p.name: json.loads(p.read_text()) for p in (r / "eval").iterdir()} for r in (run, expected)]
    assert evaluations[0] == evaluations[1]
    events = [{e["step"]: e["metrics"] for e in Run(r).events("eval")} for r in (run, expected)]
    assert events[0] == events[1]
    assert training.status(run)["state"] == "finished"
    assert training.leftovers(run.parents[1]) == []
    assert not (run / "lock_holder.json").exists()


def stopped_run(root: Path, monkeypatch: pytest.MonkeyPatch, *extra: str) -> Path:
    """A run that died of an exception in its last step, with the checkpoints of steps 2 and 4."""
    die_in_last_step(training.overrides(root, *extra), monkeypatch)
    run = training.only_run(root)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_00000002", "step_00000004"]
    assert training.status(run)["state"] == "failed"
    assert training.status(run)["error"] == "ZeroDivisionError: the power fails"
    return run


def die_in_last_step(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a training that ends with an exception in its last step."""
    real, calls = torch.optim.AdamW.step, []

    def step(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == training.NUM_STEPS:
            raise ZeroDivisionError("the power fails")
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(ZeroDivisionError):
            training.train(arguments)
