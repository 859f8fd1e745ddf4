"""A run's views: what its detector makes of a few validation images, stage by stage (docs/run_directory.md)."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparse_rcnn.atomic import replacing, write_bytes_atomic
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.image import read_image
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.image_detection import StagePredictions

MAX_PICTURE_SIDE = 640


@dataclass(frozen=True)
class View:
    """One validation image with everything a picture of the cascade needs; boxes in pixels of the image.

    Shapes: ``image`` (3, H, W) uint8; ``truth_boxes_xyxy_abs`` (M, 4), ``truth_labels`` (M,).
    """

    image_id: int
    file_name: str
    image: Tensor
    class_names: list[str]
    predictions: StagePredictions
    truth_boxes_xyxy_abs: Tensor
    truth_labels: Tensor

    def to_json(self, step: int) -> dict[str, Any]:
        """The content of ``views/<image id>.json``."""
        found = self.predictions
        height, width = self.image.shape[-2:]
        return {
            "step": step,
            "image_id": self.image_id,
            "file_name": self.file_name,
            "height": height,
            "width": width,
            "class_names": self.class_names,
            "ground_truth": {
                "boxes_xyxy_abs": _rounded(self.truth_boxes_xyxy_abs, 1),
                "labels": self.truth_labels.tolist(),
            },
            "proposals_xyxy_abs": _rounded(found.proposals_xyxy_abs, 1),
            "stages": [
                {"boxes_xyxy_abs": _rounded(boxes, 1), "scores": _rounded(scores, 4), "labels": labels.tolist()}
                for boxes, scores, labels in zip(found.boxes_xyxy_abs, found.scores, found.labels, strict=True)
            ],
            "responses": None if found.responses is None else _packed(found.responses),
        }


def view_images(model: SparseRCNN, dataset: CocoDetection, num_images: int) -> list[View]:
    """Views of the first images of a data set; the model keeps its mode and no random number is drawn."""
    views = []
    for index in range(min(num_images, len(dataset))):
        height, width = (int(side) for side in dataset.image_sizes_hw[index])
        image = read_image(dataset.images_path / dataset.file_names[index], dataset.image_ids[index], (height, width))
        views.append(
            View(
                dataset.image_ids[index],
                dataset.file_names[index],
                image,
                dataset.class_names,
                model.predict_stages(image),
                *dataset.ground_truth(index),
            )
        )
    return views


def write_views(folder: Path, views: Sequence[View], step: int) -> None:
    """Write each view's numbers and, once, its picture."""
    for view in views:
        picture = folder / f"{view.image_id}.jpg"
        if not picture.exists():
            image = Image.fromarray(view.image.permute(1, 2, 0).contiguous().numpy())
            image.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
            with replacing(picture) as temporary:
                image.save(temporary, format="JPEG", quality=90)
        content = json.dumps(view.to_json(step), separators=(",", ":"), allow_nan=False)
        write_bytes_atomic(folder / f"{view.image_id}.json", content.encode())


def _rounded(values: Tensor, num_digits: int) -> Any:
    # In Python and not in float32, whose 0.1 is written 0.10000000149.
    if values.ndim > 1:
        return [_rounded(row, num_digits) for row in values]
    return [round(value, num_digits) for value in values.nan_to_num().tolist()]


def _packed(responses: Tensor) -> dict[str, Any]:
    """(S, P, h, w) as bytes; 255 is the largest response of each stage."""
    largest = responses.flatten(1).amax(1).clamp(min=1e-12)
    levels = (255 * responses / largest[:, None, None, None]).round().to(torch.uint8)
    return {"shape": list(levels.shape), "uint8_base64": base64.b64encode(levels.numpy().tobytes()).decode()}
