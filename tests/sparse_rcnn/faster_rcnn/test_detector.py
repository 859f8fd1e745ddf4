"""Faster R-CNN as a whole: shapes, samples, input, precision, numbers that are not finite, and a weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparse_rcnn.architecture import build
from sparse_rcnn.errors import CheckpointError, UserError
from sparse_rcnn.faster_rcnn.criterion import FasterRCNNCriterion
from sparse_rcnn.faster_rcnn.detector import FasterRCNN
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.structures import Targets
from sparse_rcnn.weights import load_detector, save_detector
from tests.support.detectors import images_of, random_targets
from tests.support.faster_rcnn import ALIGNED, GATHER, UNALIGNED, faster_rcnn_architecture, small_faster_rcnn

SIZES_HW = [(96, 150), (128, 100)]


def test_a_training_output_is_a_sample() -> None:
    model = small_faster_rcnn().train()
    images, sizes = images_of(SIZES_HW)
    output = model(images, sizes, random_targets([30, 0], sizes, 4))
    rois, anchors = output.rois, output.anchors
    assert anchors is not None
    assert rois.labels is not None
    assert len(anchors.labels) == len(anchors.objectness) == 2 * 24
    assert len(anchors.deltas) == anchors.labels.sum() > 0
    assert rois.num_per_image == [16, 16]
    assert rois.logits.shape == (32, 5)
    assert rois.deltas.shape == (32, 20)
    assert (rois.labels[:16] > 0).sum() == 4, "at most a quarter are objects"
    assert rois.labels[16:].max() == 0
    assert not any(boxes.requires_grad for boxes in rois.boxes_xyxy_abs)


def test_training_needs_targets() -> None:
    images, sizes = images_of(SIZES_HW)
    with pytest.raises(ValueError, match="targets: a detector on proposals needs them in training"):
        small_faster_rcnn().train()(images, sizes)


def test_samples_come_from_the_global_generator() -> None:
    model = small_faster_rcnn().train()
    images, sizes = images_of(SIZES_HW)
    targets = random_targets([3, 2], sizes, 4)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model(images, sizes, targets).rois.logits)
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape != drawn[2].shape or not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_are_normalised_inside_and_padding_counts_as_zero(dtype: torch.dtype) -> None:
    model = small_faster_rcnn().eval()
    images, sizes = images_of(SIZES_HW)
    other = images.clone()
    other[0, :, 96:], other[1, :, :, 100:] = 200, 77
    assert torch.equal(model(images.to(dtype), sizes).rois.logits, model(other.to(dtype), sizes).rois.logits)
    white = model.normalize(torch.full((1, 3, 32, 32), 255).to(dtype), torch.tensor([[32, 20]]))
    wanted = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(white[0, :, 0, 0], wanted)
    assert (white[..., 20:] == 0).all()


def test_detections_are_in_pixels_of_the_original_image() -> None:
    model = small_faster_rcnn().eval()
    images, sizes = images_of(SIZES_HW)
    output = model(images, sizes)
    plain, doubled = (model.detections(output, sizes, factor * sizes) for factor in (1, 2))
    for small, large, (h, w) in zip(plain, doubled, sizes.tolist(), strict=True):
        assert 0 < len(small) <= 10
        assert small.labels.min() >= 0
        assert small.labels.max() <= 3
        assert (small.scores.diff() <= 0).all()
        torch.testing.assert_close(2 * small.boxes_xyxy_abs, large.boxes_xyxy_abs)
        assert small.boxes_xyxy_abs.min() >= 0
        assert (small.boxes_xyxy_abs.amax(0) <= torch.tensor([w, h, w, h])).all()


def test_no_detection_is_no_detection() -> None:
    model = small_faster_rcnn().eval()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.zero_()
        model.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([9.0, 0, 0, 0, 0]))
    images, sizes = images_of(SIZES_HW)
    found = model.detections(model(images, sizes), sizes, sizes)
    assert [len(d) for d in found] == [0, 0]
    assert found[0].boxes_xyxy_abs.shape == (0, 4)


@pytest.mark.parametrize("num_per_image", [[5, 2], [0, 3], [0, 0]])
def test_regions_of_different_number_are_pooled_each_for_itself(num_per_image: list[int]) -> None:
    model = small_faster_rcnn().eval()
    images, sizes = images_of(SIZES_HW)
    maps = model.backbone(model.normalize(images, sizes))
    boxes = torch.tensor([[3.0, 5.0, 40.0, 60.0], [20.0, 10.0, 90.0, 90.0]])
    rois = [boxes.repeat(3, 1)[:count] + i for i, count in enumerate(num_per_image)]
    logits, deltas = model.on_rois(model._head, model.pooled_pyramid(maps), rois)
    assert (logits.shape, deltas.shape) == ((sum(num_per_image), 5), (sum(num_per_image), 20))
    alone = [
        model.on_rois(model._head, model.pooled_pyramid([m[i : i + 1] for m in maps]), [rois[i]])[0]
        for i, count in enumerate(num_per_image)
        if count
    ]
    torch.testing.assert_close(logits, torch.cat([logits[:0], *alone]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooler", [ALIGNED, GATHER])
def test_the_suites_poolers_give_the_same(pooler: str) -> None:
    images, sizes = images_of(SIZES_HW)
    outputs = [small_faster_rcnn(roi_pooler=p).eval()(images, sizes).rois.logits for p in (ALIGNED, pooler, UNALIGNED)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs[0], outputs[2], rtol=1e-3, atol=1e-3), "half a cell aside"


@pytest.mark.parametrize("counts", [[2, 0], [0, 0]])
@pytest.mark.parametrize("pooler", [GATHER, UNALIGNED])
def test_every_trainable_parameter_gets_a_gradient(pooler: str, counts: list[int]) -> None:
    model = small_faster_rcnn(roi_pooler=pooler).train()
    images, sizes = images_of(SIZES_HW)
    targets = random_targets(counts, sizes, 4)
    criterion = FasterRCNNCriterion(0.0)
    total = criterion(model(images, sizes, targets), targets, sizes, criterion.counts(targets)).total
    assert total.isfinite()
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    images, sizes = images_of(SIZES_HW)
    targets = random_targets([3, 1], sizes, 4)
    gradients = []
    for recompute in (False, True):
        model = small_faster_rcnn().train()
        model.activation_checkpointing = recompute
        torch.manual_seed(1)
        model(images, sizes, targets).rois.logits.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_boxes_are_float32_under_autocast() -> None:
    model = small_faster_rcnn()
    images, sizes = images_of(SIZES_HW)
    targets = random_targets([3, 1], sizes, 4)
    criterion = FasterRCNNCriterion(0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.train()(images, sizes, targets)
        losses = criterion(output, targets, sizes, criterion.counts(targets))
        found = model.eval().detections(model(images, sizes), sizes, sizes)
    tensors = [*output.rois.boxes_xyxy_abs, output.rois.logits, output.rois.deltas, output.rois.wanted_deltas]
    tensors += [output.anchors.deltas, output.anchors.wanted_deltas, found[0].boxes_xyxy_abs, losses.total]
    assert {t.dtype for t in tensors} == {torch.float32}
    losses.total.backward()
    # A coordinate that is no multiple of 1/2 would not survive bfloat16 beyond 128 pixels.
    assert (found[0].boxes_xyxy_abs.bfloat16().float() != found[0].boxes_xyxy_abs).any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("part", ["cls_logits", "bbox_pred"])
def test_proposals_that_are_not_finite_are_an_error(part: str, training: bool) -> None:
    model = small_faster_rcnn().train(training)
    with torch.no_grad():
        getattr(model.rpn.head, part).bias[0] = float("nan")
    images, sizes = images_of(SIZES_HW)
    name = "objectness" if part == "cls_logits" else "deltas"
    with pytest.raises(NonFiniteError, match=f"^proposals: NaN or infinity in {name}") as caught:
        model(images, sizes, random_targets([1, 1], sizes, 4))
    # A training adds its advice; a command that detects prints a user's mistake as one line.
    assert isinstance(caught.value, UserError) != training


def test_detections_that_are_not_finite_are_an_error() -> None:
    model = small_faster_rcnn().eval()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[2] = float("inf")
    images, sizes = images_of(SIZES_HW)
    output = model(images, sizes)
    with pytest.raises(NonFiniteError, match="detections: NaN or infinity in logits"):
        model.detections(output, sizes, sizes)


def test_a_weights_file_and_back(tmp_path: Path) -> None:
    categories = [{"id": i, "name": f"class {i}"} for i in range(4)]
    card = ModelCard(faster_rcnn_architecture(), categories, short_side=64, max_long_side=96)
    model = small_faster_rcnn().eval()
    save_detector(model, card, tmp_path / "weights.safetensors")
    loaded = load_detector(tmp_path / "weights.safetensors")
    assert isinstance(loaded, FasterRCNN)
    images, sizes = images_of(SIZES_HW)
    assert torch.equal(loaded(images, sizes).rois.logits, model(images, sizes).rois.logits)
    assert len(loaded.predict([images[0]], score_threshold=0.06)[0].scores) > 0


def test_shapes_alone_count_the_cost() -> None:
    with torch.device("meta"):
        model: Any = build(faster_rcnn_architecture())
        images, sizes = torch.empty(1, 3, 128, 160), torch.empty(1, 2, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            pooled: list[int] = []
            model.roi_pooler = _Pooler(pooled)
            logits, deltas = model.train().forward_shapes(images, sizes)
    assert (logits.shape, deltas.shape, pooled) == ((20, 5), (20, 20), [20])
    head = 2 * 20 * (16 * 49 * 24 + 24 * 24 + 24 * 5 + 24 * 20)
    cells = sum(h * w for h, w in ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3)))
    proposals = 2 * cells * (9 * 16 * 16 + 16 * 3 + 16 * 12)
    with torch.device("meta"), FlopCounterMode(display=False) as backbone:
        model.backbone(images)
    assert counter.get_total_flops() == backbone.get_total_flops() + head + proposals


class _Pooler(torch.nn.Module):
    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, maps: Any, boxes: torch.Tensor) -> torch.Tensor:
        assert len(maps) == 4
        self.calls.append(boxes.shape[1])
        return maps[0].new_empty(boxes.shape[0] * boxes.shape[1], maps[0].shape[1], 7, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("num_classes", 0), "num_classes must be at least 1, got 0"),
        (("max_detections", 0), "max_detections must be at least 1, got 0"),
        (("roi_iou", 1.5), "roi_iou must be within 0 and 1, got 1.5"),
        (("box_weights", [10.0, 10.0]), r"box_weights must be four positive numbers, got \[10.0, 10.0\]"),
        (("rpn.background_iou", 0.9), "background_iou must be at most object_iou, got 0.9 and 0.7"),
        (("rpn.num_sampled_anchors", 0), "num_sampled_anchors must be at least 1, got 0"),
        (("rpn.hidden_dim", 32), "hidden_dim is 16 in the backbone and 32 in rpn"),
        (("rpn.anchors.strides", [4, 8]), "sizes has 5 levels, strides has 2"),
        (("rpn.anchors.aspect_ratios", [0.0]), "aspect_ratios must be positive"),
    ],
)
def test_rejected_arguments(change: tuple[str, Any], message: str) -> None:
    node = architecture = faster_rcnn_architecture()
    *path, key = change[0].split(".")
    for part in path:
        node = node[part]
    node[key] = change[1]
    with pytest.raises(CheckpointError, match=message):
        build(architecture)


def test_anchors_and_pyramid_have_as_many_levels() -> None:
    architecture = faster_rcnn_architecture()
    architecture["rpn"]["anchors"] |= {"sizes": [16], "strides": [4]}
    with pytest.raises(CheckpointError, match="rpn has anchors of 1 levels, the backbone has 5"):
        build(architecture)


def test_micro_batches_add_up_where_their_samples_are_as_large() -> None:
    # Every anchor that is an object is in the sample, so that its boxes are not a matter of chance.
    architecture = faster_rcnn_architecture()
    architecture["rpn"]["num_sampled_anchors"] = 100
    torch.manual_seed(0)
    model = build(architecture).train()
    images, sizes = images_of([(96, 128)] * 4)
    targets = random_targets([3, 0, 1, 2], sizes, 4)
    criterion = FasterRCNNCriterion(0.0)
    whole = criterion(model(images, sizes, targets), targets, sizes, (4.0,))
    parts = []
    for i in (0, 1), (2, 3):
        rows = slice(i[0], i[1] + 1)
        some = Targets(targets.boxes_xyxy_abs[rows], targets.labels[rows], targets.num_per_image[rows])
        parts.append(criterion(model(images[rows], sizes[rows], some), some, sizes[rows], (4.0,)))
    total = sum(part["loss_rpn_box"].item() for part in parts)
    assert total == pytest.approx(whole["loss_rpn_box"].item(), rel=1e-5)


def test_an_image_without_proposals_has_no_detections() -> None:
    model = small_faster_rcnn()
    with torch.no_grad():
        model.rpn.head.bbox_pred.bias[0::4] = 1e6  # all far to the right of the image
    images, sizes = images_of(SIZES_HW)
    output = model.eval()(images, sizes)
    assert output.rois.num_per_image == [0, 0]
    assert [len(d) for d in model.detections(output, sizes, sizes)] == [0, 0]
    targets = random_targets([2, 0], sizes, 4)
    output = model.train()(images, sizes, targets)
    assert output.rois.num_per_image == [2, 0], "the boxes themselves"
    criterion = FasterRCNNCriterion(0.0)
    assert criterion(output, targets, sizes, (2.0,)).total.isfinite()
