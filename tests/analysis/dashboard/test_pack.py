"""A view in few bytes."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from analysis.dashboard.pack import pack_view, quantised
from sparse_rcnn.rundir.reader import Run
from tests.support.runs import make_logged_run
from tests.support.views import add_views, view_content, view_without_stages


def test_packed_numbers_come_back(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path)
    content = view_content(5, num_stages=2, num_proposals=4)
    add_views(path, [content])
    packed = pack_view(Run(path), 5)
    boxes = np.frombuffer(base64.b64decode(packed.numbers["boxes"]), "<u2").reshape(3, 4, 4)
    expected = np.array([content["proposals_xyxy_abs"], *(stage["boxes_xyxy_abs"] for stage in content["stages"])])
    assert np.abs((boxes / 65535 * 3 - 1) * 160 - expected).max() <= 160 * 1.5 / 65535 + 1e-9
    scores = np.frombuffer(base64.b64decode(packed.numbers["scores"]), "u1").reshape(2, 4) / 255
    assert np.abs(scores - [stage["scores"] for stage in content["stages"]]).max() <= 0.5 / 255
    labels = np.frombuffer(base64.b64decode(packed.numbers["labels"]), "u1")
    assert labels.tolist() == [0, 1, 2, 0] * 2
    assert packed.responses == content["responses"]["uint8_base64"]
    assert packed.scene["truth_labels"] == [0, 1]


def test_far_away_edges_stay_out_of_sight() -> None:
    levels = quantised(np.array([-1e6, -100.0, 0.0, 100.0, 200.0, 1e6]), 100)
    assert levels.tolist() == [0, 0, 21845, 43690, 65535, 65535]


def test_without_learned_boxes_the_boxes_begin_with_stage_0(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path)
    contents = [view_without_stages(1, 4), view_content(2, 2, 4, responses=False, has_proposals=False)]
    add_views(path, contents)
    for content, has_stages in zip(contents, (False, True), strict=True):
        packed = pack_view(Run(path), content["image_id"])
        assert (packed.numbers["has_stages"], packed.numbers["has_proposals"]) == (has_stages, False)
        boxes = np.frombuffer(base64.b64decode(packed.numbers["boxes"]), "<u2").reshape(-1, 4, 4)
        expected = [stage["boxes_xyxy_abs"] for stage in content["stages"]]
        assert np.abs((boxes / 65535 * 3 - 1) * 160 - expected).max() <= 160 * 1.5 / 65535 + 1e-9
