"""The losses of proposals and of regions of interest, each a mean over the sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_rcnn.faster_rcnn.output import RoIOutput, SampledAnchors


def smooth_l1(deltas: Tensor, wanted_deltas: Tensor, beta: float) -> Tensor:
    """The sum of L1 distances, quadratic below ``beta``; L1 itself with 0."""
    return F.smooth_l1_loss(deltas, wanted_deltas, beta=beta, reduction="sum")


def anchor_losses(anchors: SampledAnchors, beta: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of objectness and smooth L1 of the boxes, both divided by the number of sampled anchors."""
    objectness = F.binary_cross_entropy_with_logits(anchors.objectness, anchors.labels)
    return objectness, smooth_l1(anchors.deltas, anchors.wanted_deltas, beta) / len(anchors.labels)


def roi_losses(rois: RoIOutput, beta: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the classes and smooth L1 of the boxes of objects, both divided by the number of regions."""
    assert rois.labels is not None
    assert rois.wanted_deltas is not None
    num_regions = max(len(rois.labels), 1)  # a mean over none is not a number
    classes = F.cross_entropy(rois.logits, rois.labels, reduction="mean" if len(rois.labels) else "sum")
    objects = (rois.labels > 0).nonzero()[:, 0]
    deltas = rois.deltas.unflatten(1, (-1, 4))[objects]
    if deltas.shape[1] > 1:
        deltas = deltas[torch.arange(len(objects), device=objects.device), rois.labels[objects]]
    else:
        deltas = deltas[:, 0]
    return classes, smooth_l1(deltas, rois.wanted_deltas[objects], beta) / num_regions
