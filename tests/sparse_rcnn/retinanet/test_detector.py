"""RetinaNet as a whole: shapes, padding, precision, weights files, and a few steps of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparse_rcnn.architecture import build
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.retinanet.detector import RetinaNet
from sparse_rcnn.weights import load_detector, save_detector
from tests.support.detectors import images_of, random_targets
from tests.support.retinanet import (
    retinanet_architecture,
    retinanet_card,
    retinanet_criterion,
    small_retinanet,
)


def test_every_anchor_has_logits_and_deltas() -> None:
    images, sizes = images_of([(96, 160), (70, 50)])
    output = small_retinanet(num_classes=3)(images, sizes)
    assert output.num_per_level == [9 * n for n in (12 * 20, 6 * 10, 3 * 5, 2 * 3, 1 * 2)]
    assert output.logits.shape == (2, len(output.anchors_xyxy_abs), 3)
    assert output.deltas.shape == (2, len(output.anchors_xyxy_abs), 4)


def test_scores_start_at_the_prior_probability() -> None:
    model = small_retinanet(drawn=False, prior_probability=0.2)
    scores = model(*images_of([(64, 64)])).logits.sigmoid()
    assert scores.min() > 0.15
    assert scores.max() < 0.25


def test_what_is_in_the_padding_changes_nothing() -> None:
    model = small_retinanet().eval()
    images, sizes = images_of([(70, 50), (60, 90)])
    other = images.clone()
    other[0, :, 70:], other[1, :, :, 90:] = 200, 77
    a, b = model(images, sizes), model(other, sizes)
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.deltas, b.deltas)


def test_detections_are_in_pixels_of_the_original_image_best_first() -> None:
    model = small_retinanet(max_detections=20).eval()
    images, sizes = images_of([(70, 50), (60, 90)])
    with torch.no_grad():
        output = model(images, sizes)
    for found, (h, w) in zip(model.detections(output, sizes, 3 * sizes), (3 * sizes).tolist(), strict=True):
        assert 5 < len(found) <= 20
        assert (found.scores.diff() <= 0).all()
        assert (found.boxes_xyxy_abs >= 0).all()
        assert (found.boxes_xyxy_abs <= torch.tensor([w, h, w, h])).all()
        assert found.boxes_xyxy_abs[:, 2].max() > w / 2


def test_no_stages() -> None:
    model = small_retinanet().eval()
    images, sizes = images_of([(64, 64)])
    with torch.no_grad():
        output = model(images, sizes)
    assert not model.has_stages
    (stage,) = model.stage_boxes(output, sizes, sizes)
    assert torch.equal(stage[0].boxes_xyxy_abs, model.detections(output, sizes, sizes)[0].boxes_xyxy_abs)
    assert model.start_boxes(sizes, sizes) is None


def test_bfloat16_keeps_float32_boxes() -> None:
    model = small_retinanet().eval()
    images, sizes = images_of([(96, 128)])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, sizes)
        found = model.detections(output, sizes, sizes)[0]
    assert output.logits.dtype == torch.bfloat16
    assert output.anchors_xyxy_abs.dtype == found.boxes_xyxy_abs.dtype == torch.float32
    rounded = found.boxes_xyxy_abs.bfloat16().float()
    assert (found.boxes_xyxy_abs != rounded).float().mean() > 0.5


def test_flops_are_counted_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = build(retinanet_architecture()).train()
    images = torch.empty(1, 3, 800, 1120, device="meta")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        output = model.forward_shapes(images, torch.empty(1, 2, dtype=torch.int64, device="meta"))
    assert output.logits.shape[1] == 9 * (100 * 140 + 50 * 70 + 25 * 35 + 13 * 18 + 7 * 9)
    # The two last layers alone.
    assert counter.get_total_flops() > 2 * output.logits.shape[1] * 16 * 9 * (4 + 4)


@pytest.mark.parametrize("num_classes", [1, 4])
@pytest.mark.parametrize("counts", [[0, 0], [2, 0]])
def test_every_trainable_parameter_has_a_gradient(num_classes: int, counts: list[int]) -> None:
    model = small_retinanet(num_classes=num_classes, drawn=False).train()
    images, sizes = images_of([(64, 64), (64, 50)])
    targets = random_targets(counts, sizes, num_classes)
    retinanet_criterion()(model(images, sizes, targets), targets, sizes, (2,)).total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_recomputing_the_head_gives_the_same_numbers() -> None:
    images, sizes = images_of([(64, 96)])
    targets = random_targets([2], sizes, 4)
    gradients = []
    for again in (False, True):
        model = small_retinanet().train()
        model.activation_checkpointing = again
        retinanet_criterion()(model(images, sizes), targets, sizes, (1,)).total.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_few_steps_learn_an_image() -> None:
    model = small_retinanet(num_classes=1, drawn=False).train()
    images, sizes = images_of([(64, 64)])
    targets = random_targets([2], sizes, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        loss = retinanet_criterion()(model(images, sizes), targets, sizes, (1,)).total
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]


def test_a_weights_file_gives_the_detector_back(tmp_path: Path) -> None:
    card = retinanet_card(["cat", "dog"])
    torch.manual_seed(0)
    model = build(card.architecture).eval()
    save_detector(model, card, tmp_path / "m.safetensors")
    loaded = load_detector(tmp_path / "m.safetensors")
    assert isinstance(loaded, RetinaNet)
    assert loaded.card == card
    images, sizes = images_of([(64, 64)])
    with torch.no_grad():
        assert torch.equal(loaded(images, sizes).logits, model(images, sizes).logits)
    detections = RetinaNet.from_pretrained(tmp_path / "m.safetensors").predict(images[0], score_threshold=0.9)
    assert len(detections) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_candidates": 0}, "num_candidates must be at least 1, got 0"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
        ({"score_threshold": 1.5}, "score_threshold must be between 0 and 1, got 1.5"),
        ({"nms_threshold": -0.1}, "nms_threshold must be between 0 and 1, got -0.1"),
        ({"prior_probability": 1.0}, "prior_probability must be within 0 and 1, got 1.0"),
        ({"anchor_sizes": [32.0]}, "anchor_sizes needs one size a level"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build(retinanet_architecture(**changes))
