"""Views of detectors that lack stages or learned boxes, as they are made, written and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from experiments.run.views import view_images, write_views
from experiments.tracking.wandb_writer import layers
from sparse_rcnn.architecture import build
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.views import View, read_view
from tests.support import training
from tests.support.other_detectors import OneShotDetector, StagedWithoutBoxes, other_card
from tests.support.runs import make_bare_run


def view_of(kind: type[SparseRCNN]) -> View:
    card = other_card(kind)
    torch.manual_seed(0)
    model = build(card.architecture, ("sparse_rcnn", "tests"))
    model.card = card
    data = training.data_root()
    dataset = CocoDetection(data / "instances_val.json", data / "val", lambda *sample: sample, False, 0)
    (view,) = view_images(model, dataset, 1, step=3)
    return view


def test_a_detector_without_stages_shows_its_detections(tmp_path: Path) -> None:
    view = view_of(OneShotDetector)
    assert (view.has_stages, view.proposals_xyxy_abs, view.responses) == (False, None, None)
    assert view.boxes_xyxy_abs.shape[0] == 1
    assert np.all(np.diff(view.scores[0]) <= 0), "detections, the best first"
    run = Run(make_bare_run(tmp_path))
    write_views(run.path / "views", [view])
    found = read_view(run, view.image_id)
    assert not found.has_stages
    np.testing.assert_allclose(found.boxes_xyxy_abs, view.boxes_xyxy_abs, atol=0.051)
    drawn = layers(view, max_boxes=2)
    assert list(drawn) == ["ground_truth", "detections"]
    assert len(drawn["detections"]["box_data"]) == 2


def test_a_detector_with_stages_and_without_learned_boxes_shows_its_stages() -> None:
    view = view_of(StagedWithoutBoxes)
    assert (view.has_stages, view.proposals_xyxy_abs) == (True, None)
    assert view.boxes_xyxy_abs.shape[:2] == (2, 6)
    assert list(layers(view, max_boxes=2)) == ["ground_truth", "stage_0", "stage_1"]
