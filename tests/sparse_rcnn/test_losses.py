"""The set loss against plain Python, its gradient against finite differences, and its properties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_rcnn.criterion import Losses
from sparse_rcnn.losses import SetCriterion
from sparse_rcnn.structures import StageOutput, Targets
from tests.support import naive
from tests.support.detectors import paper_criterion, paper_matcher, random_outputs, random_targets

SIZES = torch.tensor([[100, 140], [90, 60]])


def arrays(outputs: Sequence[StageOutput]) -> tuple[np.ndarray, np.ndarray]:
    logits = torch.stack([o.logits for o in outputs]).detach().double().numpy()
    return logits, torch.stack([o.boxes_xyxy_abs for o in outputs]).detach().double().numpy()


def as_lists(targets: Targets) -> list[tuple[list[list[float]], list[int]]]:
    return [
        (targets.boxes_xyxy_abs[n, :c].tolist(), targets.labels[n, :c].tolist())
        for n, c in enumerate(targets.num_per_image)
    ]


def naive_losses(outputs: Sequence[StageOutput], targets: Targets, num_boxes: float) -> np.ndarray:
    return naive.set_loss(*arrays(outputs), as_lists(targets), SIZES.tolist(), num_boxes)


def gradients(outputs: Sequence[StageOutput]) -> list[Tensor]:
    found = [t.grad for o in outputs for t in (o.logits, o.boxes_xyxy_abs)]
    return [torch.zeros_like(o) if g is None else g for g, o in zip(found, leaves(outputs), strict=True)]


def leaves(outputs: Sequence[StageOutput]) -> list[Tensor]:
    return [t for o in outputs for t in (o.logits, o.boxes_xyxy_abs)]


def test_losses_by_hand() -> None:
    # One proposal, one class, p = 0.5; boxes of 10 px side by side, in an image 100 wide, 50 high.
    output = StageOutput(torch.zeros(1, 1, 1), torch.tensor([[[0.0, 0, 10, 10]]]))
    targets = Targets.from_lists([torch.tensor([[10.0, 0, 20, 10]])], [torch.tensor([0])])
    losses = paper_criterion()([output], targets, torch.tensor([[50, 100]]), (1.0,))
    assert losses["loss_class"].item() == pytest.approx(2 * 0.25 * 0.25 * np.log(2), abs=1e-7)
    assert losses["loss_l1"].item() == pytest.approx(5 * 0.2, abs=1e-6)
    assert losses["loss_giou"].item() == pytest.approx(2 * 1.0, abs=1e-6)
    assert losses.total.item() == pytest.approx(0.125 * np.log(2) + 3, abs=1e-6)


@pytest.mark.parametrize("counts", [[2, 3], [0, 3], [4, 6], [0, 0]])  # 6 of 4 proposals: 2 stay unmatched
def test_losses_equal_the_naive_ones(counts: list[int]) -> None:
    outputs = random_outputs(3, 4, 3, SIZES)
    targets = random_targets(counts, SIZES, 3)
    losses = paper_criterion()(outputs, targets, SIZES, (max(sum(counts), 1),))
    wanted = naive_losses(outputs, targets, max(sum(counts), 1))
    np.testing.assert_allclose(losses.stacked().numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert losses.total.item() == pytest.approx(wanted.sum(), rel=1e-5)
    if sum(counts) == 0:
        assert losses["loss_l1"].tolist() == losses["loss_giou"].tolist() == [0.0] * 3


@pytest.mark.parametrize("counts", [[2, 3], [0, 5]])
def test_gradient_equals_finite_differences_of_the_naive_loss(counts: list[int]) -> None:
    outputs = random_outputs(2, 4, 2, SIZES, seed=1)
    targets = random_targets(counts, SIZES, 2, seed=1)
    paper_criterion()(outputs, targets, SIZES, (3.0,)).total.backward()
    logits, boxes = arrays(outputs)

    def total() -> float:
        return float(naive.set_loss(logits, boxes, as_lists(targets), SIZES.tolist(), 3.0).sum())

    got_logits = torch.stack([o.logits.grad for o in outputs if o.logits.grad is not None]).numpy()
    got_boxes = torch.stack([o.boxes_xyxy_abs.grad for o in outputs if o.boxes_xyxy_abs.grad is not None]).numpy()
    for array, got in ((logits, got_logits), (boxes, got_boxes)):
        wanted = np.zeros_like(array)
        for index in np.ndindex(*array.shape):
            kept = array[index]
            array[index] = kept + 1e-5
            above = total()
            array[index] = kept - 1e-5
            wanted[index] = (above - total()) / 2e-5
            array[index] = kept
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
        assert np.abs(wanted).max() > 1e-3


def test_only_matched_boxes_get_a_gradient_and_all_logits_do() -> None:
    outputs = random_outputs(2, 6, 3, SIZES)
    targets = random_targets([2, 3], SIZES, 3)
    paper_criterion()(outputs, targets, SIZES, (5.0,)).total.backward()
    for output in outputs:
        assert output.logits.grad is not None
        assert output.boxes_xyxy_abs.grad is not None
        assert (output.logits.grad != 0).all()
        touched = (output.boxes_xyxy_abs.grad != 0).any(-1)
        assert touched.sum(1).tolist() == [2, 3]


def test_stages_together_equal_each_stage_alone() -> None:
    outputs = random_outputs(3, 5, 3, SIZES)
    targets = random_targets([2, 4], SIZES, 3)
    together = paper_criterion()(outputs, targets, SIZES, (6.0,)).stacked()
    alone = [paper_criterion()([output], targets, SIZES, (6.0,)).stacked() for output in outputs]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-6, atol=1e-7)


def test_a_batch_equals_its_images_alone() -> None:
    outputs = random_outputs(2, 5, 3, SIZES)
    targets = random_targets([2, 4], SIZES, 3)
    together = paper_criterion()(outputs, targets, SIZES, (6.0,)).stacked()
    alone = torch.zeros(3, 2)
    for n, count in enumerate(targets.num_per_image):
        one = [StageOutput(o.logits[n : n + 1], o.boxes_xyxy_abs[n : n + 1]) for o in outputs]
        target = Targets(targets.boxes_xyxy_abs[n : n + 1, :count], targets.labels[n : n + 1, :count], (count,))
        alone += paper_criterion()(one, target, SIZES[n : n + 1], (6.0,)).stacked()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_the_order_of_proposals_and_targets_does_not_matter() -> None:
    outputs = random_outputs(2, 5, 3, SIZES)
    targets = random_targets([4, 4], SIZES, 3)
    p_order, t_order = torch.tensor([4, 2, 0, 3, 1]), torch.tensor([3, 1, 0, 2])
    moved = [StageOutput(o.logits[:, p_order], o.boxes_xyxy_abs[:, p_order]) for o in outputs]
    moved_targets = Targets(targets.boxes_xyxy_abs[:, t_order], targets.labels[:, t_order], (4, 4))
    torch.testing.assert_close(
        paper_criterion()(moved, moved_targets, SIZES, (8.0,)).stacked(),
        paper_criterion()(outputs, targets, SIZES, (8.0,)).stacked(),
        rtol=1e-6,
        atol=1e-7,
    )


def test_padding_of_targets_changes_neither_losses_nor_gradients() -> None:
    targets = random_targets([2, 4], SIZES, 3)
    boxes = torch.cat((targets.boxes_xyxy_abs, torch.full((2, 3, 4), float("nan"))), 1)
    boxes[0, 2:] = 1e30
    wide = Targets(boxes, torch.cat((targets.labels, torch.full((2, 3), 2)), 1), targets.num_per_image)
    results = []
    for given in (targets, wide):
        outputs = random_outputs(2, 5, 3, SIZES)
        losses = paper_criterion()(outputs, given, SIZES, (6.0,))
        losses.total.backward()
        results.append([losses.stacked(), *gradients(outputs)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_weights_and_normalizer_scale_the_parts() -> None:
    outputs = random_outputs(2, 5, 3, SIZES)
    targets = random_targets([2, 4], SIZES, 3)
    base = SetCriterion(paper_matcher(), 1, 1, 1, 0.25, 2)(outputs, targets, SIZES, (1.0,)).stacked()
    got = SetCriterion(paper_matcher(), 3, 7, 11, 0.25, 2)(outputs, targets, SIZES, (4.0,)).stacked()
    torch.testing.assert_close(got, base * torch.tensor([[3.0], [7.0], [11.0]]) / 4)


@pytest.mark.parametrize("counts", [[2, 3], [0, 0]])
def test_saturated_logits_have_finite_losses_and_gradients(counts: list[int]) -> None:
    outputs = random_outputs(2, 5, 3, SIZES)
    saturated = [
        StageOutput(
            torch.where(o.logits > 0, 100.0, -100.0).detach().requires_grad_(),
            o.boxes_xyxy_abs.detach().requires_grad_(),
        )
        for o in outputs
    ]
    targets = random_targets(counts, SIZES, 3)
    losses = paper_criterion()(saturated, targets, SIZES, (5.0,))
    losses.total.backward()
    np.testing.assert_allclose(losses.stacked().numpy(), naive_losses(saturated, targets, 5.0), rtol=1e-5)
    assert all(g.isfinite().all() for g in gradients(saturated))
    assert losses["loss_class"].min() > 10, "confident mistakes are expensive"


def test_perfect_predictions_cost_nothing() -> None:
    targets = random_targets([3, 2], SIZES, 3)
    logits = torch.full((2, 4, 3), -100.0)
    boxes = torch.tensor([0.0, 0, 50, 50]).repeat(2, 4, 1)
    for n, count in enumerate(targets.num_per_image):
        boxes[n, :count] = targets.boxes_xyxy_abs[n, :count]
        logits[n, torch.arange(count), targets.labels[n, :count]] = 100.0
    losses = paper_criterion()([StageOutput(logits, boxes)], targets, SIZES, (5.0,))
    assert losses.stacked().abs().max() < 1e-6


@pytest.mark.parametrize("num_proposals", [1, 5])
def test_one_class_and_duplicate_proposals(num_proposals: int) -> None:
    logits = torch.zeros(2, num_proposals, 1, requires_grad=True)
    boxes = torch.tensor([10.0, 10, 50, 50]).repeat(2, num_proposals, 1).requires_grad_()
    targets = random_targets([2, 3], SIZES, 1)
    losses = paper_criterion()([StageOutput(logits, boxes)], targets, SIZES, (5.0,))
    losses.total.backward()
    num_pairs = sum(min(c, num_proposals) for c in targets.num_per_image)
    positive, negative = 0.25 * 0.25 * np.log(2), 0.75 * 0.25 * np.log(2)
    wanted = 2 / 5 * (num_pairs * positive + (2 * num_proposals - num_pairs) * negative)
    assert losses["loss_class"].item() == pytest.approx(wanted, rel=1e-5)
    assert logits.grad is not None
    assert (logits.grad[..., 0] < 0).sum() == num_pairs  # pushed up where matched, down elsewhere


def test_bfloat16_outputs_give_float32_losses_under_autocast_too() -> None:
    outputs = random_outputs(2, 5, 3, SIZES)
    half = [StageOutput(o.logits.detach().bfloat16(), o.boxes_xyxy_abs.detach()) for o in outputs]
    same = [StageOutput(o.logits.float(), o.boxes_xyxy_abs) for o in half]
    targets = random_targets([2, 4], SIZES, 3)
    reference = paper_criterion()(same, targets, SIZES, (6.0,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = paper_criterion()(half, targets, SIZES, (6.0,))
    assert losses.total.dtype == torch.float32
    assert torch.equal(losses.stacked(), reference.stacked())


def test_stacked_is_detached_and_in_the_order_of_the_parts() -> None:
    parts = [torch.tensor([float(i), 10.0 * i], requires_grad=True) for i in (1, 2, 3)]
    losses = Losses(dict(zip("abc", parts, strict=True)))
    assert losses.stacked().tolist() == [[1, 10], [2, 20], [3, 30]]
    assert not losses.stacked().requires_grad
    assert losses.total.item() == 66
    assert losses.total.requires_grad
