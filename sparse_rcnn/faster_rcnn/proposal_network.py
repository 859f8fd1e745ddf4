"""torchvision's region proposal network, with its sampled predictions in place of its losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from sparse_rcnn.faster_rcnn.anchors import StridedAnchors
from sparse_rcnn.faster_rcnn.output import SampledAnchors
from sparse_rcnn.faster_rcnn.settings import check_fractions, check_positive
from sparse_rcnn.finite import check_finite


class ProposalNetwork(RegionProposalNetwork):
    """Boxes that may hold an object, from the maps of a pyramid.

    Args:
        hidden_dim: channels of the maps.
        num_convs: 3x3 convolutions before the predictions (1).
        anchors: of the levels of the pyramid.
        object_iou, background_iou: an anchor with at least the one (0.7), or the best of a box, is an object; one below
            the other (0.3) with all boxes is background.
        num_sampled_anchors: of an image (256).
        object_fraction: of them, at most (0.5).
        num_pre_nms_training, num_pre_nms_testing: the best proposals of each level that enter NMS (2000, 1000).
        num_post_nms_training, num_post_nms_testing: the best proposals of an image after it (1000, 1000).
        nms_threshold: the IoU above which the weaker of two proposals of a level goes (0.7).
    """

    def __init__(
        self,
        hidden_dim: int,
        num_convs: int,
        anchors: StridedAnchors,
        object_iou: float,
        background_iou: float,
        num_sampled_anchors: int,
        object_fraction: float,
        num_pre_nms_training: int,
        num_pre_nms_testing: int,
        num_post_nms_training: int,
        num_post_nms_testing: int,
        nms_threshold: float,
    ) -> None:
        check_positive(
            num_convs=num_convs,
            num_sampled_anchors=num_sampled_anchors,
            num_pre_nms_training=num_pre_nms_training,
            num_pre_nms_testing=num_pre_nms_testing,
            num_post_nms_training=num_post_nms_training,
            num_post_nms_testing=num_post_nms_testing,
        )
        check_fractions(
            object_iou=object_iou,
            background_iou=background_iou,
            object_fraction=object_fraction,
            nms_threshold=nms_threshold,
        )
        if background_iou > object_iou:
            raise ValueError(f"background_iou must be at most object_iou, got {background_iou} and {object_iou}")
        super().__init__(
            anchors,
            RPNHead(hidden_dim, anchors.num_per_cell, num_convs),
            object_iou,
            background_iou,
            num_sampled_anchors,
            object_fraction,
            {"training": num_pre_nms_training, "testing": num_pre_nms_testing},
            {"training": num_post_nms_training, "testing": num_post_nms_testing},
            nms_threshold,
        )
        self.hidden_dim = hidden_dim
        self.num_levels = len(anchors.sizes)
        self.num_post_nms_testing = num_post_nms_testing

    def forward(
        self,
        images: Tensor,
        maps: Sequence[Tensor],
        sizes_hw: list[tuple[int, int]],
        truth: list[dict[str, Tensor]] | None,
    ) -> tuple[list[Tensor], SampledAnchors | None]:
        """Proposals (P_i, 4) of each image, inside of it and detached, the best first, and a sample for the losses.

        Args:
            images: (N, 3, H, W), whose size alone is read.
            maps: of the pyramid, (N, C, h, w).
            sizes_hw: of the unpadded images.
            truth: ``boxes`` (M_i, 4) of each image; None takes no sample.

        Raises:
            NonFiniteError: a prediction is not finite.
        """
        objectness_maps, delta_maps = self.head(list(maps))
        num_per_level = [o.shape[1] * o.shape[2] * o.shape[3] for o in objectness_maps]
        objectness, deltas = concat_box_prediction_layers(objectness_maps, delta_maps)
        # Under autocast too, boxes are float32: torchvision would decode them in the type of the deltas.
        objectness, deltas = objectness.flatten().float(), deltas.float()
        check_finite("proposals", self.training, objectness=objectness, deltas=deltas)
        anchors = self.anchor_generator(ImageList(images, sizes_hw), list(maps))
        decoded = self.box_coder.decode(deltas.detach(), anchors).view(len(images), -1, 4)
        proposals, _ = self.filter_proposals(decoded, objectness, sizes_hw, num_per_level)
        return proposals, None if truth is None else self._sample(objectness, deltas, anchors, truth)

    def _sample(
        self, objectness: Tensor, deltas: Tensor, anchors: list[Tensor], truth: list[dict[str, Tensor]]
    ) -> SampledAnchors:
        labels, matched = self.assign_targets_to_anchors(anchors, truth)
        objects, background = (torch.cat(masks).nonzero()[:, 0] for masks in self.fg_bg_sampler(labels))
        sampled = torch.cat((objects, background))
        # torchvision encodes all anchors for the few that are an object.
        wanted = self.box_coder.encode_single(torch.cat(matched)[objects], torch.cat(anchors)[objects])
        return SampledAnchors(objectness[sampled], torch.cat(labels)[sampled], deltas[objects], wanted)
