"""The detector as a whole: normalisation, batching, where gradients go, initial values, size, precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.losses import Losses
from sparse_rcnn.structures import StageOutput
from tests.support.detectors import (
    PIXEL_MEAN,
    PIXEL_STD,
    architecture,
    images_of,
    paper_criterion,
    random_targets,
    resnet,
    small_detector,
)

SIZES = [(64, 96), (50, 70)]
POOLERS = ["MultiLevelRoIAlign", "GatherRoIAlign"]


def step(model: SparseRCNN, counts: tuple[int, ...] = (3, 2)) -> Losses:
    images, sizes = images_of(SIZES)
    num_classes = model(images, sizes)[0].logits.shape[-1]
    torch.manual_seed(5)  # of the dropout
    outputs = model(images, sizes)
    targets = random_targets(list(counts), sizes, num_classes)
    return paper_criterion()(outputs, targets, sizes, (sum(counts),))


def gradients(model: SparseRCNN) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_normalisation_by_hand_and_zero_padding_after_it() -> None:
    model = small_detector()
    images, sizes = images_of(SIZES)
    images[1, :, 50:] = 200  # whatever stands in the padding
    got = model.normalize(images, sizes)
    assert got.dtype == torch.float32
    for c in range(3):
        wanted = (images[0, c].double() - PIXEL_MEAN[c]) / PIXEL_STD[c]
        torch.testing.assert_close(got[0, c].double(), wanted, rtol=1e-5, atol=1e-6)
    assert (got[1, :, 50:] == 0).all()
    assert (got[1, :, :, 70:] == 0).all()
    assert (got[1, :, :50, :70] != 0).any()
    assert torch.equal(model.normalize(images.float(), sizes), got)


def test_shapes_and_proposal_boxes_of_the_unpadded_image() -> None:
    model = small_detector(num_stages=2, num_proposals=5, num_classes=7)
    images, sizes = images_of(SIZES)
    outputs = model(images, sizes)
    assert len(outputs) == 2
    for output in outputs:
        assert output.logits.shape == (2, 5, 7)
        assert output.boxes_xyxy_abs.shape == (2, 5, 4)
    boxes, features = model.proposals(sizes)
    for n, (h, w) in enumerate(SIZES):
        cx, cy, bw, bh = (model.proposals.boxes_cxcywh_norm.detach() * torch.tensor([w, h, w, h])).unbind(1)
        wanted = torch.stack((cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2), 1)
        torch.testing.assert_close(boxes[n].detach(), wanted)
        assert torch.equal(features[n], model.proposals.features)


def test_image_init_covers_every_image_and_features_are_standard_normal() -> None:
    torch.manual_seed(0)
    model = build(architecture(num_proposals=200))
    boxes, features = model.proposals(torch.tensor(SIZES))
    assert boxes[0].unique(dim=0).tolist() == [[0, 0, 96, 64]]
    assert boxes[1].unique(dim=0).tolist() == [[0, 0, 70, 50]]
    assert features.mean().abs() < 0.05
    assert abs(features.std().item() - 1) < 0.05


def assert_close_by_stage(actual: list[StageOutput], expected: list[StageOutput]) -> None:
    """Equal to rounding. With random weights a stage makes ten times as much of what rounding its input carries
    (boxes move by whole widths), so each may be ten times as far off as the one before."""
    for s, (a, b) in enumerate(zip(actual, expected, strict=True)):
        torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=5e-6 * 10**s)
        torch.testing.assert_close(a.boxes_xyxy_abs, b.boxes_xyxy_abs, rtol=0, atol=2e-4 * 10**s)


def of_image(outputs: list[StageOutput], n: int) -> list[StageOutput]:
    """The outputs of one image of a batch."""
    return [StageOutput(o.logits[n], o.boxes_xyxy_abs[n]) for o in outputs]


@pytest.mark.parametrize("pooler", POOLERS)
def test_a_batch_equals_its_images_alone_at_the_same_padded_size(pooler: str) -> None:
    model = small_detector(roi_pooler=pooler).eval()
    images, sizes = images_of(SIZES)
    together = model(images, sizes)
    for n in range(2):
        alone = model(images[n : n + 1], sizes[n : n + 1])
        assert_close_by_stage(of_image(together, n), of_image(alone, 0))


def test_other_padding_leaves_proposals_alone_and_changes_only_features_near_it() -> None:
    # Padding is zero in the image; past the first convolution it is not (biases, norms), while the border
    # of a map is zero there. So a larger canvas changes features near the border of the image, and what
    # follows from them; the proposals are relative to the unpadded image and do not change.
    torch.manual_seed(0)
    model = build(architecture(bottom_up=resnet(18))).eval()
    model.backbone.bottom_up.bn1.bias.fill_(0.5)
    small, sizes = images_of([(256, 256)])
    large, _ = images_of([(256, 256)], side=512)
    with torch.no_grad():
        maps = [model.backbone.bottom_up(model.normalize(images, sizes))[0] for images in (small, large)]
    difference = (maps[0] - maps[1][..., :64, :64]).abs().amax(1)[0]
    assert difference[:48, :48].max() < 1e-5
    assert difference[60:].max() > 1e-2


def test_every_trainable_parameter_of_every_stage_gets_a_gradient() -> None:
    model = small_detector(num_stages=4)
    with torch.no_grad():  # 51 to 512 pixels: a box on every level of the pyramid
        model.proposals.boxes_cxcywh_norm[:4, 2:] = torch.tensor([0.2, 0.6, 1.2, 2.0])[:, None]
    images, sizes = images_of([(256, 256)])
    outputs = model(images, sizes)
    paper_criterion()(outputs, random_targets([5], sizes, 4), sizes, (5.0,)).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("part", ["loss_class", "loss_l1", "loss_giou"])
@pytest.mark.parametrize("stage", [0, 2])
def test_every_part_of_the_loss_supervises_every_stage(part: str, stage: int) -> None:
    model = small_detector()
    step(model)[part][stage].backward()
    tower = "cls_tower" if part == "loss_class" else "reg_tower"
    reached = {n.split(".")[1] for n, g in gradients(model).items() if f".{tower}." in n and (g != 0).any()}
    assert reached == {str(stage)}, "the tower of its own stage and no other"


def test_between_stages_boxes_are_detached_and_features_are_not() -> None:
    model = small_detector()
    images, sizes = images_of(SIZES)
    last = model(images, sizes)[-1]
    (last.logits.sum() + last.boxes_xyxy_abs.sum()).backward()
    names = {n for n, g in gradients(model).items() if (g != 0).any()}
    for earlier in ("stages.0.", "stages.1."):
        assert not any(n.startswith((earlier + "cls_tower", earlier + "reg_tower")) for n in names)
        for module in ("reuse.", "interaction.", "feed_forward."):
            assert any(n.startswith(earlier + module) for n in names), earlier + module
    assert "proposals.features" in names
    assert "proposals.boxes_cxcywh_norm" not in names


def test_proposal_boxes_get_their_gradient_from_the_boxes_of_stage_0_alone() -> None:
    model = small_detector()
    images, sizes = images_of(SIZES)
    parameter = model.proposals.boxes_cxcywh_norm

    def gradient(value: Tensor) -> Tensor | None:
        return torch.autograd.grad(value, parameter, retain_graph=True, allow_unused=True)[0]

    outputs = model(images, sizes)
    for s, output in enumerate(outputs):
        assert gradient(output.logits.sum()) is None
        got = gradient(output.boxes_xyxy_abs.sum())
        assert (got is not None and bool((got != 0).any())) == (s == 0)


def test_stages_start_with_equal_vectors_and_matrices_of_their_own() -> None:
    torch.manual_seed(0)
    model = build(architecture(num_stages=3))
    first = dict(model.stages[0].named_parameters())
    for stage in model.stages[1:]:
        for name, parameter in stage.named_parameters():
            assert torch.equal(parameter, first[name]) == (parameter.dim() == 1), name
            assert parameter.data_ptr() != first[name].data_ptr(), name
    for stage in model.stages:
        torch.testing.assert_close(stage.cls_tower[-1].bias, torch.full((4,), -math.log(99)))
        assert (stage.reuse.attention.in_proj_bias == 0).all()


def test_the_initial_class_loss_is_that_of_the_prior() -> None:
    torch.manual_seed(0)
    model = build(architecture(num_proposals=50))
    images, sizes = images_of(SIZES)
    with torch.no_grad():
        p = model(images, sizes)[0].logits.sigmoid()
    assert 0.005 < p.mean() < 0.03


@pytest.mark.parametrize("pooler", POOLERS)
def test_twelve_stages_and_three_hundred_proposals(pooler: str) -> None:
    model = small_detector(num_stages=12, num_proposals=300, roi_pooler=pooler)
    losses = step(model, counts=(5, 0))
    losses.total.backward()
    assert losses.stacked().shape == (3, 12)
    assert losses.stacked().isfinite().all()
    assert all(g.isfinite().all() for g in gradients(model).values())
    assert len(gradients(model)) == len(list(model.parameters()))


@pytest.mark.parametrize(("counts", "num_proposals"), [((0, 0), 6), ((0, 4), 6), ((9, 12), 4)])
def test_images_without_targets_and_more_targets_than_proposals(counts: tuple[int, ...], num_proposals: int) -> None:
    model = small_detector(num_proposals=num_proposals)
    losses = step(model, counts)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(g.isfinite().all() for g in gradients(model).values())
    assert (losses["loss_l1"] > 0).all() == (sum(counts) > 0)


def test_one_class_and_one_proposal() -> None:
    model = small_detector(num_classes=1, num_proposals=1)
    losses = step(model)
    losses.total.backward()
    assert losses.total.isfinite()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("pooler", POOLERS)
def test_activation_checkpointing_gives_the_same_numbers(dropout: float, pooler: str) -> None:
    results = []
    for recompute in (False, True):
        model = small_detector(dropout=dropout, roi_pooler=pooler)
        model.activation_checkpointing = recompute
        losses = step(model)
        losses.total.backward()
        results.append((losses.stacked(), gradients(model)))
    (plain, plain_gradients), (recomputed, recomputed_gradients) = results
    assert torch.equal(plain, recomputed)
    assert plain_gradients.keys() == recomputed_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(recomputed_gradients[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_activation_checkpointing_recomputes() -> None:
    model = small_detector(num_stages=2)
    calls = []
    for stage in model.stages:
        stage.register_forward_pre_hook(lambda *_: calls.append(1))
    model.activation_checkpointing = True
    images, sizes = images_of(SIZES)
    model(images, sizes)[-1].logits.sum().backward()
    assert len(calls) == 4, "each stage forward, and again in the backward pass"
    with torch.no_grad():
        model(images, sizes)
    assert len(calls) == 6, "without gradients there is nothing to recompute"


def test_dropout_is_active_in_training_and_off_in_evaluation() -> None:
    model = small_detector(dropout=0.5)
    images, sizes = images_of(SIZES)
    a, b = (model(images, sizes)[-1].logits for _ in range(2))
    assert not torch.equal(a, b)
    model.eval()
    a, b = (model(images, sizes)[-1].logits for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("pooler", POOLERS)
def test_bfloat16_autocast_keeps_boxes_and_losses_in_float32(pooler: str) -> None:
    model = small_detector(roi_pooler=pooler, hidden_dim=32)
    images, sizes = images_of(SIZES)
    reference = model(images, sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images, sizes)
    for output in outputs:
        assert output.logits.dtype == torch.bfloat16
        assert output.boxes_xyxy_abs.dtype == torch.float32
        assert not torch.equal(output.boxes_xyxy_abs, output.boxes_xyxy_abs.bfloat16().float())
    # Logits have a mean size of 4; what bfloat16 rounds off grows with the stages.
    first = (outputs[0].logits.float() - reference[0].logits).abs().mean()
    last = (outputs[-1].logits.float() - reference[-1].logits).abs().mean()
    assert first < 0.02
    assert last < 0.25
    losses = paper_criterion()(outputs, random_targets([3, 2], sizes, 4), sizes, (5.0,))
    assert losses.stacked().dtype == torch.float32
    losses.total.backward()
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients(model).values())


def test_bfloat16_deltas_are_applied_in_float32() -> None:
    model = small_detector(num_stages=1)
    last = model.stages[0].reg_tower[-1]
    delta = 0.30078125  # exact in bfloat16; its exponential is not
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 0.0, delta, delta]))
    images, sizes = images_of(SIZES)
    before = model.proposals(sizes)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        after = model(images, sizes)[0].boxes_xyxy_abs
    growth = (after[..., 2:] - after[..., :2]) / (before[..., 2:] - before[..., :2])
    torch.testing.assert_close(growth, torch.full_like(growth, math.exp(delta)), rtol=1e-5, atol=0)


def test_channels_last_gives_the_same_numbers() -> None:
    model = small_detector().eval()
    images, sizes = images_of(SIZES)
    before = model(images, sizes)
    model.to(memory_format=torch.channels_last)
    after = model(images.contiguous(memory_format=torch.channels_last), sizes)
    assert_close_by_stage(after, before)


def test_pixel_statistics_are_no_part_of_the_state_dict() -> None:
    assert not any("pixel" in name for name in small_detector().state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_stages": 0}, "num_stages must be at least 1, got 0"),
        ({"num_proposals": 0}, "num_proposals must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(architecture(**changes))
