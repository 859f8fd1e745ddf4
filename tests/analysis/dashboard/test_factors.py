"""The keys in which the dashboard's configurations differ, and configurations stored compactly."""

from __future__ import annotations

import pytest

from analysis.dashboard.factors import compact, find_factors, flat_config
from tests.support.runs import config_without_stages, small_config


def test_keys_that_vary_together_are_one() -> None:
    grid = {"num_stages": 3, "model": {"num_stages": 3, "init": {"_target_": "a.GridInit", "rows": 4}}, "lr": 1}
    image = {"num_stages": 3, "model": {"num_stages": 3, "init": {"_target_": "a.ImageInit"}}, "lr": 1}
    none = {"num_stages": 3, "model": {"num_stages": 3, "init": None}, "lr": 1}
    six = {"num_stages": 6, "model": {"num_stages": 6, "init": {"_target_": "a.ImageInit"}}, "lr": 2}
    found = find_factors([flat_config(grid), flat_config(image), None, flat_config(six), flat_config(none)])
    assert found == [
        {"key": "model.init._target_", "label": "init", "also": ["model.init.rows"]},
        {"key": "lr", "label": "lr", "also": []},  # of the same runs as num_stages, but another thing
        {"key": "num_stages", "label": "num_stages", "also": ["model.num_stages"]},
    ]


def test_an_argument_that_varies_by_itself_is_a_factor() -> None:
    rows = [{"a": {"_target_": name, "x": x}} for name, x in [("A", 1), ("A", 2), ("B", 1)]]
    assert [factor["key"] for factor in find_factors([flat_config(row) for row in rows])] == ["a._target_", "a.x"]


@pytest.mark.parametrize(
    "path",
    ["seed", "runs_root", "log.progress", "data.root", "data.num_workers", "data.val.images", "train.device",
     "eval.backend", "data.generator.seed", "train.log_every", "experiment_name"],
)  # fmt: skip
def test_paths_and_logging_are_no_factors(path: str) -> None:
    assert find_factors([{path: 1, "dropout": 0}, {path: 2, "dropout": 0}]) == []


@pytest.mark.parametrize("path", ["train.batch_size", "dropout", "model.stage.dropout", "optim.lr", "seeds", "logits"])
def test_what_changes_a_result_is_one(path: str) -> None:
    assert [factor["key"] for factor in find_factors([{path: 1}, {path: 2}])] == [path]


def test_one_and_one_point_zero_are_equal() -> None:
    assert find_factors([flat_config({"a": {"b": 1, "c": [1.0]}}), flat_config({"a": {"b": 1.0, "c": [1]}})]) == []


def test_compact_configs_can_be_put_together_again() -> None:
    configs = [
        flat_config(small_config(num_stages=n, **more))
        for n, more in [(3, {}), (6, {}), (3, {"dropout": 0.1, "new": 1})]
    ]
    configs.append({"other": "program"})
    base, differences = compact([*configs, None])
    assert differences[-1] is None
    assert differences[0] == {"set": {}, "absent": []}
    for whole, difference in zip(configs, differences, strict=False):
        assert difference is not None
        kept = {key: value for key, value in base.items() if key not in difference["absent"]}
        assert {**kept, **difference["set"]} == whole


def test_detectors_are_one_factor_with_all_that_follows() -> None:
    one_shot = {"criterion": {"_target_": "library.BoxLoss", "l1_weight": 1}}
    runs = [
        small_config(criterion={"_target_": "library.SetLoss"}),
        small_config(num_stages=6, criterion={"_target_": "library.SetLoss"}),
        config_without_stages(**one_shot),
        config_without_stages(**one_shot, dropout=0.5, weights=None),  # null is as good as no key
    ]
    detector, dropout, stages = find_factors([flat_config(run) for run in runs])
    assert (detector["key"], detector["label"]) == ("model._target_", "detector")
    assert {"criterion._target_", "criterion.l1_weight", "model.nms_threshold"} <= set(detector["also"])
    assert "model.proposals.init._target_" in detector["also"]
    assert (dropout["key"], stages["key"], stages["also"]) == ("dropout", "num_stages", ["model.num_stages"])


def test_an_axis_that_the_other_detectors_lack_goes_with_the_detector() -> None:
    runs = [flat_config(small_config(num_proposals=20)), flat_config(config_without_stages())]
    (detector,) = find_factors(runs)
    assert {"num_stages", "num_proposals"} <= set(detector["also"])
    assert [factor["key"] for factor in find_factors([{**runs[0], "optim.lr": 1}, runs[1]])] == [
        "model._target_", "optim.lr",
    ]  # fmt: skip
