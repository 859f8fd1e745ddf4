"""The files that end a run: detections, their picture, the final numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.run.cost import cost_of
from experiments.run.evaluation_record import Evaluation
from sparse_rcnn.atomic import replacing, write_bytes_atomic
from sparse_rcnn.data.annotations import CocoAnnotations
from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.image import read_image
from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.writer import RunDirectory
from sparse_rcnn.speed import frames_per_second
from sparse_rcnn.structures import Detections
from sparse_rcnn.visualize import draw_detections, grid


def write_detections(path: Path, table: DetectionTable, coco: CocoAnnotations) -> None:
    """Write COCO results, one detection a line, atomically, with the ids as the annotation file spells them."""
    records = table.to_coco()
    if coco.ids.originals or coco.category_ids.originals:
        for record in records:
            record["image_id"] = coco.ids.original(record["image_id"])
            record["category_id"] = coco.category_ids.original(record["category_id"])
    lines = ",\n".join(json.dumps(record, allow_nan=False) for record in records)
    write_bytes_atomic(path, f"[\n{lines}\n]\n".encode())


def write_stage_detections(path: Path, tables: Sequence[DetectionTable]) -> None:
    """Write the detections of every stage as compressed columns, atomically."""
    columns: dict[str, Any] = {
        "stages": np.repeat(np.arange(len(tables), dtype=np.uint8), [len(table) for table in tables]),
        "image_ids": np.concatenate([table.image_ids for table in tables]),
        "category_ids": np.concatenate([table.category_ids for table in tables]),
        "boxes_xywh_abs": np.concatenate([table.boxes_xywh_abs for table in tables]).astype(np.float32),
        "scores": np.concatenate([table.scores for table in tables]).astype(np.float32),
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **columns)


def write_final_results(
    directory: RunDirectory,
    evaluation: Evaluation,
    model: DetectorModule,
    dataset: CocoDetection,
    config: dict[str, Any],
    train_seconds: float,
    num_images_seen: int,
) -> dict[str, float]:
    """Detections, their picture and the results of a finished run; ``results.json`` is written last.

    ``num_images_seen``: by the whole training, repetitions counted.
    """
    table = evaluation.tables[-1]
    write_detections(directory.path / layout.DETECTIONS, table, dataset.coco)
    write_stage_detections(directory.path / layout.STAGE_DETECTIONS, evaluation.tables)
    settings = config["eval"]
    if settings["num_pictures"]:
        picture = draw_first_images(dataset, table, settings["num_pictures"], settings["picture_score_threshold"])
        with replacing(directory.path / layout.PICTURE) as temporary:
            picture.save(temporary, format="PNG")
    cost, first = cost_of(config), collate([dataset[0]], model.size_divisor)
    results = {
        **evaluation.flat(),
        metric_keys.TRAIN_SECONDS: round(train_seconds, 3),
        metric_keys.IMAGES_PER_SECOND: num_images_seen / train_seconds,
        metric_keys.NUM_PARAMETERS: sum(p.numel() for p in model.parameters()),
        metric_keys.NUM_TRAINABLE_PARAMETERS: sum(p.numel() for p in model.parameters() if p.requires_grad),
        metric_keys.FORWARD_GFLOPS: cost.forward_flops / 1e9,
        metric_keys.ROI_POOLING_GFLOPS: cost.roi_pooling_flops / 1e9,
        metric_keys.FPS: frames_per_second(model, first, config["train"]["precision"]),
    }
    directory.write_results(results)
    return results


def draw_first_images(dataset: CocoDetection, table: DetectionTable, num_images: int, score_threshold: float) -> Any:
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
        image = read_image(
            dataset.images_path / dataset.file_names[index],
            dataset.image_ids[index],
            (height, width),
            dataset.pixel_range,
            dataset.max_megapixels,
        )
        truth = dataset.ground_truth(index)
        pictures.append(draw_detections(image, detections, dataset.class_names, score_threshold, truth))
    return grid(pictures, num_columns=4)
