"""From what a stage says to detections: top-k, rescale, clip. No NMS and no score threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_rcnn.boxes import whwh
from sparse_rcnn.finite import finite_on_host
from sparse_rcnn.structures import Detections, StageOutput


@torch.no_grad()
def select_detections(output: StageOutput, image_sizes_hw: Tensor, original_sizes_hw: Tensor) -> list[Detections]:
    """The P best of the P * K scores of each image, in pixels of the original image, on the CPU.

    One box may come with several labels. Boxes are scaled, then clipped to the image, then dropped where no
    width or height is left (semantics.md#inference).

    Args:
        output: logits (N, P, K) and boxes (N, P, 4) in resized pixels.
        image_sizes_hw: (N, 2) resized, unpadded sizes.
        original_sizes_hw: (N, 2) sizes to scale to.

    Raises:
        NonFinitePredictionError: logits or boxes are not finite.
    """
    boxes, scores, labels = best_scores(output, image_sizes_hw, original_sizes_hw)
    packed = torch.cat((boxes, scores[..., None], labels[..., None].float()), dim=2)
    packed = finite_on_host("detections", packed, logits=output.logits, boxes=output.boxes_xyxy_abs)
    detections = []
    for rows in packed:
        kept = rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])]
        detections.append(Detections(kept[:, :4], kept[:, 4], kept[:, 5].to(torch.int64)))
    return detections


def best_scores(
    output: StageOutput, image_sizes_hw: Tensor, original_sizes_hw: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, P, 4), scores and labels (N, P) of the P best of the P * K scores of each image, best first.

    Boxes are scaled to the original size and clipped; those that have no width or height left are among them.
    """
    num_proposals, num_classes = output.logits.shape[1:]
    scores, index = output.logits.float().sigmoid().flatten(1).topk(num_proposals, dim=1)
    labels = index % num_classes
    proposal = (index // num_classes)[..., None].expand(-1, -1, 4)
    boxes = output.boxes_xyxy_abs.float().gather(1, proposal)
    limit = whwh(original_sizes_hw)[:, None]
    boxes = boxes * (limit / whwh(image_sizes_hw)[:, None])
    return torch.minimum(boxes.clamp(min=0), limit), scores, labels
