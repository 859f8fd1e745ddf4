"""python -m experiments.convert with torchvision's RetinaNet and Faster R-CNN, which go in and not out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from experiments import convert as command
from sparse_rcnn.data.coco_categories import COCO_CATEGORIES
from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.weights import load_detector

COCO_IDS = [category_id for category_id, _ in COCO_CATEGORIES]
TEXTS = {"retinanet": "RetinaNet, R18", "faster_rcnn": "Faster R-CNN, R18"}


def torchvision_model(name: str, num_classes: int) -> nn.Module:
    """As torchvision builds its detectors on ResNet-50, on ResNet-18."""
    options: dict[str, Any] = {"weights": None, "norm_layer": FrozenBatchNorm2d, "trainable_layers": 5}
    if name == "retinanet":
        extra = LastLevelP6P7(256, 256)
        backbone = resnet_fpn_backbone(
            backbone_name="resnet18", returned_layers=[2, 3, 4], extra_blocks=extra, **options
        )
        model: nn.Module = RetinaNet(backbone, num_classes)
    else:
        model = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", **options), num_classes)
    return model


def run(*arguments: Any) -> None:
    command.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", TEXTS)
def test_in_and_not_out(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = torchvision_model(name, 91).state_dict()
    torch.save(theirs, tmp_path / "in.pth")
    run(tmp_path / "in.pth", tmp_path / "ours.safetensors")
    assert capsys.readouterr().out.endswith(
        f"ours.safetensors: {TEXTS[name]}, 80 classes, those of COCO (--categories for others)\n"
    )
    ours = load_detector(tmp_path / "ours.safetensors")
    assert ours.card is not None
    assert ours.card.category_ids == COCO_IDS
    if name == "retinanet":
        (layer,) = [n for n in ours.class_tensors() if n.endswith("bias")]
        rows = [91 * anchor + category_id for anchor in range(9) for category_id in COCO_IDS]
        assert torch.equal(ours.state_dict()[layer], theirs["head.classification_head.cls_logits.bias"][rows])
    else:
        scores = "roi_heads.box_predictor.cls_score.bias"
        assert torch.equal(ours.state_dict()[scores], theirs[scores][[0, *COCO_IDS]])
    norm = "bn1.weight"
    assert not torch.equal(ours.state_dict()[f"backbone.bottom_up.{norm}"], theirs[f"backbone.body.{norm}"])

    with pytest.raises(UserError, match=r"ours\.safetensors: a checkpoint of a .* of torchvision can be read, and not"):
        run(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    with pytest.raises(UserError, match=r"^--num-heads: \S+in\.pth is a .* of torchvision, which has no such setting$"):
        run(tmp_path / "in.pth", tmp_path / "o.safetensors", "--num-heads", 4)
    with pytest.raises(UserError, match=r"^--norm-eps -1\.0: give a number from 0 to below 1$"):
        run(tmp_path / "in.pth", tmp_path / "o.safetensors", "--norm-eps", -1)

    run(tmp_path / "in.pth", tmp_path / "exact.safetensors", "--norm-eps", 1e-5)
    exact = load_detector(tmp_path / "exact.safetensors").state_dict()
    assert torch.equal(exact[f"backbone.bottom_up.{norm}"], theirs[f"backbone.body.{norm}"])


@pytest.mark.parametrize(("name", "first_id"), [("retinanet", 0), ("faster_rcnn", 1)])
def test_as_many_own_classes_as_outputs_are_these_and_fewer_are_chosen_by_id(
    name: str, first_id: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = torchvision_model(name, 91).state_dict()
    torch.save(theirs, tmp_path / "in.pth")
    instances = tmp_path / "instances.json"
    num_classes = 91 - first_id

    def classes_of(ids: list[int]) -> Tensor:
        instances.write_text(json.dumps({"categories": [{"id": i, "name": f"n{i}"} for i in ids]}))
        run(tmp_path / "in.pth", tmp_path / "o.safetensors", "--categories", instances, "--force")
        assert capsys.readouterr().out.endswith(f": {TEXTS[name]}, {len(ids)} classes\n")
        ours = load_detector(tmp_path / "o.safetensors")
        assert ours.card is not None
        assert ours.card.class_names == [f"n{i}" for i in sorted(ids)]
        return torch.cat([ours.state_dict()[n].flatten() for n in ours.class_tensors() if n.endswith("bias")])

    def biases_of(outputs: list[int]) -> Tensor:
        if name == "retinanet":
            return theirs["head.classification_head.cls_logits.bias"].view(9, 91)[:, outputs].flatten()
        rows = [0, *outputs]  # the background
        scores, boxes = (theirs[f"roi_heads.box_predictor.{part}.bias"] for part in ("cls_score", "bbox_pred"))
        return torch.cat((scores[rows], boxes.view(91, 4)[rows].flatten()))

    assert torch.equal(classes_of([1000 + k for k in range(num_classes)]), biases_of([*range(first_id, 91)]))
    assert torch.equal(classes_of([90, 7, 12]), biases_of([7, 12, 90]))

    for ids, message in (
        (["a", 2], r"'a' is not one of them; give as many categories as classes"),
        ([3, 91], r"91 is not one of them"),
        ([first_id - 1, 3], rf"{first_id - 1} is not one of them"),
    ):
        instances.write_text(json.dumps({"categories": [{"id": i, "name": f"n{i}"} for i in ids]}))
        wanted = (
            rf"^\S+instances\.json has 2 categories, the checkpoint {num_classes} classes: fewer are chosen by their "
            rf"ids, {first_id} to 90, and category id {message}"
        )
        with pytest.raises(DataError, match=wanted):
            run(tmp_path / "in.pth", tmp_path / "p.safetensors", "--categories", instances)
    assert not (tmp_path / "p.safetensors").exists()
