"""Exported detectors against PyTorch: ONNX Runtime and torch.export, several image sizes, metadata, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from sparse_rcnn.errors import UserError
from sparse_rcnn.export import METADATA_FILE, TOLERANCE, Graph, GraphRoIAlign, export, largest_difference, same_order
from sparse_rcnn.roi_pooler import MultiLevelRoIAlign
from tests.support.detectors import resnet, small_card, small_detector
from tests.support.pyramids import boxes_of_every_kind, maps_of

SIZES = [(2, 3, 1), (3, 2, 3), (5, 4, 2)]


def test_the_pooler_of_graphs_gives_the_same_numbers() -> None:
    maps, boxes = maps_of(), boxes_of_every_kind()
    torch.testing.assert_close(
        GraphRoIAlign(7, 2)(maps, boxes), MultiLevelRoIAlign(7, 2)(maps, boxes), rtol=1e-10, atol=1e-10
    )


def check_metadata(path: Path) -> None:
    """Classes and preprocessing are in the file."""
    if path.suffix == ".onnx":
        found = {p.key: p.value for p in onnx.load(path).metadata_props}
    else:
        extra = {METADATA_FILE: ""}
        torch.export.load(path, extra_files=extra)
        found = {k: v if isinstance(v, str) else json.dumps(v) for k, v in json.loads(extra[METADATA_FILE]).items()}
    assert json.loads(found["class_names"]) == ["cat", "dog"]
    assert json.loads(found["category_ids"]) == [3, 7]
    assert (found["short_side"], found["max_long_side"], found["size_divisor"]) == ("64", "96", "32")
    assert found["source"] == "runs/x"


@pytest.mark.parametrize(("suffix", "outputs"), [(".onnx", "detections"), (".onnx", "stages"), (".pt2", "detections")])
def test_a_small_detector_at_three_sizes(suffix: str, outputs: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    model = small_detector(card=small_card())
    graph = export(model, path, outputs, metadata={"source": "runs/x"})
    check_metadata(path)
    assert largest_difference(graph, path, SIZES) <= TOLERANCE
    assert isinstance(model.roi_pooler, MultiLevelRoIAlign), "the model itself is left alone"
    images, sizes_hw = graph.example(3, 3)
    named = dict(zip(graph.output_names, graph(images, sizes_hw), strict=True))
    if outputs == "stages":
        assert list(named) == ["logits_0", "boxes_xyxy_abs_0", "logits_1", "boxes_xyxy_abs_1"]
        torch.testing.assert_close(named["logits_1"], model(images, sizes_hw)[1].logits, rtol=1e-4, atol=1e-4)
    else:
        (wanted,) = model.detections(model(images, sizes_hw), sizes_hw, sizes_hw)
        boxes = named["boxes_xyxy_abs"][0]
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)  # the graph has a fixed number of boxes, empty ones among them
        torch.testing.assert_close(named["scores"][0, kept], wanted.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(boxes[kept], wanted.boxes_xyxy_abs, rtol=1e-4, atol=0.02)


@pytest.mark.slow
def test_a_resnet_50_of_six_stages(tmp_path: Path) -> None:
    model = small_detector(card=small_card(bottom_up=resnet(50), num_stages=6, hidden_dim=64, num_proposals=30))
    with torch.no_grad():  # boxes move by little, as in a trained cascade: far away ones blow rounding up
        for stage in model.stages:
            stage.reg_tower.last.weight.mul_(0.1)
    graph = export(model, tmp_path / "model.onnx")
    assert largest_difference(graph, tmp_path / "model.onnx", [(5, 7, 1), (8, 4, 2), (10, 10, 1)]) <= TOLERANCE


def test_another_suffix_and_detectors_without_fixed_outputs_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.pb: the suffix chooses the format: \.onnx or \.pt2"):
        export(small_detector(card=small_card()), tmp_path / "model.pb")
    assert list(tmp_path.iterdir()) == []


def test_a_detector_with_nms_says_why_it_has_no_graph() -> None:
    from experiments.config.build import build, with_num_classes
    from experiments.config.rows import compose_row

    config = with_num_classes(compose_row("mini", "retinanet", []), 3)
    with pytest.raises(UserError, match="a RetinaNet cannot be exported: the number of its detections depends on"):
        Graph(build(config, "model").eval(), "detections")


def detections(rows: list[tuple[float, float, int]]) -> list[Tensor]:
    boxes = torch.tensor([[[x, 0.0, x + 1, 1] for x, _, _ in rows]])
    scores = torch.tensor([[score for _, score, _ in rows]])
    return [boxes, scores, torch.tensor([[label for _, _, label in rows]])]


def test_equal_scores_may_come_in_another_order() -> None:
    wanted = detections([(1, 0.9, 0), (5, 0.5, 1), (7, 0.5, 1), (3, 0.1, 0)])
    got = detections([(1, 0.9, 0), (7, 0.5, 1), (5, 0.5, 1), (9, 0.1, 0)])
    ours, theirs = same_order(wanted, got)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
    assert len(ours[0]) == 3, "the last may be another that is about as bad"
    got[0][0, 0, 0] += 4
    ours, theirs = same_order(wanted, got)
    assert float((ours[0] - theirs[0]).abs().max()) == 4, "a box that is elsewhere is not excused"
