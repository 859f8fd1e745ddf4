"""Starting from another detector's weights: what is taken, what stays as it was drawn, and the line on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.retinanet.detector import RetinaNet
from sparse_rcnn.transfer import Transfer, apply_transfer, plan_transfer
from tests.support.detectors import small_card, small_detector
from tests.support.retinanet import retinanet_card, small_retinanet

SOURCE = "w.safetensors"
CLASS_LAYERS = {f"stages.{i}.cls_tower.3.{leaf}" for i in range(2) for leaf in ("weight", "bias")}


def detector(names: Sequence[str] = ("cat", "dog"), seed: int = 0, **changes: Any) -> SparseRCNN:
    card = small_card([{"id": i, "name": name} for i, name in enumerate(names)], **changes)
    return small_detector(seed=seed, card=card)


def taken(model: SparseRCNN, given: SparseRCNN) -> tuple[Transfer, dict[str, Tensor]]:
    """What a model takes of another, and its tensors from before."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor.half().float() for name, tensor in given.state_dict().items()}
    assert model.card is not None
    assert given.card is not None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    plan = plan_transfer(model, model.card.architecture, model.card.class_names, shapes, given.card, SOURCE)
    given.load_state_dict(tensors)
    apply_transfer(model, plan, tensors, SOURCE)
    return plan, before


