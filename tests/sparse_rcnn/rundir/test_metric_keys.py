"""Keys of numbers."""

from __future__ import annotations

from sparse_rcnn.rundir import metric_keys


def test_keys_are_split_group_name() -> None:
    assert metric_keys.AP == metric_keys.bbox("AP") == "val/bbox/AP"
    assert metric_keys.bbox("AR100", "test") == "test/bbox/AR100"
    assert metric_keys.stage(3, "APs") == "val/stage_3/APs"
    assert metric_keys.loss("loss_l1") == "train/loss/loss_l1"
    assert metric_keys.stage_loss(2, "loss_giou") == "train/stage_2/loss_giou"


def test_stages_are_those_whose_ap_is_there() -> None:
    keys = [metric_keys.stage(index, "AP") for index in (11, 2, 0)]
    others = [
        *("val/stage_5/AP50", "val/stage_6/AP/x", "val/bbox/AP", "test/stage_7/AP"),
        *("train/stage_8/AP", "val/stage_/AP", "val/stage_1000/AP", "xval/stage_9/AP"),
    ]
    assert metric_keys.stages_in([*keys, *others]) == [0, 2, 11]
    assert metric_keys.stages_in([]) == []
