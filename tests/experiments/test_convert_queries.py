"""python -m experiments.convert with DETR and Deformable DETR: in, out, their 91 classes, and what is refused."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments import convert as command
from sparse_rcnn.data.coco_categories import COCO_CATEGORIES
from sparse_rcnn.errors import CheckpointError, DataError, UserError
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.query_detector import QueryDetector
from sparse_rcnn.released_formats import format_of_architecture
from sparse_rcnn.weights import save_detector
from tests.support.detectors import resnet, small_card, small_detector
from tests.support.query_detectors import KINDS

COCO_IDS = [category_id for category_id, _ in COCO_CATEGORIES]
SHAPES = {
    "detr": {"bottom_up": resnet(18), "num_heads": 8, "num_layers": 1},
    "detr_dc5": {"bottom_up": resnet(50), "num_heads": 8, "num_layers": 1, "dilation": True},
    "deformable_detr": {"bottom_up": resnet(50), "num_heads": 8, "num_layers": 1},
}
TEXTS = {
    "detr": "DETR, R18, 6 queries, 1 layers",
    "detr_dc5": "DETR-DC5, R50, 6 queries, 1 layers",
    "deformable_detr": "Deformable DETR, R50, 6 queries, 1 layers",
}


def run(*arguments: Any) -> None:
    command.main([str(argument) for argument in arguments])


def released(name: str, num_classes: int, **changes: Any) -> tuple[QueryDetector, dict[str, Tensor]]:
    """A detector and its tensors by the released names."""
    kind = KINDS["detr" if name.startswith("detr") else name]
    card = kind.card(*(f"class_{i}" for i in range(num_classes)), **(SHAPES[name] | changes))
    model = kind.detector(card)
    return model, format_of_architecture(card.architecture).write(model.state_dict(), card.architecture)


@pytest.mark.parametrize("name", SHAPES)
def test_there_and_back_to_the_bit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, state = released(name, 3)
    # As the authors' trainings write it, options included.
    torch.save({"model": state, "epoch": 49, "args": argparse.Namespace(lr=2e-4)}, tmp_path / "in.pth")
    options = ["--dilation"] if name == "detr_dc5" else []
    run(tmp_path / "in.pth", tmp_path / "ours.safetensors", *options)
    assert capsys.readouterr().out.endswith(f"ours.safetensors: {TEXTS[name]}, 3 classes\n")
    loaded = type(model).from_pretrained(tmp_path / "ours.safetensors")
    assert all(torch.equal(loaded.state_dict()[n], tensor) for n, tensor in model.state_dict().items())
    assert loaded.card is not None
    assert loaded.card.class_names == ["class_0", "class_1", "class_2"]
    assert loaded.card.architecture == model.card.architecture  # type: ignore[union-attr]

    run(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    told = "; to convert it back, give --dilation" if options else ""
    assert capsys.readouterr().out.endswith(f"back.pth: {TEXTS[name]}, 3 classes{told}\n")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[n], tensor) for n, tensor in state.items())


@pytest.mark.parametrize("name", ["detr", "deformable_detr"])
def test_91_outputs_are_the_80_categories_of_coco_and_come_back(name: str, tmp_path: Path) -> None:
    model, state = released(name, 91)
    torch.save({"model": state}, tmp_path / "in.pth")
    run(tmp_path / "in.pth", tmp_path / "ours.safetensors")
    ours = type(model).from_pretrained(tmp_path / "ours.safetensors")
    assert ours.card is not None
    assert ours.card.category_ids == COCO_IDS
    assert ours.num_classes == 80
    bias = "class_embed.bias" if name == "detr" else "class_embed.0.bias"
    rows = [*COCO_IDS, *([91] if name == "detr" else [])]
    assert torch.equal(ours.class_embed.bias, state[bias][rows])

    run(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == state.keys()
    assert back[bias].shape == state[bias].shape
    assert torch.equal(back[bias][rows], state[bias][rows])
    run(tmp_path / "back.pth", tmp_path / "again.safetensors")
    again = type(model).from_pretrained(tmp_path / "again.safetensors")
    assert again.card == ours.card
    assert all(torch.equal(again.state_dict()[n], tensor) for n, tensor in ours.state_dict().items())


def test_categories_choose_the_outputs_of_their_ids(tmp_path: Path) -> None:
    _, state = released("detr", 9)
    torch.save({"model": state}, tmp_path / "in.pth")
    instances = tmp_path / "instances.json"

    def classes_of(*ids: int | str) -> Tensor:
        instances.write_text(json.dumps({"categories": [{"id": i, "name": f"n{i}"} for i in ids]}))
        run(tmp_path / "in.pth", tmp_path / "o.safetensors", "--categories", instances, "--force")
        loaded = KINDS["detr"].detector(KINDS["detr"].card("x")).from_pretrained(tmp_path / "o.safetensors")
        assert loaded.card is not None
        assert loaded.card.class_names == [f"n{i}" for i in sorted(ids)]
        bias: Tensor = loaded.class_embed.bias
        return bias

    assert torch.equal(classes_of(8, 3), state["class_embed.bias"][[3, 8, 9]])
    # As many as there are outputs: they are numbered on.
    assert torch.equal(classes_of(*range(1, 10)), state["class_embed.bias"])
    # A text that is a whole number is that number.
    assert torch.equal(classes_of("8", "3"), state["class_embed.bias"][[3, 8, 9]])
    # Only as many as there are outputs may be called anything.
    assert torch.equal(classes_of(*"abcdefghi"), state["class_embed.bias"])
    for ids, bad in (
        ((3, 9), "9"),
        (("a", 2), "'a'"),
        ((-1, 2), "-1"),
        ((2, 2**70), str(2**70)),
        (("7", "07"), "'7'"),
    ):
        with pytest.raises(
            DataError,
            match=rf"^\S+instances\.json has 2 categories, the checkpoint 9 classes: fewer are chosen by their ids, "
            rf"0 to 8, and category id {bad} is not one of them; give as many categories as classes, in their order$",
        ):
            classes_of(*ids)
    with pytest.raises(DataError, match=r"instances\.json has 10 categories, the checkpoint 9 classes$"):
        classes_of(*range(10))
    with pytest.raises(DataError, match=r"^\S+instances\.json has no categories$"):
        classes_of()


@pytest.mark.parametrize("name", ["detr", "deformable_detr"])
def test_91_own_classes_stay_and_say_what_brings_them_back(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, state = released(name, 91)
    torch.save({"model": state}, tmp_path / "in.pth")
    instances = tmp_path / "instances.json"
    instances.write_text(json.dumps({"categories": [{"id": i, "name": f"n{i}"} for i in range(100, 191)]}))
    run(tmp_path / "in.pth", tmp_path / "ours.safetensors", "--categories", instances)
    ours = type(model).from_pretrained(tmp_path / "ours.safetensors")
    assert ours.card is not None
    assert ours.card.class_names == [f"n{i}" for i in range(100, 191)]
    assert torch.equal(ours.class_embed.bias, model.class_embed.bias)
    capsys.readouterr()
    run(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    assert capsys.readouterr().out.endswith("91 classes; to convert it back, give --categories with these classes\n")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert all(torch.equal(back[n], tensor) for n, tensor in state.items())


def test_heads_and_positions_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, state = released("detr", 2, num_heads=4, with_position=False)
    torch.save(state, tmp_path / "in.pth")
    run(tmp_path / "in.pth", tmp_path / "o.safetensors", "--num-heads", 4, "--without-position")
    loaded = type(model).from_pretrained(tmp_path / "o.safetensors")
    assert loaded.card.architecture == model.card.architecture  # type: ignore[union-attr]
    run(tmp_path / "o.safetensors", tmp_path / "back.pth")
    assert capsys.readouterr().out.endswith("; to convert it back, give --num-heads 4 --without-position\n")


def test_what_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"

    def refused(name: str, message: str, *options: Any, **surplus: Any) -> None:
        _, state = released(name, 2)
        torch.save({"model": state | surplus}, tmp_path / "in.pth")
        with pytest.raises(UserError, match=message) as caught:
            run(tmp_path / "in.pth", out, *options)
        assert "\n" not in str(caught.value)
        assert not out.exists()

    some = torch.zeros(1)
    refused("deformable_detr", r"^--dilation: \S+in\.pth is a Deformable DETR, which has no such", "--dilation")
    refused("detr", r"in\.pth: model\.backbone: .* dilation needs a bottom_up with bottleneck blocks", "--dilation")
    refused("detr", r"^--num-heads 0: give a number of at least 1$", "--num-heads", 0)
    refused("detr", r"in\.pth: .*hidden_dim 16 is not a multiple of num_heads 3", "--num-heads", 3)
    refused("detr", r"in\.pth: the checkpoint is a DETR for segmentation", **{"mask_head.lay1.weight": some})
    refused("detr", r"in\.pth: not a released DETR checkpoint: strange is not part of the model", strange=some)
    refused("deformable_detr", r"in\.pth: .* two-stage", **{"transformer.enc_output.weight": some})


def test_variants_that_the_release_cannot_say_are_refused(tmp_path: Path) -> None:
    kind = KINDS["detr"]

    def refused(card: ModelCard, message: str, *options: str) -> None:
        save_detector(kind.detector(card), card, tmp_path / "m.safetensors")
        with pytest.raises(UserError, match=message) as caught:
            run(tmp_path / "m.safetensors", tmp_path / "o.pth", *options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "o.pth").exists()

    card = kind.card("a", **SHAPES["detr"])
    refused(card, r"^--dilation: \S+m\.safetensors is a weights file of this project, which says that", "--dilation")
    card.architecture["position_encoding"]["temperature"] = 20.0
    refused(card, r"m\.safetensors: .* cannot say that \S+\.temperature is 20\.0: its readers take 10000\.0$")


@pytest.mark.parametrize("name", [*KINDS, "sparse_rcnn"])
def test_a_backbone_without_a_released_layout_is_named(name: str, tmp_path: Path) -> None:
    if name == "sparse_rcnn":
        save_detector(small_detector(card=small_card()), small_card(), tmp_path / "m.safetensors")
    else:
        card = KINDS[name].card("a")
        save_detector(KINDS[name].detector(card), card, tmp_path / "m.safetensors")
    message = "the backbone is not a ResNet-18, 34, 50 or 101 but a SmallNet: the released layout has no names for it"
    with pytest.raises(CheckpointError, match=rf"^\S+m\.safetensors: {message}$"):
        run(tmp_path / "m.safetensors", tmp_path / "o.pth")
    assert not (tmp_path / "o.pth").exists()


def test_an_architecture_without_a_released_layout() -> None:
    with pytest.raises(CheckpointError, match="there is no released layout of a Strange"):
        format_of_architecture({"_target_": "somewhere.Strange"})
