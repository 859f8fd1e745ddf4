"""Detectors that lack what others have: stages, or learned boxes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.model_card import ModelCard
from tests.support.detectors import small_card


class StagedWithoutBoxes(SparseRCNN):
    """With stages; nothing says which boxes the first of them starts from, and no head filters."""

    def start_boxes(self, image_sizes_hw: Tensor, original_sizes_hw: Tensor) -> None:
        return None

    def recording_responses(self) -> AbstractContextManager[Sequence[Tensor]]:
        return DetectorModule.recording_responses(self)


class OneShotDetector(StagedWithoutBoxes):
    """Without stages: nothing but its detections."""

    has_stages = False
    stage_boxes = DetectorModule.stage_boxes
    stage_detections = DetectorModule.stage_detections


def other_card(kind: type[SparseRCNN]) -> ModelCard:
    """The card of a small detector of a class of this module; to load it the module `tests` must be trusted."""
    card = small_card()
    card.architecture["_target_"] = f"{kind.__module__}.{kind.__qualname__}"
    return card
