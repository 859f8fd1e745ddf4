"""From the output at every anchor to detections: the best of each level, then NMS of each class."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms

from sparse_rcnn.boxes import whwh
from sparse_rcnn.finite import finite_on_host
from sparse_rcnn.retinanet.output import AnchorOutput
from sparse_rcnn.structures import Detections

BOX_CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))


@torch.no_grad()
def detections_of_anchors(
    output: AnchorOutput,
    image_sizes_hw: Tensor,
    original_sizes_hw: Tensor,
    score_threshold: float,
    num_candidates: int,
    nms_threshold: float,
    max_detections: int,
) -> list[Detections]:
    """The detections of each image, in pixels of the original image, on the CPU, best score first.

    As torchvision does it: of the scores of each level the best, as far as they are above the threshold; boxes are
    decoded in float32, clipped to the unpadded resized image, suppressed class by class, cut to the best and scaled.
    Boxes without width or height are dropped at the end, as in Detectron2.

    Args:
        output: of N images.
        image_sizes_hw, original_sizes_hw: (N, 2) sizes that went in, unpadded, and those to scale to.
        score_threshold: of the sigmoid; detections are above it.
        num_candidates: scores of a level that go on to NMS.
        nms_threshold: a box goes where its IoU with a better one of its class is above it.
        max_detections: of an image.

    Raises:
        NonFinitePredictionError: logits or deltas are not finite.
    """
    scores, labels, boxes = _candidates(output, num_candidates)
    limit = whwh(image_sizes_hw)[:, None]
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    is_candidate = scores > score_threshold
    counts = finite_on_host("detections", is_candidate.sum(1), logits=output.logits, deltas=output.deltas)
    rows = torch.cat((boxes, scores[..., None], labels[..., None].to(boxes)), dim=2)
    of_images = rows[is_candidate].split(counts.tolist())
    kept = [r[batched_nms(r[:, :4], r[:, 4], r[:, 5], nms_threshold)[:max_detections]] for r in of_images]
    detections = []
    scale = whwh(original_sizes_hw) / whwh(image_sizes_hw)
    limits = whwh(original_sizes_hw)
    scaled = [torch.cat((torch.minimum(r[:, :4] * scale[i], limits[i]), r[:, 4:]), dim=1) for i, r in enumerate(kept)]
    for r in torch.cat(scaled).cpu().split([len(r) for r in kept]):
        r = r[(r[:, 2] > r[:, 0]) & (r[:, 3] > r[:, 1])]
        detections.append(Detections(r[:, :4], r[:, 4], r[:, 5].to(torch.int64)))
    return detections


def _candidates(output: AnchorOutput, num_candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (N, C), labels (N, C) and boxes (N, C, 4) in resized pixels of the best of each level."""
    num_classes = output.logits.shape[2]
    scores, labels, boxes = [], [], []
    levels = zip(
        output.logits.split(output.num_per_level, dim=1),
        output.deltas.split(output.num_per_level, dim=1),
        output.level_anchors_xyxy_abs,
        strict=True,
    )
    for logits, deltas, anchors in levels:
        flat = logits.flatten(1)
        # The best logits have the best scores: no need for the sigmoid of all.
        best, index = flat.topk(min(num_candidates, flat.shape[1]), dim=1)
        anchor = index // num_classes
        # In float32 under autocast too: the coder brings anchors to the type of the deltas.
        chosen = deltas.gather(1, anchor[..., None].expand(-1, -1, 4)).float()
        decoded = BOX_CODER.decode_single(chosen.flatten(0, 1), anchors[anchor].flatten(0, 1))
        scores.append(best.float().sigmoid())
        labels.append(index % num_classes)
        boxes.append(decoded.view_as(chosen))
    return torch.cat(scores, 1), torch.cat(labels, 1), torch.cat(boxes, 1)
