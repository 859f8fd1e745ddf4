"""Every compared detector trains, resumes, is evaluated, predicts and is shown as Sparse R-CNN is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.__main__ import main as analyse
from experiments import evaluate, predict
from sparse_rcnn.data.image import read_image
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import metric_keys
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.views import read_view, view_ids
from sparse_rcnn.weights import save_detector
from tests.support import training
from tests.support.compared_detectors import DETECTORS, WITH_STAGES, overrides
from tests.support.resumes import assert_same, die_in_last_step
from tests.support.wandb_files import WANDB, hide_keys, records

EXTRA = ("eval.every_epochs=1", "train.ema_decay=0.9")


@pytest.fixture(scope="module")
def runs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared") / "runs"


@pytest.fixture(scope="module", params=DETECTORS)
def run(request: pytest.FixtureRequest, runs_root: Path) -> Path:
    """A finished tiny run of each detector, evaluated twice."""
    return training.train(overrides(request.param, runs_root, *EXTRA))


def row_of(run: Path) -> str:
    return str(json.loads((run / "meta.json").read_text())["experiment"])


def test_a_run_has_its_numbers_and_files(run: Path) -> None:
    results = Run(run).results
    assert results is not None
    assert 0 <= results[metric_keys.AP] <= 1
    assert results[metric_keys.FORWARD_GFLOPS] > 0
    assert results[metric_keys.FPS] > 0
    has_stages = row_of(run) in WITH_STAGES
    assert bool(metric_keys.stages_in(results)) == has_stages
    losses = training.losses(run)
    assert sorted(losses) == list(range(1, training.NUM_STEPS + 1))
    for metrics in losses.values():
        assert all(math.isfinite(value) for value in metrics.values())
        assert any(key.startswith("train/stage_") for key in metrics) == has_stages
    for name in ("model.safetensors", "detections.json", "detections.png", "stage_detections.npz"):
        assert (run / name).stat().st_size > 0


def test_a_run_that_died_ends_as_one_that_did_not(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = overrides(row_of(run), tmp_path / "runs", *EXTRA)
    die_in_last_step(arguments, monkeypatch)
    assert_same(training.train(arguments), run)


def test_the_evaluate_command_gives_the_numbers_of_the_run(run: Path, tmp_path: Path) -> None:
    evaluate.main([str(run), "--out", str(tmp_path), "--num-workers", "0", "--all-stages", "--backend", "pycocotools"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    results = Run(run).results
    assert results is not None
    assert metrics[metric_keys.AP] == pytest.approx(results[metric_keys.AP], abs=1e-9)
    assert metric_keys.stages_in(metrics) == metric_keys.stages_in(results)
    # An AP of 0 is soon equal.
    found, expected = (json.loads((f / "detections.json").read_text()) for f in (tmp_path, run))
    assert len(found) == len(expected) > 0
    for key in ("score", "category_id", "image_id"):
        np.testing.assert_allclose([d[key] for d in found], [d[key] for d in expected], rtol=1e-4, atol=1e-5)


def test_the_predict_command_draws_and_writes(run: Path, tmp_path: Path) -> None:
    images = training.data_root() / "val"
    predict.main([str(run), str(images), "--out", str(tmp_path / "out"), "--score-threshold", "0"])
    records_ = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert len(records_) == 6
    for record in records_:
        assert record["scores"] == sorted(record["scores"], reverse=True)
        with Image.open(tmp_path / "out" / record["picture"]) as picture:
            assert picture.size[0] * record["height"] == picture.size[1] * record["width"]
    assert sum(len(record["scores"]) for record in records_) > 0


def test_commands_refuse_weights_of_a_training_that_diverged(run: Path, tmp_path: Path) -> None:
    detector = Detector.from_pretrained(run)
    assert detector.card is not None
    layer = next(n for n in reversed(list(detector.class_tensors())) if n.endswith("bias") and "bbox" not in n)
    with torch.no_grad():
        detector.get_parameter(layer)[0] = math.nan
    path = str(tmp_path / "nan.safetensors")
    save_detector(detector, detector.card, Path(path))
    message = (
        r"nan\.safetensors: (detections|stage \d): NaN or infinity in logits: "
        r"take weights of a training that did not diverge, and finite images$"
    )
    val = training.data_root() / "val"
    with pytest.raises(UserError, match=message):
        predict.main([path, str(val), "--out", str(tmp_path / "out")])
    given = ["--annotations", str(training.data_root() / "instances_val.json"), "--images", str(val)]
    for command in (predict, evaluate):
        with pytest.raises(UserError, match=message):
            command.main([path, *given, "--num-workers", "0", "--out", str(tmp_path / "out")])
    assert not list(tmp_path.rglob("*.json"))


def test_a_training_that_diverged_in_its_last_step_is_one_line(run: Path, tmp_path: Path) -> None:
    arguments = overrides(row_of(run), tmp_path, "optim.lr=1e38", "schedule.length=1", "schedule.num_warmup_steps=0")
    with pytest.raises(UserError, match=r"^evaluation: \w+: NaN or infinity in \w+ at step 1 with lr \S+: lower the"):
        training.train(arguments)
    assert training.status(training.only_run(tmp_path))["state"] == "failed"


def test_views_are_those_of_the_saved_detector(run: Path) -> None:
    model = Detector.from_pretrained(run)
    ids = view_ids(Run(run))
    assert len(ids) == 2
    for image_id in ids:
        view = read_view(Run(run), image_id)
        found = model.predict_stages(read_image(training.data_root() / "val" / view.file_name))
        assert view.proposals_xyxy_abs is None
        np.testing.assert_allclose(view.scores, found.scores, atol=2e-4)
        num_stages = {"cascade_rcnn": 3}.get(row_of(run), 2 if row_of(run) in WITH_STAGES else 1)
        assert view.boxes_xyxy_abs.shape == found.boxes_xyxy_abs.shape
        assert len(view.boxes_xyxy_abs) == num_stages
        for boxes, wanted in zip(view.boxes_xyxy_abs, found.boxes_xyxy_abs.numpy(), strict=True):
            # Scores that are equal but for rounding come in any order, and NMS takes another one of two.
            distances = np.abs(boxes[:, None] - wanted[None]).max(-1)
            assert (distances.min(0) < 0.1).mean() > 0.9
            assert (distances.min(1) < 0.1).mean() > 0.9


def test_a_weights_file_and_back(run: Path, tmp_path: Path) -> None:
    model = Detector.from_pretrained(run)
    assert model.card is not None
    save_detector(model, model.card, tmp_path / "again.safetensors")
    again = Detector.from_pretrained(tmp_path / "again.safetensors")
    assert again.card == model.card
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    found, wanted = again.predict(image), model.predict(image)
    assert torch.equal(found.boxes_xyxy_abs, wanted.boxes_xyxy_abs)
    assert torch.equal(found.scores, wanted.scores)
    assert len(found) <= model.max_detections


def test_the_dashboard_and_the_tables_hold_all(run: Path, runs_root: Path, tmp_path: Path) -> None:
    assert analyse(["dashboard", "--runs", str(runs_root), "--out", str(tmp_path / "page.html")]) == 0
    assert row_of(run) in (tmp_path / "page.html").read_text()
    assert analyse(["errors", str(run), "--out", str(tmp_path / "errors.txt")]) == 0


@pytest.mark.slow
def test_a_sweep_of_all_with_wandb(
    runs_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hide_keys(monkeypatch, tmp_path_factory.mktemp("home"))
    root = tmp_path / "runs"
    # Of axes that not every detector has none can be set for all rows: their sizes are those of the recipe.
    common = [
        *training.GENERATOR, f"data.root={training.data_root()}",
        *(o for o in training.DETECTOR if o.partition("=")[0] not in training.AXES),
        *training.TRAINING, f"runs_root={root}", *WANDB, "hydra/launcher=basic", "sweep=detectors",
    ]  # fmt: skip
    rows = [row for row in DETECTORS if row != "detr_without_position"]
    process = training.start(["-m", *common, f"experiment={','.join(rows)}"], WANDB_MODE="offline")
    code, out, err = training.finish(process, timeout=600)
    assert code == 0, out + err
    names = set()
    for path in root.glob("*/*/wandb/*/*.wandb"):
        (record,) = records(path, "run")
        names.add(record.display_name)
        assert record.run_group == "detectors"
    assert names == {f"{row}-seed0" for row in rows}
