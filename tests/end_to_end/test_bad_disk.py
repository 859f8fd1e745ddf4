"""A disk that is full, damaged or in the way is one line, and runs on it can be resumed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support import training
from tests.support.train_command import TrainCommand, contents

DISK_SIZE = "16m"  # of tiny_disk


def test_a_file_in_the_place_of_the_runs(command: TrainCommand, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    for root in (tmp_path / "runs", tmp_path / "runs" / "below"):
        line = command.fails(training.overrides(root))
        assert line.startswith(f"runs_root={root}: cannot be written: ")
    assert contents(tmp_path) == {tmp_path / "runs"}


def fill(disk: Path, leave: int = 0) -> Path:
    usage = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, usage.f_bavail * usage.f_frsize - leave)))
    return filler


def test_a_full_disk_at_a_checkpoint(command: TrainCommand, tiny_disk: Path) -> None:
    filler = fill(tiny_disk, leave=200_000)  # room for the small files, not for weights
    line = command.fails(training.overrides(tiny_disk))
    run = training.only_run(tiny_disk)
    assert line == f"cannot write checkpoint {run / 'checkpoints' / 'step_00000002'}: No space left on device"
    assert list((run / "checkpoints").iterdir()) == []
    assert training.leftovers(tiny_disk) == []
    assert training.status(run)["state"] == "failed"
    filler.unlink()
    assert training.train(training.overrides(tiny_disk)) == run
    assert training.status(run)["state"] == "finished"


@pytest.mark.parametrize("leave", [0, 4096, 12288, 20480])
def test_a_full_disk_at_the_start(command: TrainCommand, tiny_disk: Path, leave: int) -> None:
    filler = fill(tiny_disk, leave)
    line = command.fails(training.overrides(tiny_disk))
    assert line.endswith("No space left on device")
    assert str(tiny_disk) in line
    assert training.leftovers(tiny_disk) == []
    filler.unlink()
    assert training.status(training.train(training.overrides(tiny_disk)))["state"] == "finished"


def test_a_full_disk_in_the_metrics(command: TrainCommand, tmp_path: Path) -> None:
    """The line of a step cannot be written, nor the rest of it at the end: the first of both is told, by its file."""
    run = training.train(training.overrides(tmp_path))
    (run / "results.json").unlink()  # as one that has only begun
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to("/dev/full")
    line = command.fails(training.overrides(tmp_path))
    assert line == f"cannot write {run / 'metrics.jsonl'}: No space left on device"


def test_a_folder_that_holds_another_run(command: TrainCommand, tmp_path: Path) -> None:
    run = training.train(training.overrides(tmp_path))
    config = json.loads((run / "config.json").read_text())
    config["optim"]["weight_decay"] = 0.5
    (run / "config.json").write_text(json.dumps(config))
    (run / "results.json").unlink()
    line = command.fails(training.overrides(tmp_path))
    assert line.startswith(f"{run} holds another run")
    assert "optim.weight_decay: 0.5 -> 0.0001" in line
