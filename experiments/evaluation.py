"""Evaluations as the run directory holds them, and the files that end a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.rundir import RunDirectory
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.image import read_image
from sparse_rcnn.detect import DetectionTable
from sparse_rcnn.evaluation import CocoEvaluator, CocoMetrics
from sparse_rcnn.structures import Detections
from sparse_rcnn.visualize import draw_detections, grid

MAX_DETS_300 = (1, 10, 300)


@dataclass(frozen=True)
class Evaluation:
    """COCO metrics of every stage on the validation images; the last stage's are the detector's."""

    stages: list[CocoMetrics]
    max_dets_300: CocoMetrics
    backend: str
    tables: list[DetectionTable]

    @property
    def last(self) -> CocoMetrics:
        return self.stages[-1]

    def flat(self) -> dict[str, float]:
        """All numbers under keys such as ``val/bbox/AP``, ``val/bbox_maxdets300/AP`` and ``val/stage_0/AP``."""
        flat = {**self.last.flat("val/bbox"), **self.max_dets_300.flat("val/bbox_maxdets300")}
        for s, metrics in enumerate(self.stages):
            flat.update(metrics.flat(f"val/stage_{s}"))
        return flat

    def to_json(self, step: int, epoch: float) -> dict[str, Any]:
        """The content of ``eval/step_*.json``, see docs/run_directory.md."""
        return {
            "step": step,
            "epoch": round(epoch, 6),
            "split": "val",
            "backend": self.backend,
            "metrics": self.flat(),
            "per_class": {
                name: {"AP": ap, "AP50": self.last.per_class_50[name]} for name, ap in self.last.per_class.items()
            },
        }


def evaluate_stages(
    tables: Sequence[DetectionTable], evaluator: CocoEvaluator, reference: bool
) -> Evaluation:
    """Evaluate every stage's detections.

    Args:
        tables: of the stages.
        evaluator: of the ground truth, with the backend for evaluations during training.
        reference: take the numbers of the last stage from pycocotools, whatever the backend.
    """
    stages = [evaluator.evaluate(table.to_coco()) for table in tables]
    last = tables[-1].to_coco()
    backend = evaluator.backend
    max_dets_300 = evaluator.evaluate(last, MAX_DETS_300)
    if reference and backend != "pycocotools":
        backend = "pycocotools"
        stages[-1] = CocoEvaluator(evaluator.ground_truth, backend).evaluate(last)
    return Evaluation(stages, max_dets_300, backend, list(tables))


def write_final_results(
    directory: RunDirectory,
    evaluation: Evaluation,
    model: nn.Module,
    dataset: CocoDetection,
    config: dict[str, Any],
    train_seconds: float,
) -> None:
    """Detections, their picture and the results of a finished run; ``results.json`` is written last."""
    table = evaluation.tables[-1]
    directory.write_json("detections.json", table.to_coco())
    settings = config["eval"]
    if settings["num_pictures"]:
        picture = draw_first_images(dataset, table, settings["num_pictures"], settings["picture_score_threshold"])
        picture.save(directory.path / "detections.png")
    results = {
        **evaluation.flat(),
        "train/time/seconds": round(train_seconds, 3),
        "model/size/num_parameters": sum(p.numel() for p in model.parameters()),
        "model/size/num_trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    directory.write_json("results.json", results)


def draw_first_images(
    dataset: CocoDetection, table: DetectionTable, num_images: int, score_threshold: float
) -> Any:
    """The first images of a data set with their detections and, dashed, their ground truth."""
    labels_of = {category_id: label for label, category_id in enumerate(dataset.category_ids)}
    pictures = []
    for index in range(min(num_images, len(dataset))):
        own = table.image_ids == dataset.image_ids[index]
        boxes = torch.from_numpy(table.boxes_xywh_abs[own]).float()
        labels = np.asarray([labels_of[c] for c in table.category_ids[own].tolist()], dtype=np.int64)
        detections = Detections(
            torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1),
            torch.from_numpy(table.scores[own]).float(),
            torch.from_numpy(labels),
        )
        height, width = (int(side) for side in dataset.image_sizes_hw[index])
        image = read_image(dataset.images_path / dataset.file_names[index], dataset.image_ids[index], (height, width))
        truth = dataset.ground_truth(index)
        pictures.append(draw_detections(image, detections, dataset.class_names, score_threshold, truth))
    return grid(pictures, num_columns=4)
