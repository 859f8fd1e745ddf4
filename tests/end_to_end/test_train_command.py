"""python -m experiments.train from end to end: what it leaves, what it says, and the recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.rundir.reader import Run
from tests.support import training

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@pytest.fixture(scope="module")
def command_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run of the real command in a process of its own: directory, stdout, stderr."""
    root = tmp_path_factory.mktemp("command")
    process = training.start(training.overrides(root, "eval.every_epochs=1", "log.progress=true", "data.num_workers=1"))
    code, out, err = training.finish(process)
    assert code == 0, err
    return training.only_run(root), out, err


def test_the_command_ends_with_a_table_the_directory_and_the_picture(
    command_run: tuple[Path, str, str],
) -> None:
    run, out, err = command_run
    assert "Traceback" not in err
    assert "Warning" not in err
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "time", "stage 0", "detector"):
        assert name in out
    assert f"run directory: {run}" in out
    assert f"detections:    {run / 'detections.png'}" in out
    assert "step 6/6" in err  # no terminal: lines in place of a bar
    assert "step 4: val AP" in err


CHECKPOINT = ("digests.json", "model.safetensors", "training_state.pt")


def test_all_files_of_a_finished_run_are_there(command_run: tuple[Path, str, str]) -> None:
    run, _, _ = command_run
    files = sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file())
    assert files == [
        *(f"checkpoints/step_0000000{s}/{f}" for s in (4, 6) for f in CHECKPOINT),
        "config.json",
        "data.json",
        "detections.json",
        "detections.png",
        "digests.json",
        "eval/step_00000004.json",
        "eval/step_00000006.json",
        "experiments.json",
        "lock",
        "meta.json",
        "metrics.jsonl",
        "model.safetensors",
        "overrides.txt",
        "results.json",
        "stage_detections.npz",
        "status.json",
        *(f"views/{image_id}.{kind}" for image_id in (17, 18) for kind in ("jpg", "json")),
    ]
    status = training.status(run)
    assert (status["state"], status["step"], status["num_steps"], status["epoch"]) == ("finished", 6, 6, 1.5)


def test_results_hold_the_twelve_numbers_of_every_stage_time_and_size(
    command_run: tuple[Path, str, str],
) -> None:
    run, _, _ = command_run
    results = Run(run).results
    assert results is not None
    names_300 = tuple("AR300" if name == "AR100" else name for name in COCO_NAMES)
    expected = {f"val/bbox/{n}" for n in COCO_NAMES} | {f"val/bbox_maxdets300/{n}" for n in names_300}
    expected |= {f"val/stage_{s}/{n}" for s in (0, 1) for n in COCO_NAMES}
    expected |= {"train/time/seconds", "train/speed/images_per_second", "model/speed/fps"}
    expected |= {"model/size/num_parameters", "model/size/num_trainable_parameters"}
    expected |= {"model/cost/forward_gflops", "model/cost/roi_pooling_gflops"}
    assert set(results) == expected
    assert all(isinstance(value, (int, float)) for value in results.values())
    assert all(results[f"val/stage_1/{n}"] == results[f"val/bbox/{n}"] for n in COCO_NAMES)
    model = SparseRCNN.from_pretrained(run / "model.safetensors")
    assert results["model/size/num_parameters"] == sum(p.numel() for p in model.parameters())
    assert results["train/time/seconds"] > 0
    assert results["train/speed/images_per_second"] == pytest.approx(6 * 4 / results["train/time/seconds"], rel=0.01)
    assert results["model/speed/fps"] > 0


def test_evaluations_hold_metrics_and_classes(command_run: tuple[Path, str, str]) -> None:
    run, _, _ = command_run
    results = training.results(run)
    ground_truth = json.loads((training.data_root() / "instances_val.json").read_text())
    for step, epoch, backend in ((4, 1.0, "hotcoco"), (6, 1.5, "pycocotools")):
        evaluation = json.loads((run / "eval" / f"step_{step:08d}.json").read_text())
        assert (evaluation["step"], evaluation["epoch"], evaluation["split"]) == (step, epoch, "val")
        assert evaluation["backend"] == backend
        assert set(evaluation["per_class"]) == {c["name"] for c in ground_truth["categories"]}
        assert all(set(values) == {"AP", "AP50"} for values in evaluation["per_class"].values())
        assert set(evaluation["metrics"]) == {k for k in results if k.startswith("val/")}
    assert evaluation["metrics"] == {k: v for k, v in results.items() if k.startswith("val/")}
    events = Run(run).events("eval")
    assert [event["step"] for event in events] == [4, 6]
    assert events[-1]["metrics"] == evaluation["metrics"]


