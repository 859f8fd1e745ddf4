"""Sparse R-CNN: images in, what every stage says out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparse_rcnn.boxes import whwh
from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.finite import check_finite
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.normalization import normalized
from sparse_rcnn.postprocess import best_scores, select_detections
from sparse_rcnn.proposals import LearnedProposals
from sparse_rcnn.responses import record_responses
from sparse_rcnn.roi_pooler import prepared
from sparse_rcnn.stage import Stage
from sparse_rcnn.structures import Detections, StageOutput, Targets


class SparseRCNN(Detector):
    """The detector of arXiv 2011.12450: learned proposals refined by a cascade of stages.

    Args:
        num_stages: S.
        backbone: images (N, 3, H, W) to pyramid maps p2.. (N, C, h, w).
        proposals: image sizes to boxes (N, P, 4) and features (N, P, C).
        positional_encoding: what is added to the maps before RoI pooling (table 9).
        roi_pooler: maps and boxes to RoI features (N * P, C, S, S).
        stage: the prototype of a stage. Every stage is a clone of it whose matrices are drawn anew, so that
            the one-dimensional parameters start equal in all stages (semantics.md#initialisation).
        pixel_mean, pixel_std: of RGB in 0..255 (semantics.md#input).
    """

    size_divisor = 32
    has_stages = True
    output_kind = "stages"
    proposals: LearnedProposals
    pixel_std: Tensor

    def __init__(
        self,
        num_stages: int,
        backbone: nn.Module,
        proposals: LearnedProposals,
        positional_encoding: nn.Module,
        roi_pooler: nn.Module,
        stage: Stage,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        if num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, got {num_stages}")
        self.num_stages = num_stages
        self.num_classes, self.max_detections = stage.num_classes, proposals.num_proposals
        self.backbone = backbone
        self.proposals = proposals
        if not stage.reads_proposal_features:  # a parameter without a gradient would stop distributed training
            proposals.drop_features()
        self.positional_encoding = positional_encoding
        self.roi_pooler = roi_pooler
        clones = [copy.deepcopy(stage) for _ in range(num_stages)]
        for clone in clones:
            clone.reset_parameters()
        self.stages = nn.ModuleList(clones)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        # Recompute each stage in the backward pass: 12 stages or 500 proposals then fit. Same numbers.
        self.activation_checkpointing = False
        self.card: ModelCard | None = None

    def class_tensors(self) -> Mapping[str, ClassRows]:
        return {
            f"stages.{i}.{name}": ClassRows()
            for i, stage in enumerate(self.stages)
            for name in getattr(stage, "class_tensors", set[str])()
        }

    def proposal_tensors(self) -> set[str]:
        return {f"proposals.{name}" for name, _ in self.proposals.named_parameters()}

    def head_modules(self) -> list[nn.Module]:
        return list(self.stages)

    def detections(
        self, output: Sequence[StageOutput], image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[Detections]:
        return select_detections(output[-1], image_sizes_hw, original_sizes_hw)

    def stage_detections(
        self, output: Sequence[StageOutput], image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[list[Detections]]:
        return [select_detections(stage, image_sizes_hw, original_sizes_hw) for stage in output]

    def stage_boxes(
        self, output: Sequence[StageOutput], image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[list[Detections]]:
        scale = (whwh(original_sizes_hw) / whwh(image_sizes_hw))[:, None]
        stages = []
        for stage in output:
            boxes_xyxy_abs = (stage.boxes_xyxy_abs.float() * scale).cpu()
            logits = stage.logits.float().cpu()
            check_finite("detections", self.training, logits=logits, boxes=boxes_xyxy_abs)
            columns = zip(boxes_xyxy_abs, logits.sigmoid().amax(-1), logits.argmax(-1), strict=True)
            stages.append([Detections(*column) for column in columns])
        return stages

    def start_boxes(self, image_sizes_hw: Tensor, original_sizes_hw: Tensor) -> Tensor:
        boxes_xyxy_abs, _ = self.proposals(image_sizes_hw)
        scaled: Tensor = boxes_xyxy_abs.float() * (whwh(original_sizes_hw) / whwh(image_sizes_hw))[:, None]
        return scaled

    def recording_responses(self) -> AbstractContextManager[Sequence[Tensor]]:
        return record_responses(self.stages)

    def graph_outputs(self, output: Sequence[StageOutput], image_sizes_hw: Tensor, outputs: str) -> dict[str, Tensor]:
        if outputs == "stages":
            named: dict[str, Tensor] = {}
            for i, stage in enumerate(output):
                named |= {f"logits_{i}": stage.logits, f"boxes_xyxy_abs_{i}": stage.boxes_xyxy_abs}
            return named
        boxes_xyxy_abs, scores, labels = best_scores(output[-1], image_sizes_hw, image_sizes_hw)
        return {"boxes_xyxy_abs": boxes_xyxy_abs, "scores": scores, "labels": labels}

    def normalize(self, images: Tensor, image_sizes_hw: Tensor) -> Tensor:
        """Raw images (N, 3, H, W), 0..255, to normalised float32 ones whose padding is zero (semantics.md#input)."""
        return normalized(images.float(), image_sizes_hw, self.pixel_mean, self.pixel_std)

    def forward(self, images: Tensor, image_sizes_hw: Tensor, targets: Targets | None = None) -> list[StageOutput]:
        """Detect in a padded batch.

        Args:
            images: (N, 3, H, W) uint8 or float, RGB, 0..255, H and W multiples of 32.
            image_sizes_hw: (N, 2) sizes of the unpadded images.
            targets: not used; other detectors sample by them.

        Returns:
            One output per stage, boxes in pixels of the unpadded images, never clipped to them.
        """
        maps = self.backbone(self.normalize(images, image_sizes_hw))
        maps = self.positional_encoding(maps, image_sizes_hw)
        pyramid = prepared(self.roi_pooler, maps)
        boxes_xyxy_abs, proposal_features = self.proposals(image_sizes_hw)
        object_features = proposal_features
        outputs = []
        for stage in self.stages:
            output, object_features = self._run_stage(
                stage, pyramid, boxes_xyxy_abs, object_features, proposal_features
            )
            outputs.append(output)
            # Boxes are detached, features are not (semantics.md#box-refinement).
            boxes_xyxy_abs = output.boxes_xyxy_abs.detach()
        return outputs

    def _run_stage(
        self,
        stage: nn.Module,
        pyramid: Any,
        boxes_xyxy_abs: Tensor,
        object_features: Tensor | None,
        proposal_features: Tensor | None,
    ) -> tuple[StageOutput, Tensor]:
        def run(boxes: Tensor, features: Tensor | None, learned: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
            output, features = stage(self.roi_pooler(pyramid, boxes), boxes, features, learned)
            return output.logits, output.boxes_xyxy_abs, features

        start = (boxes_xyxy_abs, object_features, proposal_features)
        if self.activation_checkpointing and torch.is_grad_enabled():
            logits, boxes, features = checkpoint(run, *start, use_reentrant=False)
        else:
            logits, boxes, features = run(*start)
        return StageOutput(logits, boxes), features
