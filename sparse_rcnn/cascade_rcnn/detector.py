"""Cascade R-CNN: images in, classes and boxes of proposals by stage out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import clip_boxes_to_image

from sparse_rcnn.cascade_rcnn.gradient import scale_gradient
from sparse_rcnn.cascade_rcnn.output import CascadeOutput
from sparse_rcnn.cascade_rcnn.predictor import ClassAgnosticPredictor
from sparse_rcnn.cascade_rcnn.selection import select_regions
from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.faster_rcnn.backbone import PooledFPNBackbone
from sparse_rcnn.faster_rcnn.output import RoIOutput
from sparse_rcnn.faster_rcnn.postprocess import to_original
from sparse_rcnn.faster_rcnn.proposal_detector import NUM_POOLED_LEVELS, ProposalDetector, Truth, sizes_of
from sparse_rcnn.faster_rcnn.proposal_network import ProposalNetwork
from sparse_rcnn.faster_rcnn.settings import check_box_weights, check_fractions, check_positive
from sparse_rcnn.finite import check_finite
from sparse_rcnn.structures import Detections, Targets


class CascadeRCNN(ProposalDetector):
    """The detector of arXiv 1712.00726 on a feature pyramid, as Detectron2 has it.

    Each stage has a head of its own, takes the boxes of the stage before, detached and clipped, and is trained with a
    higher IoU. Regions are sampled once, for the first stage; the later ones label what has become of them. The
    features of a region get 1 / S of each stage's gradient. Detections have the mean of the probabilities of all
    heads, each of its own boxes, and the boxes of the last.

    Args:
        num_classes: K.
        backbone: images (N, 3, H, W) to p2..p6.
        rpn: the maps to proposals.
        roi_pooler: p2..p5 and boxes (N, P, 4) to RoI features (N * P, C, S, S).
        dim_fc: width of the two layers of each head (1024).
        roi_ious: of each stage, the IoU with a box from which a region is an object (0.5, 0.6, 0.7).
        num_sampled_rois: of an image, among proposals and boxes (512).
        object_fraction: of them, at most (0.25).
        box_weights: of each stage, those of the deltas of x, y, w and h; (10, 10, 5, 5), and two and three times it.
        score_threshold: detections have a higher score (0.05).
        nms_threshold: the IoU above which the weaker of two detections of a class goes (0.5).
        max_detections: of an image (100).
        pixel_mean, pixel_std: of RGB in 0..255.
    """

    has_stages = True
    output_kind = "cascade"

    def __init__(
        self,
        num_classes: int,
        backbone: PooledFPNBackbone,
        rpn: ProposalNetwork,
        roi_pooler: nn.Module,
        dim_fc: int,
        roi_ious: Sequence[float],
        num_sampled_rois: int,
        object_fraction: float,
        box_weights: Sequence[Sequence[float]],
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(num_classes, backbone, rpn, roi_pooler, max_detections, pixel_mean, pixel_std)
        check_positive(dim_fc=dim_fc, num_sampled_rois=num_sampled_rois)
        check_fractions(object_fraction=object_fraction, score_threshold=score_threshold, nms_threshold=nms_threshold)
        if not roi_ious or len(roi_ious) != len(box_weights):
            raise ValueError(
                "roi_ious and box_weights must have an entry for each stage, got "
                f"{len(roi_ious)} and {len(box_weights)} entries"
            )
        self.num_stages = len(roi_ious)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        output_size = int(roi_pooler.output_size)  # type: ignore[arg-type]
        stages = []
        for roi_iou, weights in zip(roi_ious, box_weights, strict=True):
            check_fractions(roi_ious=roi_iou)
            stage = RoIHeads(
                None,  # the pooler is this detector's own
                TwoMLPHead(backbone.hidden_dim * output_size**2, dim_fc),
                ClassAgnosticPredictor(dim_fc, num_classes),
                roi_iou,
                roi_iou,
                num_sampled_rois,
                object_fraction,
                check_box_weights(weights),
                score_threshold,
                nms_threshold,
                max_detections,
            )
            stages.append(stage)
        self.stages = nn.ModuleList(stages)

    def class_tensors(self) -> dict[str, ClassRows]:
        layers = [f"stages.{s}.box_predictor.cls_score" for s in range(self.num_stages)]
        return {f"{layer}.{leaf}": ClassRows(num_before=1) for layer in layers for leaf in ("weight", "bias")}

    def forward(self, images: Tensor, image_sizes_hw: Tensor, targets: Targets | None = None) -> CascadeOutput:
        """Detect in a padded batch.

        In training the anchors and the regions that the losses read are drawn from PyTorch's global generator.

        Args:
            images: (N, 3, H, W) uint8 or float, RGB, 0..255, H and W multiples of 32.
            image_sizes_hw: (N, 2) sizes of the unpadded images.
            targets: needed in training.

        Raises:
            NonFiniteError: a prediction of which boxes are made is not finite.
        """
        truth = self.truth(targets)
        sizes_hw = sizes_of(image_sizes_hw)
        maps = self.backbone(self.normalize(images, image_sizes_hw))
        rois, anchors = self.rpn(images, maps, sizes_hw, truth)
        pyramid = self.pooled_pyramid(maps)
        outputs: list[RoIOutput] = []
        for s, stage in enumerate(self.stages):
            labels, wanted_deltas = None, None
            if s:
                rois = self._refined(s - 1, outputs[-1], sizes_hw)
                if truth is not None:
                    rois = [boxes[((boxes[:, 2:] > boxes[:, :2]).all(1))] for boxes in rois]
                    labels, wanted_deltas = _label(stage, rois, truth)
            elif truth is not None:
                rois, _, sampled, wanted = stage.select_training_samples(rois, truth)  # type: ignore[operator]
                labels, wanted_deltas = torch.cat(sampled), torch.cat(wanted)
            logits, deltas = self.on_rois(partial(self._head, stage), pyramid, rois)
            outputs.append(RoIOutput(tuple(rois), logits, deltas, labels, wanted_deltas))
        return CascadeOutput(tuple(outputs), anchors)

    def _head(self, stage: Any, pooled: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = stage.box_predictor(stage.box_head(scale_gradient(pooled, 1 / self.num_stages)))
        return logits, deltas

    def _refined(self, s: int, output: RoIOutput, sizes_hw: list[tuple[int, int]]) -> list[Tensor]:
        """The boxes (R_i, 4) that a stage makes of its regions, detached and clipped to the images."""
        check_finite(f"stage {s}", self.training, deltas=output.deltas)
        stage: Any = self.stages[s]
        boxes = stage.box_coder.decode_single(output.deltas.detach(), torch.cat(output.boxes_xyxy_abs))
        by_image = zip(boxes.split(output.num_per_image), sizes_hw, strict=True)
        return [clip_boxes_to_image(part, size_hw) for part, size_hw in by_image]

    def detections(self, output: CascadeOutput, image_sizes_hw: Tensor, original_sizes_hw: Tensor) -> list[Detections]:
        return self._detections_after(self.num_stages, output, image_sizes_hw, original_sizes_hw)

    def stage_detections(
        self, output: CascadeOutput, image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[list[Detections]]:
        """The detections of a cascade that ended after each stage: the boxes of that stage, the mean of the
        probabilities of the heads so far. The last are the detector's own.
        """
        return [
            self._detections_after(s + 1, output, image_sizes_hw, original_sizes_hw) for s in range(self.num_stages)
        ]

    def stage_boxes(
        self, output: CascadeOutput, image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[list[Detections]]:
        """The boxes that each stage makes of the regions of the final detections, each with its best class by the heads
        so far. A region that gives several detections is there once.
        """
        boxes, probabilities = self._results(output, self.num_stages, image_sizes_hw)
        shown = [self._select(b, p)[0].unique() for b, p in zip(boxes, probabilities, strict=True)]
        stages = []
        for s in range(self.num_stages):
            boxes, probabilities = self._results(output, s + 1, image_sizes_hw)
            best = [p[i].max(1) for p, i in zip(probabilities, shown, strict=True)]
            of_shown = [b[i] for b, i in zip(boxes, shown, strict=True)]
            scores, labels = [values for values, _ in best], [classes for _, classes in best]
            stages.append(to_original(of_shown, scores, labels, image_sizes_hw, original_sizes_hw))
        return stages

    def forward_shapes(self, images: Tensor, image_sizes_hw: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Logits and deltas by stage of as many proposals as an image may have in evaluation."""
        maps = self.backbone(self.normalize(images, image_sizes_hw))
        self.rpn.head(maps)
        boxes = maps[0].new_empty(len(images), self.rpn.num_post_nms_testing, 4)
        return [self._head(stage, self.roi_pooler(maps[:NUM_POOLED_LEVELS], boxes)) for stage in self.stages]

    @torch.no_grad()
    def _results(
        self, output: CascadeOutput, num_stages: int, image_sizes_hw: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image the boxes (R_i, 4) after some stages and the mean probabilities (R_i, K) of their heads."""
        stages = output.stages[:num_stages]
        for s, stage in enumerate(stages):
            check_finite(f"stage {s}", self.training, logits=stage.logits)
        mean = torch.stack([stage.logits.softmax(1) for stage in stages]).mean(0)
        boxes = self._refined(num_stages - 1, stages[-1], sizes_of(image_sizes_hw))
        return boxes, list(mean[:, 1:].split(stages[-1].num_per_image))

    def _select(self, boxes: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        return select_regions(boxes, probabilities, self.score_threshold, self.nms_threshold, self.max_detections)

    def _detections_after(
        self, num_stages: int, output: CascadeOutput, image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[Detections]:
        found: list[list[Tensor]] = [[], [], []]
        for boxes, probabilities in zip(*self._results(output, num_stages, image_sizes_hw), strict=True):
            regions, labels = self._select(boxes, probabilities)
            for column, values in zip(found, (boxes[regions], probabilities[regions, labels], labels), strict=True):
                column.append(values)
        return to_original(found[0], found[1], found[2], image_sizes_hw, original_sizes_hw)


def _label(stage: Any, rois: list[Tensor], truth: Truth) -> tuple[Tensor, Tensor]:
    """Labels (R,) and wanted deltas (R, 4) of the regions of all images by the IoU of a stage."""
    labels, matched = [], []
    for boxes, image in zip(rois, truth, strict=True):
        if len(boxes) == 0 or len(image["boxes"]) == 0:  # torchvision's matcher refuses an image without regions
            labels.append(boxes.new_zeros(len(boxes), dtype=torch.int64))
            matched.append(torch.zeros_like(boxes))
            continue
        (index,), (assigned,) = stage.assign_targets_to_proposals([boxes], [image["boxes"]], [image["labels"]])
        labels.append(assigned)
        matched.append(image["boxes"][index])
    return torch.cat(labels), stage.box_coder.encode_single(torch.cat(matched), torch.cat(rois))