def changed(model: SparseRCNN, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_detector_knows_its_class_layers_and_proposals() -> None:
    model = detector(("a", "b", "c", "d", "e"))
    assert model.class_tensors() == dict.fromkeys(CLASS_LAYERS, ClassRows())
    assert {model.state_dict()[name].shape[0] for name in model.class_tensors()} == {5}
    assert model.proposal_tensors() == {"proposals.boxes_cxcywh_norm", "proposals.features"}


def test_the_same_detector_is_taken_whole() -> None:
    given, model = detector(seed=1), detector(seed=2)
    plan, _ = taken(model, given)
    assert plan.is_complete
    assert plan.share == 1
    assert plan.describe() == f"took all {len(model.state_dict())} tensors"
    assert all(torch.equal(tensor, given.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_another_number_of_classes_draws_the_class_layers_anew() -> None:
    given, model = detector(seed=1), detector(("disc", "ring", "bar", "box"), seed=2)
    plan, before = taken(model, given)
    names = set(model.state_dict())
    assert set(plan.whole) == names - CLASS_LAYERS
    assert all(torch.equal(model.state_dict()[name], given.state_dict()[name]) for name in plan.whole)
    assert not changed(model, before) & CLASS_LAYERS
    assert plan.describe() == (
        f"took {len(names) - 4} of {len(names)} tensors; class layers drawn anew for 'disc', 'ring', 'bar' and 1 more: "
        "the file's classes are 'cat', 'dog'"
    )


@pytest.mark.parametrize("names", [("dog", "cat"), ("dog", "cow", "cat"), ("cow", "dog"), ("dog", "dog", "cat")])
def test_classes_are_taken_by_name(names: tuple[str, ...]) -> None:
    given, model = detector(("cat", "dog"), seed=1), detector(names, seed=2)
    plan, before = taken(model, given)
    for layer in CLASS_LAYERS:
        for row, name in enumerate(names):
            is_taken = name in ("cat", "dog") and names.count(name) == 1
            expected = given.state_dict()[layer][("cat", "dog").index(name)] if is_taken else before[layer][row]
            assert torch.equal(model.state_dict()[layer][row], expected), (layer, name)
    assert "class layers taken by name for 'cat'" in plan.describe() or "for 'dog'" in plan.describe()
    assert (", drawn anew for 'cow'" in plan.describe()) == ("cow" in names)


def test_other_classes_of_the_same_number_are_drawn_anew() -> None:
    model = detector(("disc", "ring"), seed=2)
    plan, before = taken(model, detector(seed=1))
    assert not changed(model, before) & CLASS_LAYERS
    assert "class layers drawn anew for 'disc', 'ring': the file's classes are 'cat', 'dog'" in plan.describe()


@pytest.mark.parametrize(("here", "there"), [(9, 4), (4, 9)])
def test_as_many_proposals_as_both_have(here: int, there: int) -> None:
    given, model = detector(seed=1, num_proposals=there), detector(seed=2, num_proposals=here)
    plan, before = taken(model, given)
    for name in model.proposal_tensors():
        tensor = model.state_dict()[name]
        assert torch.equal(tensor[:4], given.state_dict()[name][:4])
        assert torch.equal(tensor[4:], before[name][4:])
        assert f"{name}: the first 4 of {here}" in plan.describe()


@pytest.mark.parametrize(("here", "there"), [(3, 2), (2, 3)])
def test_stages_of_the_same_index(here: int, there: int) -> None:
    given, model = detector(seed=1, num_stages=there), detector(seed=2, num_stages=here)
    plan, before = taken(model, given)
    third = {name for name in model.state_dict() if name.startswith("stages.2.")}
    assert set(plan.whole) == set(model.state_dict()) - third
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in third)
    if there == 3:
        assert ends_with_more(plan, "left out: stages.2.")
    else:
        assert ends_with_more(plan, "drawn anew: stages.2.reuse.attention.in_proj_weight (absent from the file), ")


def ends_with_more(plan: Transfer, text: str) -> bool:
    return text in plan.describe() and plan.describe().endswith("more")


def test_another_backbone_keeps_what_fits() -> None:
    wider = {
        "_target_": "sparse_rcnn.backbone.SmallNet",
        "widths": [16, 16, 32, 64],
        "num_blocks": [0, 0, 1, 0],
    }
    given, model = detector(seed=1), detector(seed=2, bottom_up=wider)
    plan, before = taken(model, given)
    assert "backbone.bottom_up.stages.3.0.0.weight" in plan.drawn
    assert "backbone.bottom_up.stages.2.0.0.weight" in plan.whole
    assert "drawn anew: backbone.bottom_up.stages.3.0.0.weight ((32, 32, 3, 3) in the file, (64, 32, 3, 3) here)" in (
        plan.describe()
    )
    assert "backbone.bottom_up.stages.3.0.0.weight" not in changed(model, before)
    assert 0.5 < plan.share < 1


def test_next_to_nothing_is_an_error_that_names_the_first_tensors() -> None:
    given, model = detector(seed=1), detector(seed=2, hidden_dim=64, bottom_up=wide())
    message = (
        r"^w\.safetensors has next to nothing for this model \(\d\.\d% of its numbers\): "
        r"backbone\.bottom_up\.stem\.0\.weight \(\(16, 3, 3, 3\) in the file, \(32, 3, 3, 3\) here\), .* and \d+ more$"
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        taken(model, given)
    assert not changed(model, before)


def wide() -> dict[str, Any]:
    return {"_target_": "sparse_rcnn.backbone.SmallNet", "widths": [32, 48, 64, 80], "num_blocks": [0, 0, 0, 0]}


def test_settings_that_leave_no_trace_are_named() -> None:
    given = detector(seed=1)
    model = detector(seed=2)
    assert model.card is not None
    model.card.architecture["pixel_mean"] = [0.0, 0.0, 0.0]
    assert "model.pixel_mean is [0.0, 0.0, 0.0] here and [123.675, 116.28, 103.53] in the file" in (
        taken(model, given)[0].describe()
    )


def test_classes_that_are_not_known_yet_are_no_misfit() -> None:
    """Before there is data, on the meta device, with one class as a stand-in."""
    given = detector(("a", "b", "c"))
    with torch.device("meta"):
        model = detector(("only",))
    assert model.card is not None
    assert given.card is not None
    shapes = {name: tuple(tensor.shape) for name, tensor in given.state_dict().items()}
    plan = plan_transfer(model, model.card.architecture, None, shapes, given.card, SOURCE)
    assert plan.share == 1
    assert set(plan.drawn) == CLASS_LAYERS


def test_a_file_whose_names_are_not_those_of_its_layers() -> None:
    given, model = detector(("a", "b", "c"), seed=1), detector(seed=2)
    assert given.card is not None
    given.card = replace(given.card, categories=given.card.categories[:2])
    with pytest.raises(
        CheckpointError, match=r"^w\.safetensors names 2 classes, its stages\.\d\.cls_tower\.\S+ has 3$"
    ):
        taken(model, given)


def test_numbers_that_are_not_finite_are_refused() -> None:
    given, model = detector(seed=1), detector(seed=2)
    with torch.no_grad():
        given.proposals.features[2, 3] = torch.nan
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"^w\.safetensors holds numbers .* not finite, in proposals\.features$"):
        taken(model, given)
    assert not changed(model, before)


RETINANET_CLASS_LAYERS = {f"head.classification_head.cls_logits.{leaf}" for leaf in ("weight", "bias")}


def retinanet(names: Sequence[str], seed: int, **changes: Any) -> RetinaNet:
    model = small_retinanet(seed, num_classes=len(names), **changes)
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias.normal_()
    model.card = retinanet_card(names, **changes)
    return model


@pytest.mark.parametrize("names", [("dog", "cat"), ("dog", "cow", "cat"), ("cow", "dog"), ("cow", "pig")])
def test_classes_of_several_rows_are_taken_by_name(names: tuple[str, ...]) -> None:
    there = ("cat", "dog")
    given, model = retinanet(there, seed=1), retinanet(names, seed=2)
    plan, before = taken(model, given)
    assert set(plan.whole) == model.state_dict().keys() - RETINANET_CLASS_LAYERS
    for layer in RETINANET_CLASS_LAYERS:
        for anchor in range(9):
            for label, name in enumerate(names):
                row = anchor * len(names) + label
                expected = (
                    given.state_dict()[layer][anchor * 2 + there.index(name)] if name in there else before[layer][row]
                )
                assert torch.equal(model.state_dict()[layer][row], expected), (layer, anchor, name)


def test_the_same_classes_of_several_rows_are_taken_whole() -> None:
    plan, _ = taken(retinanet(("cat", "dog"), seed=2), retinanet(("cat", "dog"), seed=1))
    assert plan.describe() == f"took all {len(plan.whole)} tensors"


def test_other_anchors_and_sizes_of_them() -> None:
    # As many rows, 9 x 2 and 3 x 6, and none of the same class and anchor.
    names = ("cat", "dog", "cow", "pig", "hen", "ant")
    model = retinanet(names, seed=2, num_scales=1)
    plan, before = taken(model, retinanet(("cat", "dog"), seed=1))
    assert not changed(model, before) & RETINANET_CLASS_LAYERS
    assert "cls_logits.weight ((18, 16, 3, 3) in the file, (18, 16, 3, 3) here)" in plan.describe()
    assert "model.num_scales is 1 here and 3 in the file" in plan.describe()
