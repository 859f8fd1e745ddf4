from __future__ import annotations

import pytest
import torch

from sparse_rcnn.deformable_detr.postprocess import select_query_detections
from tests.support import naive
from tests.support.deformable_detr import random_queries

ORIGINAL = torch.tensor([[40, 60], [50, 30]])


@pytest.mark.parametrize(("max_detections", "num_wanted"), [(7, 7), (100, 12)])
def test_the_best_scores_against_plain_loops(max_detections: int, num_wanted: int) -> None:
    [output] = random_queries(num_layers=1, num_images=2, num_queries=3, num_classes=4)
    found = select_query_detections(output, ORIGINAL, max_detections)
    for n, detections in enumerate(found):
        height, width = ORIGINAL[n].tolist()
        scored = sorted(
            ((naive.sigmoid(output.logits[n, q, k].item()), k, q) for q in range(3) for k in range(4)), reverse=True
        )[:num_wanted]
        assert detections.scores.tolist() == pytest.approx([score for score, _, _ in scored], rel=1e-6)
        assert detections.labels.tolist() == [k for _, k, _ in scored]
        for box, (_, _, q) in zip(detections.boxes_xyxy_abs.tolist(), scored, strict=True):
            cx, cy, w, h = output.boxes_cxcywh_norm[n, q].tolist()
            wanted = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
            assert box == pytest.approx(wanted, abs=1e-4)


def test_boxes_reach_beyond_the_image() -> None:
    [output] = random_queries(num_layers=1, num_images=2, num_queries=3, num_classes=4)
    with torch.no_grad():
        output.boxes_cxcywh_norm[0, :] = torch.tensor([0.1, 0.5, 0.6, 0.2])
    [first, _] = select_query_detections(output, ORIGINAL, 100)
    torch.testing.assert_close(first.boxes_xyxy_abs[:, 0], torch.full((12,), -12.0))
