"""Fine-tuning Faster R-CNN: rows of classes by name, background and boxes included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.faster_rcnn.detector import FasterRCNN
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.transfer import Transfer, apply_transfer, plan_transfer
from tests.support.faster_rcnn import UNALIGNED, faster_rcnn_architecture, small_faster_rcnn


def take(given: FasterRCNN, names_in_file: list[str], names: list[str], **in_file: Any) -> tuple[FasterRCNN, Transfer]:
    model = small_faster_rcnn(seed=7, num_classes=len(names))
    categories = [{"id": i, "name": name} for i, name in enumerate(names_in_file)]
    architecture = faster_rcnn_architecture(num_classes=len(names))
    in_file_too = faster_rcnn_architecture(num_classes=len(names_in_file), **in_file)
    card = ModelCard(in_file_too, categories, short_side=64, max_long_side=96)
    shapes = {n: tuple(t.shape) for n, t in given.state_dict().items()}
    plan = plan_transfer(model, architecture, names, shapes, card, "w.safetensors")
    apply_transfer(model, plan, given.state_dict(), "w.safetensors")
    return model, plan


@pytest.mark.parametrize("names", [["dog", "cat"], ["cow", "cat", "dog", "bee"], ["dog", "cow"]])
def test_rows_are_taken_by_name(names: list[str]) -> None:
    given = small_faster_rcnn(seed=1, num_classes=2)
    before = small_faster_rcnn(seed=7, num_classes=len(names)).state_dict()
    model, plan = take(given, ["cat", "dog"], names)
    for leaf in ("weight", "bias"):
        for layer, width in (("cls_score", 1), ("bbox_pred", 4)):
            name = f"roi_heads.box_predictor.{layer}.{leaf}"
            theirs = given.state_dict()[name].unflatten(0, (3, width))
            ours = model.state_dict()[name].unflatten(0, (len(names) + 1, width))
            drawn = before[name].unflatten(0, (len(names) + 1, width))
            assert torch.equal(ours[0], theirs[0]), "background"
            for k, class_name in enumerate(names, 1):
                wanted = {"cat": theirs[1], "dog": theirs[2]}.get(class_name, drawn[k])
                assert torch.equal(ours[k], wanted), class_name
    assert plan.unused == []


def test_other_classes_leave_the_background_alone() -> None:
    given = small_faster_rcnn(seed=1, num_classes=2)
    _, plan = take(given, ["cat", "dog"], ["disc", "ring"])
    background = {name: list(range(layout.rows_per_class)) for name, layout in given.class_tensors().items()}
    assert plan.rows == {name: (rows, rows) for name, rows in background.items()}


def test_a_file_with_more_rows_than_its_classes_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"names 3 classes, its roi_heads.box_predictor\S+ has \d+ rows, not \d+"):
        take(small_faster_rcnn(num_classes=2), ["cat", "dog", "cow"], ["cat"])


def test_poolers_and_anchors_that_differ_are_said() -> None:
    names = ["cat", "dog"]
    _, plan = take(small_faster_rcnn(num_classes=2), names, names, roi_pooler=UNALIGNED, strides=None)
    assert "model.roi_pooler.aligned is True here and False in the file" in plan.notes
    assert "model.rpn.anchors.strides is [4, 8, 16, 32, 64] here and None in the file" in plan.notes
    assert len(plan.notes) == 2