def test_the_detections_are_those_that_were_evaluated(command_run: tuple[Path, str, str]) -> None:
    """pycocotools, called as any user would, finds the numbers of results.json in the files."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    run, _, _ = command_run
    truth = COCO(str(training.data_root() / "instances_val.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(run / "detections.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    results = training.results(run)
    # Annotation id 0 counts as never found in pycocotools; ours start at 1.
    assert [results[f"val/bbox/{n}"] for n in COCO_NAMES] == pytest.approx(list(evaluation.stats), abs=1e-12)


def test_the_picture_opens(command_run: tuple[Path, str, str]) -> None:
    run, _, _ = command_run
    with Image.open(run / "detections.png") as picture:
        picture.load()
        assert min(picture.size) >= 64


def test_meta_says_where_it_came_from(command_run: tuple[Path, str, str]) -> None:
    run, _, _ = command_run
    meta = json.loads((run / "meta.json").read_text())
    assert (meta["experiment"], meta["recipe"], meta["device"], meta["world_size"]) == (
        "baseline",
        "mini",
        "cpu",
        1,
    )
    assert meta["data"]["train"]["num_images"] == 16
    assert meta["data"]["val"]["num_images"] == 6
    assert len(meta["data"]["val"]["fingerprint"]) == 64
    assert meta["resumes"] == []
    overrides = (run / "overrides.txt").read_text().splitlines()
    assert "eval.every_epochs=1" in overrides
    assert "log.progress=true" in overrides


def test_the_weights_say_what_they_detect(command_run: tuple[Path, str, str]) -> None:
    run, _, _ = command_run
    model = SparseRCNN.from_pretrained(run / "model.safetensors")
    ground_truth = json.loads((training.data_root() / "instances_val.json").read_text())
    assert model.card is not None
    assert model.card.category_ids == sorted(c["id"] for c in ground_truth["categories"])
    assert (model.card.short_side, model.card.max_long_side) == (64, 96)


# --- what changes with the configuration -------------------------------------------------------------------


def test_the_moving_average_is_what_is_saved_and_evaluated(tmp_path: Path) -> None:
    plain = training.train(training.overrides(tmp_path / "plain"))
    average = training.train(training.overrides(tmp_path / "ema", "train.ema_decay=0.5"))
    # Training itself is the same; what comes out of it is not.
    assert training.losses(plain) == training.losses(average)
    last = {
        run: training.weights(max((run / "checkpoints").iterdir()) / "model.safetensors") for run in (plain, average)
    }
    assert training.equal(last[plain], last[average])
    assert training.equal(training.weights(plain / "model.safetensors"), last[plain])
    saved = training.weights(average / "model.safetensors")
    ema = training.newest_state(average)["ema"]
    assert all(torch.equal(saved[name], ema[f"module.{name}"]) for name in saved)
    assert not training.equal(saved, last[average])


def test_training_starts_from_the_weights_of_a_detector(tmp_path: Path) -> None:
    first = training.train(training.overrides(tmp_path / "first"))
    weights = first / "model.safetensors"
    frozen = training.train(
        training.overrides(tmp_path / "second", f"weights.detector={weights}", "optim.lr=0", "optim.weight_decay=0")
    )
    assert frozen.name != first.name
    assert training.equal(training.weights(frozen / "model.safetensors"), training.weights(weights))
    assert {k: v for k, v in training.results(frozen).items() if "bbox/" in k} == {
        k: v for k, v in training.results(first).items() if "bbox/" in k
    }


def test_overfit_trains_and_evaluates_on_the_same_few_images(tmp_path: Path) -> None:
    arguments = ["recipe=overfit", *training.overrides(tmp_path), "data.train.max_images=4", "schedule.length=40"]
    run = training.train([*arguments, "train.log_every=10", "train.checkpoint_every=null"])
    meta = json.loads((run / "meta.json").read_text())
    assert meta["recipe"] == "overfit"
    assert meta["data"]["train"] == meta["data"]["val"]
    assert meta["data"]["val"]["num_images"] == 4
    losses = training.losses(run)
    assert sorted(losses) == [10, 20, 30, 40]
    assert losses[40]["train/loss/total"] < 0.8 * losses[10]["train/loss/total"]
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step_00000040"]
    found = {d["image_id"] for d in json.loads((run / "detections.json").read_text())}
    image_ids = sorted(
        i["id"] for i in json.loads((training.data_root() / "instances_train.json").read_text())["images"]
    )
    assert found == set(image_ids[:4])


@pytest.mark.parametrize(
    "extra",
    [
        ("train.precision=bf16",),
        ("train.activation_checkpointing=true", "train.channels_last=false"),
        ("optim=adamw", "train.lr_scaling=sqrt", "train.backbone_lr_multiplier=0.1", "train.clip_norm=null"),
        ("schedule.unit=epochs", "schedule.length=1", "eval.backend=pycocotools", "eval.num_pictures=0"),
        ("roi_pooler=roi_align", "train.batch_size=32"),  # more than there are images
    ],
    ids=lambda extra: extra[0],
)
def test_other_settings_train_too(tmp_path: Path, extra: tuple[str, ...]) -> None:
    run = training.train(training.overrides(tmp_path, *extra))
    assert training.status(run)["state"] == "finished"
    assert (run / "detections.png").exists() == ("eval.num_pictures=0" not in extra)


def test_what_does_not_change_the_result_does_not_change_the_identity(tmp_path: Path) -> None:
    runs = [
        training.train(training.overrides(tmp_path / str(i), *extra))
        for i, extra in enumerate([(), ("eval.every_epochs=1", "eval.backend=pycocotools", "train.log_every=2")])
    ]
    assert runs[0].name == runs[1].name
    assert training.equal(*(training.weights(run / "model.safetensors") for run in runs))
    assert training.results(runs[0]) == training.results(runs[1])


@pytest.mark.slow
def test_a_sweep_trains_one_run_after_the_other(tmp_path: Path) -> None:
    process = training.start(["-m", *training.overrides(tmp_path, "seed=0,1")])
    code, _, err = training.finish(process)
    assert code == 0, err
    runs = sorted(p.parent for p in tmp_path.glob("*/*/results.json"))
    assert [run.name[-5:] for run in runs] == ["seed0", "seed1"]
