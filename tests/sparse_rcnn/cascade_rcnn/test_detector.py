"""Cascade R-CNN as a whole: its stages, precision, numbers that are not finite, and a weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparse_rcnn.architecture import build
from sparse_rcnn.cascade_rcnn.criterion import CascadeRCNNCriterion
from sparse_rcnn.cascade_rcnn.detector import CascadeRCNN
from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.weights import load_detector, save_detector
from tests.support.cascade_rcnn import BOX_WEIGHTS, cascade_rcnn_architecture, small_cascade_rcnn
from tests.support.detectors import images_of, random_targets
from tests.support.faster_rcnn import GATHER, UNALIGNED

SIZES_HW = [(96, 150), (128, 100)]


def run(counts: list[int], **changes: Any) -> tuple[CascadeRCNN, Any, Any]:
    """A cascade in training, its output and its losses."""
    model = small_cascade_rcnn(**changes).train()
    images, sizes = images_of(SIZES_HW)
    targets = random_targets(counts, sizes, model.num_classes)
    criterion = CascadeRCNNCriterion(0.0)
    output = model(images, sizes, targets)
    return model, output, criterion(output, targets, sizes, criterion.counts(targets))


@pytest.mark.parametrize("counts", [[2, 0], [0, 0], [30, 1]])
@pytest.mark.parametrize("changes", [{}, {"roi_pooler": GATHER, "num_classes": 1}, {"roi_pooler": UNALIGNED}])
def test_every_trainable_parameter_gets_a_gradient(counts: list[int], changes: dict[str, Any]) -> None:
    model, output, losses = run(counts, **changes)
    assert losses.stacked().shape == (4, 3)
    assert losses["loss_objectness"][1:].tolist() == losses["loss_rpn_box"][1:].tolist() == [0, 0]
    assert losses.total.isfinite()
    assert output.stages[0].num_per_image == [16, 16]
    losses.total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_regions_refined_to_nothing_are_dropped_and_an_image_may_lose_all() -> None:
    images, sizes = images_of(SIZES_HW)
    targets = random_targets([3, 0], sizes, 4)
    model = small_cascade_rcnn().train()
    with torch.no_grad():
        model.stages[0].box_predictor.bbox_pred.bias[0] = 1e4  # type: ignore[union-attr, index]
    output = model(images, sizes, targets)
    assert output.stages[1].num_per_image == [0, 0]
    criterion = CascadeRCNNCriterion(0.0)
    total = criterion(output, targets, sizes, criterion.counts(targets)).total
    assert total.isfinite()
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    found = model.eval().detections(model(images, sizes), sizes, sizes)
    assert [len(d) for d in found] == [0, 0]


def test_later_stages_are_labelled_by_their_own_iou() -> None:
    _, strict, _ = run([9, 3], roi_ious=[0.5, 0.999, 0.999])
    _, mild, _ = run([9, 3], roi_ious=[0.5, 0.01, 0.01])
    for stage in (1, 2):
        assert (strict.stages[stage].labels > 0).sum() < (mild.stages[stage].labels > 0).sum()


def test_stages_of_detections_and_of_boxes() -> None:
    model = small_cascade_rcnn().eval()
    images, sizes = images_of(SIZES_HW)
    output = model(images, sizes)
    by_stage = model.stage_detections(output, sizes, sizes)
    assert len(by_stage) == 3
    own = model.detections(output, sizes, 2 * sizes)
    for last, detections in zip(by_stage[-1], own, strict=True):
        torch.testing.assert_close(2 * last.boxes_xyxy_abs, detections.boxes_xyxy_abs)
        assert torch.equal(last.scores, detections.scores)
    boxes = model.stage_boxes(output, sizes, sizes)
    for n in range(2):
        assert len({len(stage[n]) for stage in boxes}) == 1
        shown = {tuple(box) for box in boxes[-1][n].boxes_xyxy_abs.tolist()}
        assert shown == {tuple(box) for box in by_stage[-1][n].boxes_xyxy_abs.tolist()}
        assert len(shown) == len(boxes[-1][n])
        moved = (boxes[0][n].boxes_xyxy_abs - boxes[1][n].boxes_xyxy_abs).abs().amax(1)
        assert (moved > 0).all()
        assert moved.median() < 30, "box i of a stage becomes box i of the next"
    assert model.start_boxes(sizes, sizes) is None


def test_one_stage_has_the_boxes_of_the_first() -> None:
    images, sizes = images_of(SIZES_HW)
    three = small_cascade_rcnn().eval()
    one = small_cascade_rcnn(roi_ious=[0.5], box_weights=BOX_WEIGHTS[:1]).eval()
    one.load_state_dict({n: three.state_dict()[n] for n in one.state_dict()})
    first = three.stage_detections(three(images, sizes), sizes, sizes)[0]
    for a, b in zip(first, one.detections(one(images, sizes), sizes, sizes), strict=True):
        assert torch.equal(a.boxes_xyxy_abs, b.boxes_xyxy_abs)
        assert torch.equal(a.scores, b.scores)


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    images, sizes = images_of(SIZES_HW)
    targets = random_targets([3, 1], sizes, 4)
    gradients = []
    for recompute in (False, True):
        model = small_cascade_rcnn().train()
        model.activation_checkpointing = recompute
        torch.manual_seed(1)
        output = model(images, sizes, targets)
        torch.stack([stage.logits.square().sum() for stage in output.stages]).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_boxes_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model, output, losses = run([3, 1])
    for stage in output.stages:
        tensors = [*stage.boxes_xyxy_abs, stage.logits, stage.deltas, stage.wanted_deltas]
        assert {t.dtype for t in tensors} == {torch.float32}
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("training", [True, False])
def test_boxes_that_are_not_finite_are_an_error(training: bool) -> None:
    model = small_cascade_rcnn().train(training)
    with torch.no_grad():
        model.stages[1].box_predictor.bbox_pred.bias[0] = float("nan")  # type: ignore[union-attr, index]
    images, sizes = images_of(SIZES_HW)
    with pytest.raises(NonFiniteError, match="stage 1: NaN or infinity in deltas"):
        model(images, sizes, random_targets([1, 1], sizes, 4))


@pytest.mark.parametrize("part", ["cls_score", "bbox_pred"])
def test_detections_that_are_not_finite_are_an_error(part: str) -> None:
    model = small_cascade_rcnn().eval()
    with torch.no_grad():
        getattr(model.stages[2].box_predictor, part).bias[0] = float("nan")
    images, sizes = images_of(SIZES_HW)
    output = model(images, sizes)
    with pytest.raises(NonFiniteError, match="stage 2: NaN or infinity in"):
        model.detections(output, sizes, sizes)


def test_a_weights_file_and_back(tmp_path: Path) -> None:
    categories = [{"id": i, "name": f"class {i}"} for i in range(4)]
    card = ModelCard(cascade_rcnn_architecture(), categories, short_side=64, max_long_side=96)
    model = small_cascade_rcnn().eval()
    save_detector(model, card, tmp_path / "weights.safetensors")
    loaded = load_detector(tmp_path / "weights.safetensors")
    assert isinstance(loaded, CascadeRCNN)
    images, sizes = images_of(SIZES_HW)
    assert torch.equal(loaded(images, sizes).stages[2].logits, model(images, sizes).stages[2].logits)
    stages = loaded.predict_stages(images[0])
    assert len(stages.boxes_xyxy_abs) == 3


def test_class_layers_are_those_of_all_stages() -> None:
    model = small_cascade_rcnn(num_classes=6)
    names = {name for name, t in model.state_dict().items() if t.shape[0] == 7 and "box_predictor" in name}
    assert model.class_tensors() == dict.fromkeys(names, ClassRows(num_before=1))
    assert len(names) == 6


def test_shapes_alone_count_the_cost() -> None:
    with torch.device("meta"):
        model: Any = build(cascade_rcnn_architecture())
        images, sizes = torch.empty(1, 3, 128, 160), torch.empty(1, 2, dtype=torch.int64)
        calls: list[int] = []
        model.roi_pooler = _Pooler(calls)
        with FlopCounterMode(display=False) as counter:
            outputs = model.train().forward_shapes(images, sizes)
    assert [(z.shape, d.shape) for z, d in outputs] == [((20, 5), (20, 4))] * 3
    assert calls == [20] * 3
    assert counter.get_total_flops() > 3 * 2 * 20 * (16 * 49 * 24 + 24 * 24 + 24 * 5 + 24 * 4)


class _Pooler(torch.nn.Module):
    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, maps: Any, boxes: torch.Tensor) -> torch.Tensor:
        assert len(maps) == 4
        self.calls.append(boxes.shape[1])
        return maps[0].new_empty(boxes.shape[0] * boxes.shape[1], maps[0].shape[1], 7, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roi_ious": [0.5]}, "roi_ious and box_weights must have an entry for each stage, got 1 and 3"),
        ({"roi_ious": [], "box_weights": []}, "an entry for each stage, got 0 and 0"),
        ({"roi_ious": [0.5, 0.6, 7]}, "roi_ious must be within 0 and 1, got 7"),
        ({"box_weights": [1.0, 2.0, 3.0]}, "box_weights must be four positive numbers, got 1.0"),
        ({"num_sampled_rois": 0}, "num_sampled_rois must be at least 1, got 0"),
    ],
)
def test_rejected_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build(cascade_rcnn_architecture(**changes))


def test_an_image_without_proposals_has_no_detections() -> None:
    model = small_cascade_rcnn()
    with torch.no_grad():
        model.rpn.head.bbox_pred.bias[0::4] = 1e6  # all far to the right of the image
    images, sizes = images_of(SIZES_HW)
    output = model.eval()(images, sizes)
    for stage in model.stage_detections(output, sizes, sizes) + model.stage_boxes(output, sizes, sizes):
        assert [len(d) for d in stage] == [0, 0]
    targets = random_targets([2, 0], sizes, 4)
    output = model.train()(images, sizes, targets)
    assert output.stages[0].num_per_image == [2, 0], "the boxes themselves"
    assert CascadeRCNNCriterion(0.0)(output, targets, sizes, (2.0,)).total.isfinite()
