"""From the last decoder layer to detections: top-k and rescale. No NMS, no score threshold, no clipping."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_rcnn.finite import finite_on_host
from sparse_rcnn.query_boxes import QueryBoxes
from sparse_rcnn.structures import Detections


@torch.no_grad()
def select_query_detections(output: QueryBoxes, original_sizes_hw: Tensor, max_detections: int) -> list[Detections]:
    """The best of the Q * K scores of each image, in pixels of the original image, on the CPU.

    One box may come with several labels, and reach beyond the image.

    Args:
        output: logits (N, Q, K) and boxes (N, Q, 4).
        original_sizes_hw: (N, 2) sizes to scale to.
        max_detections: of an image; Q * K where that is less.

    Raises:
        NonFinitePredictionError: logits or boxes are not finite.
    """
    scores = output.logits.float().sigmoid().flatten(1)
    scores, index = scores.topk(min(max_detections, scores.shape[1]), dim=1)
    num_classes = output.logits.shape[2]
    query = (index // num_classes)[..., None].expand(-1, -1, 4)
    boxes = output.boxes_xyxy_abs(original_sizes_hw).gather(1, query)
    packed = torch.cat((boxes, scores[..., None], (index % num_classes)[..., None].float()), dim=2)
    packed = finite_on_host("detections", packed, logits=output.logits, boxes=output.boxes_cxcywh_norm)
    return [Detections(rows[:, :4], rows[:, 4], rows[:, 5].to(torch.int64)) for rows in packed]
