"""Whole calls against each other: evaluation by two libraries, training with and without W&B."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sparse_rcnn.rundir import layout


def evaluation() -> dict[str, Callable[[], Any]]:
    """COCO evaluation of 500 images with 100 detections each: pycocotools against hotcoco."""
    import numpy as np

    from sparse_rcnn.detection_table import DetectionTable
    from sparse_rcnn.evaluation import CocoEvaluator, CocoGroundTruth

    rng = np.random.default_rng(0)
    num_images, num_detections, num_classes = 500, 100, 20
    categories = [{"id": i + 1, "name": f"class_{i}"} for i in range(num_classes)]
    annotations = [
        {"id": k + 1, "image_id": k % num_images, "category_id": int(rng.integers(num_classes)) + 1,
         "bbox": [*rng.uniform(0, 400, 2).tolist(), *rng.uniform(10, 200, 2).tolist()], "iscrowd": 0}
        for k in range(7 * num_images)
    ]  # fmt: skip
    images = [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in range(num_images)]
    truth = CocoGroundTruth({"images": images, "annotations": annotations, "categories": categories})
    count = num_images * num_detections
    table = DetectionTable(
        np.repeat(np.arange(num_images), num_detections),
        rng.integers(1, num_classes + 1, count),
        np.concatenate((rng.uniform(0, 400, (count, 2)), rng.uniform(10, 200, (count, 2))), axis=1),
        rng.uniform(size=count),
    )
    evaluators = {backend: CocoEvaluator(truth, backend) for backend in ("pycocotools", "hotcoco")}
    return {f"eval.backend={name}": partial(e.evaluate, table) for name, e in evaluators.items()}


def logging() -> dict[str, Callable[[], Any]]:
    """50 training steps of recipe=mini: without W&B, without it once more, and with W&B offline."""
    import tempfile
    from pathlib import Path

    from experiments.config.build import build_datasets, with_num_classes
    from experiments.config.rows import compose_row
    from experiments.run.embedded_data import ensure_data
    from experiments.run.training import build_training
    from experiments.tracking.wandb_writer import WandbWriter
    from sparse_rcnn.distributed import init_world
    from sparse_rcnn.runlog import JsonlWriter, Writer

    folder = Path(tempfile.mkdtemp(prefix="sparse_rcnn_benchmark_"))
    config = compose_row("mini", "baseline", ["train.device=cpu"])
    ensure_data(config)
    train_set, val_set = build_datasets(config)
    complete = with_num_classes(config, train_set.num_classes)
    training = build_training(complete, train_set, val_set, init_world("cpu"))
    options = {key: value for key, value in config["log"]["writers"]["wandb"].items() if key != "_target_"}
    wandb_writer = WandbWriter(**{**options, "mode": "offline"}, run_path=folder, run_id="benchmark", config=complete)
    wandb_writer.started()
    jsonl = JsonlWriter(folder / layout.METRICS)
    sides: dict[str, list[Writer]] = {
        "log=none": [jsonl],
        "log=none, again": [jsonl],
        "log=wandb": [jsonl, wandb_writer],
    }

    def train(writers: list[Writer]) -> None:
        training.train_to(training.step + 50, writers)

    return {name: partial(train, writers) for name, writers in sides.items()}
