"""python -m experiments.convert: released checkpoints in and out, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments import convert as command
from sparse_rcnn import SparseRCNN
from sparse_rcnn.convert import ours_to_released
from sparse_rcnn.data.coco_categories import COCO_CATEGORIES
from sparse_rcnn.errors import CheckpointError, DataError, UserError
from sparse_rcnn.weights import save_detector
from tests.support.detectors import resnet, small_card, small_detector
from tests.support.paths import shared

R18 = resnet(18)


@pytest.fixture(scope="module")
def model() -> SparseRCNN:
    """A detector that the released layout has names for."""
    categories = [{"id": i, "name": f"class_{i}"} for i in range(3)]
    return small_detector(card=small_card(categories, bottom_up=R18)).eval()


@pytest.fixture(scope="module")
def state(model: SparseRCNN) -> dict[str, Tensor]:
    return ours_to_released(model.state_dict(), model.card.architecture)


@pytest.fixture
def released(state: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save({"model": state, "iteration": 269999, "optimizer": {"lr": 1e-5}}, tmp_path / "released.pth")
    return tmp_path / "released.pth"


def run(*arguments: Any) -> None:
    command.main([str(argument) for argument in arguments])


def test_a_released_checkpoint_becomes_weights_and_comes_back(
    model: SparseRCNN,
    state: dict[str, Tensor],
    released: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, back = tmp_path / "new" / "ours.safetensors", tmp_path / "back.pth"
    run(released, ours)
    assert capsys.readouterr().out == f"{released} -> {ours}: R18, 6 proposals, 2 stages, 3 classes\n"
    loaded = SparseRCNN.from_pretrained(ours)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert (loaded.card.short_side, loaded.card.max_long_side) == (800, 1333)
    assert loaded.card.categories == [{"id": i, "name": f"class_{i}"} for i in range(3)]

    run(ours, back)
    assert capsys.readouterr().out == f"{ours} -> {back}: R18, 6 proposals, 2 stages, 3 classes\n"
    content = torch.load(back, weights_only=True)
    assert list(content) == ["model"]
    assert content["model"].keys() == state.keys()
    assert all(torch.equal(content["model"][name], tensor) for name, tensor in state.items())


def test_a_run_directory_converts_and_a_bare_state_dict_too(
    model: SparseRCNN, state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_detector(model, model.card, tmp_path / "run" / "model.safetensors")
    run(tmp_path / "run", tmp_path / "out.pth")
    torch.save(state, tmp_path / "bare.pt")
    run(tmp_path / "bare.pt", tmp_path / "bare.safetensors")
    assert SparseRCNN.from_pretrained(tmp_path / "bare.safetensors").num_stages == 2


def test_classes_and_sizes_as_asked_for(released: Path, tmp_path: Path) -> None:
    categories = [{"id": 9, "name": "z"}, {"id": 2, "name": "b"}, {"id": 4, "name": "a"}]
    instances = tmp_path / "instances.json"
    instances.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    out = tmp_path / "o.safetensors"
    run(released, out, "--categories", instances, "--short-side", 480, "--max-long-side", 640)
    card = SparseRCNN.from_pretrained(out).card
    assert card.categories == [{"id": 2, "name": "b"}, {"id": 4, "name": "a"}, {"id": 9, "name": "z"}]
    assert (card.short_side, card.max_long_side) == (480, 640)

    instances.write_text(json.dumps({"categories": categories[:2]}))
    with pytest.raises(DataError, match=r"instances.json has 2 categories, the checkpoint 3 classes"):
        run(released, tmp_path / "p.safetensors", "--categories", instances)
    instances.write_text(json.dumps({"categories": []}))
    with pytest.raises(DataError, match=r"^\S+instances\.json has no categories$"):
        run(released, tmp_path / "p.safetensors", "--categories", instances)
    instances.write_text("{")
    with pytest.raises(DataError, match=r"instances.json is not valid JSON"):
        run(released, tmp_path / "p.safetensors", "--categories", instances)
    with pytest.raises(UserError, match="--short-side 0"):
        run(released, tmp_path / "p.safetensors", "--short-side", 0)
    with pytest.raises(UserError, match="--max-long-side 100 is less than --short-side 800"):
        run(released, tmp_path / "p.safetensors", "--max-long-side", 100)
    assert not (tmp_path / "p.safetensors").exists()


def test_eighty_classes_are_coco_s() -> None:
    categories = command.choose_categories(None, 80)
    assert [categories[0], categories[11], categories[-1]] == [
        {"id": 1, "name": "person"},
        {"id": 13, "name": "stop sign"},
        {"id": 90, "name": "toothbrush"},
    ]
    ids = [category_id for category_id, _ in COCO_CATEGORIES]
    assert ids == sorted(set(ids))
    assert {*range(1, 91)} - {*ids} == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert len({name for _, name in COCO_CATEGORIES}) == 80


def test_coco_s_categories_are_those_of_its_files() -> None:
    content = json.loads((shared("data/coco_cc") / "instances_train.json").read_text())
    assert sorted((c["id"], c["name"]) for c in content["categories"]) == list(COCO_CATEGORIES)


def test_numpy_values_are_read_and_nothing_else_is_unpickled(
    model: SparseRCNN, state: dict[str, Tensor], tmp_path: Path
) -> None:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    torch.save({"model": arrays, "loss": np.float64(1.5)}, tmp_path / "numpy.pth")
    run(tmp_path / "numpy.pth", tmp_path / "numpy.safetensors")
    loaded = SparseRCNN.from_pretrained(tmp_path / "numpy.safetensors")
    assert torch.equal(loaded.proposals.features, model.proposals.features)

    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    for value in (state["init_proposal_features.weight"], arrays["init_proposal_features.weight"]):
        torch.save({"model": {"a": value, "b": Malicious()}}, tmp_path / "evil.pth")
        with pytest.raises(CheckpointError, match=r"evil.pth holds \w+.mkdir, which could run any code"):
            run(tmp_path / "evil.pth", tmp_path / "evil.safetensors")
    assert not marker.exists()
    assert not (tmp_path / "evil.safetensors").exists()


def test_a_wrong_checkpoint_names_the_tensors_that_do_not_fit(state: dict[str, Tensor], tmp_path: Path) -> None:
    wrong, out = tmp_path / "wrong.pth", tmp_path / "o.safetensors"

    def refused(content: Any) -> str:
        torch.save(content, wrong)
        with pytest.raises(CheckpointError) as caught:
            run(wrong, out)
        assert str(caught.value).startswith(f"{wrong}")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    stranger = refused({"model": {"fc.weight": torch.zeros(2)}})
    assert "not a released checkpoint of Sparse R-CNN, DETR, Deformable DETR, RetinaNet of torchvision, " in stranger
    assert stranger.endswith(": it has the tensors fc.weight")
    incomplete = {name: tensor for name, tensor in state.items() if name != "init_proposal_features.weight"}
    assert "tensor init_proposal_features.weight is missing" in refused(incomplete)
    surplus = {**state, "head.head_series.0.extra": torch.zeros(1)}
    assert "head.head_series.0.extra is not part of the model" in refused(surplus)
    short = {**state, "backbone.fpn_lateral2.weight": torch.zeros(1, 2)}
    assert "backbone.fpn_lateral2.weight has shape (1, 2), not (32, 64, 1, 1)" in refused(short)
    assert "entry 'epoch' is a int, not a tensor" in refused({**state, "epoch": 3})
    assert "holds no state dict" in refused([1, 2])
    assert "holds no state dict" in refused({"model": {}})
    assert not out.exists()


def test_files_of_another_kind_are_refused(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    with pytest.raises(CheckpointError, match=r"absent.pth does not exist"):
        run(tmp_path / "absent.pth", out)
    (tmp_path / "R-50.pkl").write_bytes(b"\x80\x02}.")
    with pytest.raises(CheckpointError, match=r"R-50.pkl is a model-zoo pickle.* give a .pth"):
        run(tmp_path / "R-50.pkl", out)
    (tmp_path / "text.pth").write_text("no such thing")
    with pytest.raises(CheckpointError, match="neither a PyTorch checkpoint nor a safetensors file"):
        run(tmp_path / "text.pth", out)
    (tmp_path / "cut.pth").write_bytes(released.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut.pth cannot be read as a PyTorch checkpoint"):
        run(tmp_path / "cut.pth", out)
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match=r"cut.safetensors is corrupt"):
        run(tmp_path / "cut.safetensors", tmp_path / "o.pth")
    with pytest.raises(CheckpointError, match="neither a run directory nor a weights file"):
        run(tmp_path, tmp_path / "o.pth")
    assert not out.exists()


def test_the_output_is_never_overwritten_by_accident(model: SparseRCNN, released: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    out.write_text("precious")
    with pytest.raises(UserError, match=r"o.safetensors exists: .* --force"):
        run(released, out)
    assert out.read_text() == "precious"
    run(released, out, "--force")
    assert SparseRCNN.from_pretrained(out).num_stages == 2
    with pytest.raises(UserError, match=r"released checkpoint: OUT has to end in .safetensors, not o.pth"):
        run(released, tmp_path / "o.pth")
    with pytest.raises(UserError, match=r"weights file of this project: OUT has to end in .pth or .pt, not"):
        run(out, tmp_path / "again.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder is a folder"):
        run(released, tmp_path / "folder", "--force")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot write"):
        run(released, out / "x.safetensors")
    assert sorted(tmp_path.iterdir()) == before


def test_a_variant_without_released_names_is_refused(tmp_path: Path) -> None:
    small = small_detector(card=small_card()).eval()
    save_detector(small, small.card, tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"small.safetensors: the backbone is not a ResNet-18.* but a SmallNet"):
        run(tmp_path / "small.safetensors", tmp_path / "o.pth")

    card = small_card(bottom_up=R18)
    card.architecture["stage"]["reuse"]["num_heads"] = 4
    heads = small_detector(card=card).eval()
    save_detector(heads, heads.card, tmp_path / "heads.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot say that model.stage.reuse.num_heads is 4"):
        run(tmp_path / "heads.safetensors", tmp_path / "o.pth")
    assert not (tmp_path / "o.pth").exists()
