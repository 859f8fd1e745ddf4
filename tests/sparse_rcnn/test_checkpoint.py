"""Checkpoints: whole or absent, the newest two, refused where they are corrupt or of another run."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparse_rcnn.checkpoint import CheckpointFolder, TrainingState
from sparse_rcnn.errors import CheckpointError, UserError
from sparse_rcnn.rng import get_rng_state, seed_everything, set_rng_state
from sparse_rcnn.weights import ModelCard
from tests.support import training
from tests.support.paths import names

CARD = ModelCard({"_target_": "x"}, [{"id": 1, "name": "cell"}], 64, 96)


def module(value: float = 0.0) -> nn.Module:
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, value)
    return layer


def state(step: int, identity: str = "abc") -> TrainingState:
    optimizer = torch.optim.AdamW(module().parameters())
    return TrainingState(step, identity, 1.5, optimizer.state_dict(), None, [get_rng_state()])


def save(folder: CheckpointFolder, *steps: int) -> None:
    for step in steps:
        folder.save(module(step), CARD, state(step))


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert folder.load_latest(module(), "abc") is None
    saved = state(4)
    path = folder.save(module(4.0), CARD, saved)
    assert path == tmp_path / "checkpoints" / "step_00000004"
    assert names(path) == ["model.safetensors", "training_state.pt"]

    model = module()
    loaded = folder.load_latest(model, "abc")
    assert loaded is not None
    assert (model.weight == 4).all()
    assert training.equal(vars(loaded), vars(saved))


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 4, 6)
    assert folder.steps() == [4, 6]
    assert names(tmp_path) == ["step_00000004", "step_00000006"]


def test_other_folders_are_no_checkpoints_and_are_left_alone(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for name in ("step_8", "step_00000008.old", "best", ".step_00000008.1.tmp"):
        (tmp_path / name).mkdir()
    save(folder, 2, 4, 6)
    assert names(tmp_path) == ["best", "step_00000004", "step_00000006", "step_00000008.old", "step_8"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2)
    folder.save(module(9.0), CARD, state(2))
    model = module()
    folder.load_latest(model, "abc")
    assert (model.weight == 9).all()
    assert names(tmp_path) == ["step_00000002"]


def test_what_a_killed_writer_left_is_removed_with_the_next_checkpoint(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    leftover = tmp_path / ".step_00000004.123.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert folder.steps() == []
    save(folder, 4)
    assert names(tmp_path) == ["step_00000004"]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("training_state.pt", lambda p: p.write_bytes(p.read_bytes()[:-200])),
        ("training_state.pt", lambda p: p.write_bytes(b"garbage")),
        ("training_state.pt", lambda p: p.write_bytes(b"")),
        ("training_state.pt", lambda p: p.unlink()),
        ("training_state.pt", lambda p: torch.save({"step": 4}, p)),
        ("model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-8])),
        ("model.safetensors", lambda p: p.write_bytes(b"garbage")),
        ("model.safetensors", lambda p: p.write_bytes(b"")),
        ("model.safetensors", lambda p: p.unlink()),
    ],
    ids=[
        "short",
        "garbage",
        "empty",
        "absent",
        "keys",
        "short-weights",
        "garbage-weights",
        "empty-weights",
        "no-weights",
    ],
)
def test_a_damaged_checkpoint_is_one_line_with_the_way_out(tmp_path: Path, file: str, damage: Any) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 4)
    newest = tmp_path / "step_00000004"
    damage(newest / file)
    with pytest.raises(CheckpointError) as caught:
        folder.load_latest(module(), "abc")
    message = str(caught.value)
    assert "\n" not in message
    assert str(newest / file) in message
    assert f"delete {newest} to go on from the one before" in message

    for entry in newest.iterdir():
        entry.unlink()
    newest.rmdir()
    model = module()
    loaded = folder.load_latest(model, "abc")
    assert loaded is not None
    assert loaded.step == 2
    assert (model.weight == 2).all()


def test_the_only_checkpoint_damaged_means_from_the_start(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2)
    (tmp_path / "step_00000002" / "training_state.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"delete .*step_00000002 to go on from the start"):
        folder.load_latest(module(), "abc")


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2)
    model = module(7.0)
    with pytest.raises(CheckpointError, match=r"step_00000002 belongs to configuration abc, this run is def"):
        folder.load_latest(model, "def")
    assert (model.weight == 7).all()


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "attacked"),)

    folder = CheckpointFolder(tmp_path / "checkpoints")
    save(folder, 2)
    torch.save(Attack(), tmp_path / "checkpoints" / "step_00000002" / "training_state.pt")
    with pytest.raises(CheckpointError, match=r"training_state.pt is corrupt"):
        folder.load_latest(module(), "abc")
    assert not (tmp_path / "attacked").exists()


# --- disks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [24_000, 12_000, 0], ids=["for-the-weights", "for-half-the-weights", "none"])
def test_a_full_disk_is_one_line_and_keeps_the_checkpoints_there_are(tiny_disk: Path, room: int) -> None:
    folder = CheckpointFolder(tiny_disk)
    save(folder, 2)
    usage = os.statvfs(tiny_disk)
    (tiny_disk / "filler").write_bytes(bytes(max(0, usage.f_bavail * usage.f_frsize - room)))
    big = nn.Linear(64, 64)  # 16 KiB
    big_state = TrainingState(4, "abc", 0.0, {"state": torch.zeros(8192)}, None, [])
    with pytest.raises(UserError) as caught:
        folder.save(big, CARD, big_state)
    assert str(caught.value) == f"cannot write checkpoint {tiny_disk / 'step_00000004'}: No space left on device"
    assert names(tiny_disk) == ["filler", "step_00000002"]
    assert folder.load_latest(module(), "abc") is not None


def test_a_write_error_of_torch_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:1]. file write failed\nC++ stack")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match=r"cannot write checkpoint .*step_00000002: \[enforce fail .* failed$"):
        save(CheckpointFolder(tmp_path), 2)
    assert names(tmp_path) == []


def test_a_file_in_the_folders_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match=re.escape("cannot write checkpoint") + ".*(Not a directory|File exists)"):
        save(CheckpointFolder(tmp_path / "checkpoints"), 2)


# --- random states -----------------------------------------------------------------------------------------


def draw() -> list[Any]:
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        torch.rand(3),
        torch.randn(3),
    ]


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    seed_everything(3)
    draw()
    torch.save(get_rng_state(), tmp_path / "rng.pt")
    expected = draw()
    seed_everything(4)
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert training.equal(draw(), expected)


def test_seeds_and_ranks_have_streams_of_their_own() -> None:
    def stream(seed: int, rank: int) -> list[Any]:
        seed_everything(seed, rank)
        return [random.random(), np.random.rand(), float(torch.rand(()))]

    assert stream(0, 0) == stream(0, 0)
    streams = [stream(seed, rank) for seed in (0, 1) for rank in (0, 1)]
    for generator in zip(*streams, strict=True):
        assert len(set(generator)) == 4
