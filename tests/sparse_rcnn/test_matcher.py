"""The matching cost and the assignment, against plain Python, trying all assignments, and by properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_rcnn.matcher import HungarianMatcher, Matches, NonFiniteError
from sparse_rcnn.structures import Targets
from tests.support import naive
from tests.support.detectors import paper_matcher, random_outputs, random_targets

SIZES = torch.tensor([[100, 140], [90, 60], [64, 64]])


def stacked(num_stages: int = 2, num_proposals: int = 5, num_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    outputs = random_outputs(num_stages, num_proposals, num_classes, SIZES, seed)
    logits = torch.stack([o.logits for o in outputs]).detach()
    return 3 * logits, torch.stack([o.boxes_xyxy_abs for o in outputs]).detach()


def pairs(m: Matches) -> set[tuple[int, ...]]:
    return set(zip(m.stage.tolist(), m.image.tolist(), m.proposal.tolist(), m.target.tolist(), strict=True))


def naive_cost(logits: Tensor, boxes: Tensor, targets: Targets, stage: int, image: int) -> np.ndarray:
    count = targets.num_per_image[image]
    return np.array(
        [
            [
                naive.match_cost(
                    logits[stage, image, p].tolist(),
                    boxes[stage, image, p].tolist(),
                    int(targets.labels[image, m]),
                    targets.boxes_xyxy_abs[image, m].tolist(),
                    SIZES[image].tolist(),
                )
                for m in range(count)
            ]
            for p in range(logits.shape[2])
        ]
    ).reshape(logits.shape[2], count)


def test_cost_of_one_pair_by_hand() -> None:
    # p = 0.5; L1 = 10/100 + 0 + 10/100 + 0; boxes of 10 x 10 side by side: IoU 0, GIoU 0.
    targets = Targets.from_lists([torch.tensor([[10.0, 0, 20, 10]])], [torch.tensor([0])])
    cost = paper_matcher().cost(
        torch.zeros(1, 1, 1, 1), torch.tensor([[[[0.0, 0, 10, 10]]]]), targets, torch.tensor([[50, 100]])
    )
    focal = (0.25 - 0.75) * 0.25 * np.log(2)
    assert cost.item() == pytest.approx(2 * focal + 5 * 0.2 - 2 * 0.0, abs=1e-6)


def test_cost_equals_the_naive_one() -> None:
    logits, boxes = stacked()
    logits = logits / 3  # near a probability of 1, 1 - p is what float32 leaves of it
    targets = random_targets([3, 1, 4], SIZES, 4)
    cost = paper_matcher().cost(logits, boxes, targets, SIZES)
    assert cost.dtype == torch.float32
    for s in range(2):
        for n, count in enumerate(targets.num_per_image):
            wanted = naive_cost(logits, boxes, targets, s, n)
            np.testing.assert_allclose(cost[s, n, :, :count].numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("counts", [[3, 1, 4], [0, 2, 5], [5, 7, 1]])  # 7: more targets than proposals
def test_the_assignment_is_the_best_of_all(counts: list[int]) -> None:
    logits, boxes = stacked()
    targets = random_targets(counts, SIZES, 4)
    got = pairs(paper_matcher()(logits, boxes, targets, SIZES))
    wanted = {
        (s, n, p, m)
        for s in range(2)
        for n in range(3)
        for m, p in naive.best_assignment(naive_cost(logits, boxes, targets, s, n))[1].items()
    }
    assert got == wanted
    assert len(got) == 2 * sum(min(c, 5) for c in counts)


def test_pairs_are_sorted_by_stage_image_and_proposal() -> None:
    logits, boxes = stacked(num_stages=3)
    m = paper_matcher()(logits, boxes, random_targets([3, 2, 4], SIZES, 4), SIZES)
    order = list(zip(m.stage.tolist(), m.image.tolist(), m.proposal.tolist(), strict=True))
    assert order == sorted(order)
    assert len(m) == 27


def test_batched_equals_one_image_and_stage_at_a_time() -> None:
    logits, boxes = stacked(num_stages=3, num_proposals=8)
    targets = random_targets([3, 0, 11], SIZES, 4)
    together = pairs(paper_matcher()(logits, boxes, targets, SIZES))
    alone = set()
    for s in range(3):
        for n, count in enumerate(targets.num_per_image):
            one = Targets(targets.boxes_xyxy_abs[n : n + 1, :count], targets.labels[n : n + 1, :count], (count,))
            part = slice(s, s + 1), slice(n, n + 1)
            m = paper_matcher()(logits[part], boxes[part], one, SIZES[n : n + 1])
            alone |= {(s, n, p, t) for _, _, p, t in pairs(m)}
    assert together == alone


def test_what_stands_in_the_padding_of_targets_changes_nothing() -> None:
    logits, boxes = stacked()
    targets = random_targets([3, 1, 4], SIZES, 4)
    dirty_boxes, dirty_labels = targets.boxes_xyxy_abs.clone(), targets.labels.clone()
    dirty_boxes[0, 3:], dirty_boxes[1, 1:] = 1e30, float("nan")
    dirty_labels[0, 3:] = 3
    wide = torch.cat((dirty_boxes, torch.full((3, 5, 4), 7.0)), 1)
    dirty = Targets(wide, torch.cat((dirty_labels, torch.ones(3, 5, dtype=torch.int64)), 1), targets.num_per_image)
    matcher = paper_matcher()
    assert pairs(matcher(logits, boxes, dirty, SIZES)) == pairs(matcher(logits, boxes, targets, SIZES))


def test_permuting_proposals_and_targets_permutes_the_pairs() -> None:
    logits, boxes = stacked(num_proposals=7)
    targets = random_targets([4, 4, 4], SIZES, 4)
    matcher = paper_matcher()
    before = pairs(matcher(logits, boxes, targets, SIZES))
    p_order, t_order = torch.tensor([3, 0, 6, 2, 5, 1, 4]), torch.tensor([2, 0, 3, 1])
    moved = Targets(targets.boxes_xyxy_abs[:, t_order], targets.labels[:, t_order], targets.num_per_image)
    after = pairs(matcher(logits[:, :, p_order], boxes[:, :, p_order], moved, SIZES))
    assert {(s, n, int(p_order[p]), int(t_order[t])) for s, n, p, t in after} == before


def test_no_targets_at_all() -> None:
    logits, boxes = stacked()
    m = paper_matcher()(logits, boxes, random_targets([0, 0, 0], SIZES, 4), SIZES)
    assert len(m) == 0
    assert m.stage.dtype == torch.int64


def test_one_class_and_one_proposal() -> None:
    logits, boxes = stacked(num_proposals=1, num_classes=1)
    m = paper_matcher()(logits, boxes, random_targets([3, 1, 0], SIZES, 1), SIZES)
    assert [(s, n, p) for s, n, p, _ in sorted(pairs(m))] == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]


def test_duplicate_proposals_and_targets_are_matched_one_to_one() -> None:
    logits, boxes = torch.zeros(1, 1, 6, 3), torch.tensor([10.0, 10, 50, 50]).repeat(1, 1, 6, 1)
    targets = Targets.from_lists([torch.tensor([[10.0, 10, 50, 50]] * 4)], [torch.tensor([1, 1, 1, 1])])
    m = paper_matcher()(logits, boxes, targets, SIZES[:1])
    assert sorted(m.target.tolist()) == [0, 1, 2, 3]
    assert len(set(m.proposal.tolist())) == 4


def test_saturated_logits_have_finite_costs() -> None:
    logits, boxes = stacked()
    targets = random_targets([3, 1, 4], SIZES, 4)
    saturated = torch.where(logits > 0, 100.0, -100.0)
    cost = paper_matcher().cost(saturated, boxes, targets, SIZES)
    for s in range(2):
        for n, count in enumerate(targets.num_per_image):
            wanted = naive_cost(saturated, boxes, targets, s, n)
            got = cost[s, n, :, :count].numpy()
            assert np.isfinite(got).all()
            # In float32 1 - p + 1e-8 is 1e-8 there, as in float64: the logarithm is of the same number.
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("logits", "nan", r"stage 1: logits of image 2 of the batch hold NaN or infinity"),
        ("boxes", "nan", r"stage 1: boxes_xyxy_abs of image 2 of the batch hold NaN or infinity"),
        ("boxes", "inf", r"stage 1: boxes_xyxy_abs of image 2 of the batch hold NaN or infinity"),
        ("boxes", "3e38", r"stage 1: boxes_xyxy_abs of image 2 of the batch overflow the matching cost"),
    ],
)
def test_what_is_not_finite_is_named_with_its_stage(tensor: str, value: str, message: str) -> None:
    logits, boxes = stacked()
    spoiled = logits if tensor == "logits" else boxes
    spoiled[1, 2, 3] = float(value)
    targets = random_targets([3, 1, 4], SIZES, 4)
    with pytest.raises(NonFiniteError, match=message):
        paper_matcher()(logits, boxes, targets, SIZES)


def test_low_precision_inputs_are_matched_in_float32() -> None:
    logits, boxes = stacked()
    targets = random_targets([3, 1, 4], SIZES, 4)
    half = logits.bfloat16()
    cost = paper_matcher().cost(half, boxes, targets, SIZES)
    assert cost.dtype == torch.float32
    assert torch.equal(cost, paper_matcher().cost(half.float(), boxes, targets, SIZES))


def test_each_weight_scales_its_own_part() -> None:
    logits, boxes = stacked()
    targets = random_targets([3, 3, 3], SIZES, 4)

    def cost(*weights: float) -> Tensor:
        return HungarianMatcher(*weights, focal_alpha=0.25, focal_gamma=2.0).cost(logits, boxes, targets, SIZES)

    total = cost(2, 5, 2)
    torch.testing.assert_close(total, 2 * cost(1, 0, 0) + 5 * cost(0, 1, 0) + 2 * cost(0, 0, 1))
    with pytest.raises(ValueError, match="class_cost, l1_cost and giou_cost are all 0"):
        cost(0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l1_cost": -1.0}, "l1_cost must be a finite number of at least 0, got -1.0"),
        ({"giou_cost": float("inf")}, "giou_cost must be a finite number of at least 0, got inf"),
        ({"focal_alpha": 1.5}, "focal_alpha must be between 0 and 1, got 1.5"),
        ({"focal_gamma": -2.0}, "focal_gamma must be a finite number of at least 0, got -2.0"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    options = {"class_cost": 2.0, "l1_cost": 5.0, "giou_cost": 2.0, "focal_alpha": 0.25, "focal_gamma": 2.0}
    with pytest.raises(ValueError, match=message):
        HungarianMatcher(**(options | changes))


def test_the_matcher_leaves_no_trace_in_the_graph() -> None:
    logits, boxes = stacked()
    m = paper_matcher()(logits.requires_grad_(), boxes.requires_grad_(), random_targets([1, 1, 1], SIZES, 4), SIZES)
    assert not any(t.requires_grad for t in (m.stage, m.image, m.proposal, m.target))
