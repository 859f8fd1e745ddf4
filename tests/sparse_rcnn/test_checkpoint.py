"""Checkpoints: whole or absent, the newest two, set aside where they are damaged, refused where of another run."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparse_rcnn import checkpoint
from sparse_rcnn.checkpoint import CheckpointFolder, TrainingState
from sparse_rcnn.errors import CheckpointError, RunError, UserError
from sparse_rcnn.rng import get_rng_state, seed_everything, set_rng_state
from sparse_rcnn.rundir.checkpoints import DamagedCheckpoint, newest_whole, problem_of
from sparse_rcnn.weights import ModelCard
from tests.support import training
from tests.support.damage import flip, flip_for_good, some_bits, without_digests
from tests.support.paths import names

CARD = ModelCard({"_target_": "x"}, [{"id": 1, "name": "cell"}], 64, 96)


def module(value: float = 0.0) -> nn.Module:
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, value)
    return layer


def state(step: int, identity: str = "abc") -> TrainingState:
    optimizer = torch.optim.AdamW(module().parameters())
    return TrainingState(step, identity, 1.5, optimizer.state_dict(), None, [get_rng_state()])


def load_latest(folder: CheckpointFolder, model: nn.Module, identity: str = "abc") -> TrainingState | None:
    step = newest_whole(folder.path, lambda damaged: None)
    return None if step is None else folder.load(model, identity, step)


def save(folder: CheckpointFolder, *steps: int) -> None:
    for step in steps:
        folder.save(module(step), CARD, state(step))


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert load_latest(folder, module()) is None
    saved = state(4)
    path = folder.save(module(4.0), CARD, saved)
    assert path == tmp_path / "checkpoints" / "step_00000004"
    assert names(path) == ["digests.json", "model.safetensors", "training_state.pt"]

    model = module()
    loaded = load_latest(folder, model)
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
    load_latest(folder, model)
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


# --- damage ------------------------------------------------------------------------------------------------

FILES = ("digests.json", "model.safetensors", "training_state.pt")
DAMAGE = {
    "short": lambda p: p.write_bytes(p.read_bytes()[:-8]),
    "long": lambda p: p.write_bytes(p.read_bytes() + b" "),
    "garbage": lambda p: p.write_bytes(b"garbage"),
    "empty": lambda p: p.write_bytes(b""),
    "absent": lambda p: p.unlink(),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path, name: str) -> None:
    path = CheckpointFolder(tmp_path).save(module(2.0), CARD, state(2))
    num_bits = 8 * (path / name).stat().st_size
    for bit in range(num_bits) if name == "digests.json" else some_bits(path / name, 400):
        with flip(path / name, bit):
            problem = problem_of(path)
            assert problem is not None, bit
            assert problem.startswith(name) or (name == "digests.json" and " is missing" in problem), problem
    assert problem_of(path) is None


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_found(tmp_path: Path, name: str) -> None:
    path = CheckpointFolder(tmp_path).save(module(2.0), CARD, state(2))
    whole = (path / name).read_bytes()
    for length in (*range(0, len(whole) - 1, max(1, len(whole) // 100)), len(whole) - 1):
        (path / name).write_bytes(whole[:length])
        problem = problem_of(path)
        assert problem is not None, length
        assert problem.startswith(name), problem


def test_what_cannot_be_read_for_another_reason_is_an_error_and_stays(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 4)
    file = tmp_path / "step_00000004" / "training_state.pt"
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(RunError, match=rf"^{file} cannot be read: Too many levels of symbolic links$"):
        load_latest(folder, module())
    assert names(tmp_path) == ["step_00000002", "step_00000004"]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path: Path, name: str, damage: Any) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 4)
    newest = tmp_path / "step_00000004"
    damage(newest / name)
    found, before = [], contents(newest)

    def note(damaged: DamagedCheckpoint) -> None:
        assert damaged.path.is_dir()  # not renamed yet
        found.append(damaged)

    assert newest_whole(folder.path, note) == 2
    ((path, problem, aside),) = [(item.path, item.problem, item.aside) for item in found]
    assert (path, aside) == (newest, tmp_path / "damaged-step_00000004")
    assert problem.startswith(name)
    assert "\n" not in problem
    assert contents(aside) == before
    assert names(tmp_path) == ["damaged-step_00000004", "step_00000002"]
    model = module()
    assert folder.load(model, "abc", 2).step == 2
    assert (model.weight == 2).all()

    save(folder, 4, 6, 8)  # it is neither loaded nor deleted
    assert names(tmp_path) == ["damaged-step_00000004", "step_00000006", "step_00000008"]
    assert contents(aside) == before
    assert newest_whole(folder.path, note) == 8
    assert len(found) == 1


def test_all_checkpoints_damaged_means_from_the_start(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for _ in range(2):
        save(folder, 2, 4)
        for step in (2, 4):
            flip_for_good(tmp_path / f"step_0000000{step}" / "training_state.pt", 4000)
        assert load_latest(folder, module()) is None
    assert names(tmp_path) == [f"damaged-step_0000000{step}{more}" for step in (2, 4) for more in ("", "-2")]


def test_a_checkpoint_without_its_digests_is_incomplete(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 4)
    (tmp_path / "step_00000004" / "digests.json").unlink()
    assert problem_of(tmp_path / "step_00000004") == "digests.json is missing"
    assert newest_whole(folder.path, lambda damaged: None) == 2


def test_a_checkpoint_of_an_older_program_is_loaded(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    saved = state(4)
    without_digests(folder.save(module(4.0), CARD, saved))
    model = module()
    loaded = load_latest(folder, model)
    assert loaded is not None
    assert training.equal(vars(loaded), vars(saved))
    assert (model.weight == 4).all()
    save(folder, 6)
    assert names(tmp_path) == ["step_00000004", "step_00000006"]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", FILES[1:])
def test_of_an_older_program_what_its_files_show_is_found(tmp_path: Path, name: str, damage: Any) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 4)
    without_digests(tmp_path / "step_00000004")
    damage(tmp_path / "step_00000004" / name)
    if (name, damage) == ("training_state.pt", DAMAGE["long"]):
        assert newest_whole(folder.path, lambda damaged: None) == 4  # an archive may have a comment
        return
    assert newest_whole(folder.path, lambda damaged: None) == 2
    assert names(tmp_path) == ["damaged-step_00000004", "step_00000002"]


def test_of_an_older_program_a_flipped_bit_of_the_training_state_is_found(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path).save(module(2.0), CARD, state(2))
    without_digests(path)
    assert problem_of(path) is None
    with flip(path / "training_state.pt", 8 * 1000):
        assert problem_of(path) == "training_state.pt: the check sum of archive/data.pkl is wrong"


def test_a_whole_checkpoint_that_cannot_be_loaded_is_one_line_and_stays(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2)
    without_digests(tmp_path / "step_00000002")
    torch.save({"step": 2}, tmp_path / "step_00000002" / "training_state.pt")
    with pytest.raises(CheckpointError) as caught:
        load_latest(folder, module())
    file = tmp_path / "step_00000002" / "training_state.pt"
    assert str(caught.value) == (
        f"{file} cannot be loaded (TypeError), though it is not damaged: install the torch that wrote it (meta.json), "
        f"or move {file.parent} away to go on without it"
    )
    assert names(tmp_path) == ["step_00000002"]


def test_a_checkpoint_is_compared_once_more_at_loading(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2)
    file = tmp_path / "step_00000002" / "model.safetensors"
    flip_for_good(file, 8 * file.stat().st_size - 10)
    model = module(7.0)
    with pytest.raises(CheckpointError, match=r"step_00000002 is damaged: model.safetensors has another content"):
        folder.load(model, "abc", 2)
    assert (model.weight == 7).all()
    with pytest.raises(CheckpointError, match=r"step_00000004 does not exist here: all processes have to see the same"):
        folder.load(model, "abc", 4)


def test_what_comes_out_wrong_on_the_disk_is_no_checkpoint_and_costs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 4)
    plain = checkpoint.write_digests

    def write_digests(path: Path, files: Any) -> None:
        plain(path, files)
        flip_for_good(path / "training_state.pt", 4000)

    monkeypatch.setattr(checkpoint, "write_digests", write_digests)
    expected = r"cannot write checkpoint .*step_00000006: training_state.pt has another content .*; check the disk$"
    with pytest.raises(UserError, match=expected):
        save(folder, 6)
    assert names(tmp_path) == ["step_00000002", "step_00000004"]
    assert [problem_of(folder.folder(step)) for step in (2, 4)] == [None, None]


# --- retention ---------------------------------------------------------------------------------------------


def test_an_older_checkpoint_that_cannot_be_deleted_is_none_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 4)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
        save(folder, 6)
    assert names(tmp_path) == [".step_00000002.dropped.tmp", "step_00000004", "step_00000006"]
    assert folder.steps() == [4, 6]
    save(folder, 8)
    assert names(tmp_path) == ["step_00000006", "step_00000008"]


def test_killed_while_an_older_checkpoint_is_deleted_the_others_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 4)
    plain = shutil.rmtree

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        if path.name.endswith(".dropped.tmp") and path.exists():
            assert [problem_of(folder.folder(step)) for step in (4, 6)] == [None, None]
            (path / "model.safetensors").unlink()
            raise KeyboardInterrupt
        plain(path, ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(KeyboardInterrupt):
            save(folder, 6)
    assert newest_whole(folder.path, lambda damaged: None) == 6
    assert folder.steps() == [4, 6]


# --- foreign ones ------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 2)
    model = module(7.0)
    with pytest.raises(CheckpointError, match=r"step_00000002 belongs to configuration abc, this run is def"):
        load_latest(folder, model, "def")
    assert (model.weight == 7).all()


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "attacked"),)

    folder = CheckpointFolder(tmp_path / "checkpoints")
    save(folder, 2)
    without_digests(folder.folder(2))
    torch.save(Attack(), folder.folder(2) / "training_state.pt")
    with pytest.raises(CheckpointError, match=r"training_state.pt cannot be loaded \(UnpicklingError\)"):
        load_latest(folder, module())
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
    assert load_latest(folder, module()) is not None


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
