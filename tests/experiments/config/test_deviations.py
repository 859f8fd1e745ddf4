"""What overrides make of an experiment: said where it changes the result, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config.rows import deviations_of
from experiments.config.validation import validate
from sparse_rcnn.rundir.reader import Run
from tests.support import training


def of(*overrides: str) -> list[str] | None:
    return deviations_of(validate(training.composed(overrides)))


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=baseline",),
        ("experiment=head_attention", "recipe=mini"),
        ("experiment=num_proposals_300_crop", "recipe=paper", "data.root=/data/coco", "weights.backbone=/w.pth"),
        ("experiment=stages_1", "seed=3", "log=none", "runs_root=/r", "data.num_workers=0", "eval.every_epochs=1"),
        # One's own data to name.
        (
            "recipe=photos",
            "data.name=blood",
            *(f"data.{split}.{what}=/data/{split}" for split in ("train", "val") for what in ("annotations", "images")),
        ),
    ],
)
def test_plain_runs_have_none(overrides: tuple[str, ...]) -> None:
    assert of(*overrides) == []


def test_without_a_file_of_that_name_there_is_nothing_to_compare_with() -> None:
    assert of("experiment_name=mine", "num_stages=1") is None


def test_what_changes_the_result_is_said() -> None:
    assert of("num_stages=1", "optim.lr=1e-3", "seed=4") == ["num_stages: 3 -> 1", "optim.lr: 0.0005 -> 0.001"]
    assert of("recipe=paper", "data.root=/data/coco", "weights.backbone=null") == ['weights.backbone: "given" -> null']
    assert of("weights.detector=/trained.safetensors") == ['weights.detector: null -> "given"']
    (line,) = of("experiment=stages_1", "schedule.length=100")
    assert line.startswith("schedule.length: 2500 -> 100")
    assert any(line.startswith("data.name: ") for line in of("data=coco", "data.root=/data/coco") or ())


def test_a_run_has_them_in_its_directory_for_each_name(tmp_path: Path) -> None:
    path = training.train(training.overrides(tmp_path))
    assert training.train(training.overrides(tmp_path, "experiment=stages_6")) == path
    found = Run(path).deviations
    assert set(found) == {"baseline", "stages_3", "stages_6"}  # under mini the baseline is stages_3
    assert "num_stages: 3 -> 2" in found["baseline"]
    assert "num_stages: 6 -> 2" in found["stages_6"]
