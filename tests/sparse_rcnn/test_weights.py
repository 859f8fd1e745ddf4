"""Weights files: what is written comes back, and what is no weights file is refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sparse_rcnn import SparseRCNN
from sparse_rcnn.errors import CheckpointError, UserError
from sparse_rcnn.weights import (
    FORMAT_VERSION,
    ModelCard,
    find_weights,
    load_detector,
    load_tensors,
    read_weights,
    save_detector,
    save_weights,
)
from tests.support.damage import flip, some_bits
from tests.support.detectors import small_card, small_detector


@pytest.fixture(scope="module")
def model() -> SparseRCNN:
    return small_detector(card=small_card()).eval()


@pytest.fixture
def file(model: SparseRCNN, tmp_path: Path) -> Path:
    save_detector(model, model.card, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def write(path: Path, model: SparseRCNN, **metadata: Any) -> Path:
    """A file with our tensors and any metadata."""
    card = json.dumps(asdict(model.card))
    save_file(model.state_dict(), path, {"format": "sparse_rcnn", "format_version": "1", "card": card, **metadata})
    return path


def test_a_detector_comes_back_as_it_was(model: SparseRCNN, file: Path) -> None:
    loaded = SparseRCNN.from_pretrained(file)
    assert loaded.card == model.card
    assert loaded.card.class_names == ["cat", "dog"]
    assert loaded.card.category_ids == [3, 7]
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    images, sizes = torch.full((1, 3, 64, 64), 90, dtype=torch.uint8), torch.tensor([[64, 64]])
    with torch.no_grad():
        assert torch.equal(loaded(images, sizes)[-1].logits, model(images, sizes)[-1].logits)


def test_every_flipped_bit_is_found(file: Path) -> None:
    header_bytes = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    bits = [*range(0, 8 * header_bytes, 97), *some_bits(file, 50)]
    digest = file.read_bytes().index(b'"sha256"')
    bits += range(8 * digest, 8 * (digest + 78))  # its own key and digits
    for bit in bits:
        with flip(file, bit), pytest.raises(CheckpointError, match=r"^\S*m\.safetensors "):
            read_weights(file)
    read_weights(file)


def test_other_numbers_are_one_line_with_the_way_out(file: Path) -> None:
    with flip(file, 8 * file.stat().st_size - 40), pytest.raises(CheckpointError) as caught:
        SparseRCNN.from_pretrained(file)
    assert str(caught.value) == (
        f"{file} has another content than was written: its SHA-256 is not the one that stands in it; restore it from a "
        "copy, or write it anew"
    )


def test_a_file_of_an_older_program_has_no_digest(model: SparseRCNN, tmp_path: Path) -> None:
    tensors, card = read_weights(write(tmp_path / "old.safetensors", model))
    assert card == model.card
    assert tensors.keys() == model.state_dict().keys()


def test_a_run_directory_stands_for_its_weights(file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "step_00000500").mkdir(parents=True)
    (run / "meta.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"run has no model.safetensors: it is not finished; finish its"):
        SparseRCNN.from_pretrained(run)
    checkpoint = run / "checkpoints" / "step_00000500" / "model.safetensors"
    checkpoint.write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"last checkpoint, .*step_00000500/model.safetensors"):
        SparseRCNN.from_pretrained(run)
    assert find_weights(checkpoint.parent) == checkpoint
    (run / "model.safetensors").write_bytes(file.read_bytes())
    assert SparseRCNN.from_pretrained(str(run)).card == read_weights(file)[1]

    with pytest.raises(CheckpointError, match="neither a run directory nor a weights file"):
        SparseRCNN.from_pretrained(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="nope: there is no such file or run directory"):
        SparseRCNN.from_pretrained(tmp_path / "nope")


@pytest.mark.parametrize("keep", [0, 5, 100, -100])
def test_a_damaged_file_is_named(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"m.safetensors is corrupt or not a safetensors file \("):
        load_detector(file)


def test_a_pytorch_checkpoint_gets_the_hint_to_convert(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "released.pth")
    with pytest.raises(CheckpointError, match=r"released.pth .*; a released checkpoint has to be converted first$"):
        load_detector(tmp_path / "released.pth")


def test_files_of_others_and_of_newer_versions_are_refused(model: SparseRCNN, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other.safetensors is a safetensors file but not one of this"):
        load_detector(tmp_path / "other.safetensors")
    newer = write(tmp_path / "newer.safetensors", model, format_version=str(FORMAT_VERSION + 1))
    with pytest.raises(CheckpointError, match=f"has format version {FORMAT_VERSION + 1}.*update"):
        load_detector(newer)


@pytest.mark.parametrize(
    "card",
    ["", "[]", "{}", '{"architecture": 1, "categories": [], "short_side": 1, "max_long_side": 2}'],
)
def test_a_broken_card_is_a_corrupt_file(model: SparseRCNN, tmp_path: Path, card: str) -> None:
    with pytest.raises(CheckpointError, match="is corrupt"):
        load_detector(write(tmp_path / "m.safetensors", model, card=card))


def test_a_card_that_is_no_detector_s_or_of_other_classes(model: SparseRCNN, tmp_path: Path) -> None:
    card = model.card
    pooler = replace(card, architecture=card.architecture["roi_pooler"])
    save_weights(model.state_dict(), pooler, tmp_path / "pooler.safetensors")
    with pytest.raises(CheckpointError, match="describes a MultiLevelRoIAlign, which is no detector"):
        load_detector(tmp_path / "pooler.safetensors")
    one_name = replace(card, categories=card.categories[:1])
    save_weights(model.state_dict(), one_name, tmp_path / "one.safetensors")
    with pytest.raises(CheckpointError, match=r"one.safetensors names 1 classes, its model has 2"):
        load_detector(tmp_path / "one.safetensors")


def test_only_trusted_classes_are_built(model: SparseRCNN, tmp_path: Path) -> None:
    architecture = {**model.card.architecture, "stage": {"_target_": "os.system", "command": "false"}}
    save_weights(model.state_dict(), replace(model.card, architecture=architecture), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"model.stage: class os.system is not part of sparse_rcnn"):
        SparseRCNN.from_pretrained(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"model.stage: os.system is not a class"):
        SparseRCNN.from_pretrained(tmp_path / "m.safetensors", trusted_modules=("sparse_rcnn", "os"))


def test_tensors_that_do_not_fit_are_named(model: SparseRCNN, tmp_path: Path) -> None:
    tensors = dict(model.state_dict())
    del tensors["proposals.features"]
    tensors["stages.0.surplus"] = torch.zeros(1)
    tensors["proposals.boxes_cxcywh_norm"] = torch.zeros(7, 4)
    save_weights(tensors, model.card, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_detector(tmp_path / "m.safetensors")
    assert str(caught.value) == (
        f"{tmp_path / 'm.safetensors'} does not fit the model: proposals.features is missing; "
        "stages.0.surplus is not part of the model; proposals.boxes_cxcywh_norm has shape (7, 4), not (6, 4)"
    )
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_tensors(model, tensors, "x")
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_writing_leaves_the_old_file_or_nothing(model: SparseRCNN, file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        save_detector(model, model.card, file / "below_a_file.safetensors")
    before = file.read_bytes()
    with pytest.raises(TypeError):
        save_detector(model, replace(model.card, categories=[{"id": object()}]), file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_card_reads_back_through_json() -> None:
    card = small_card()
    assert ModelCard.from_json(json.dumps(asdict(card))) == card
