"""A COCO file of three small images, and data sets made of such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.transforms import EvalTransform

AS_IS = EvalTransform(40, None)  # leaves the 40 x 60 images of these tests as they are


def image_record(image_id: int, **other: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.png", "height": 40, "width": 60, **other}


def box_record(annotation_id: int, image_id: int, category_id: int, bbox: Any, **other: Any) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": 1.0,
        "iscrowd": 0,
        **other,
    }


def small_set() -> dict[str, Any]:
    """Three images out of order, gaps in the category ids, a crowd box, an image without boxes."""
    return {
        "images": [image_record(70), image_record(5), image_record(9)],
        "annotations": [
            box_record(1, 70, 44, [10, 5, 20, 30]),
            box_record(2, 5, 7, [0.5, 1.5, 10, 10]),
            box_record(3, 70, 7, [50, 30, 30, 30]),
            box_record(4, 70, 44, [0, 0, 60, 40], iscrowd=1),
        ],
        "categories": [{"id": 44, "name": "zebra"}, {"id": 7, "name": "apple"}],
    }


def write_annotations(folder: Path, content: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_images(folder: Path, content: dict[str, Any]) -> Path:
    """Random pixels for every image record, under ``folder``/images."""
    for record in content["images"]:
        pixels = np.random.default_rng(record["id"]).integers(0, 256, (record["height"], record["width"], 3), np.uint8)
        path = folder / "images" / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder / "images"


def dataset(folder: Path, content: dict[str, Any], transforms: Any = AS_IS, **other: Any) -> CocoDetection:
    images = write_images(folder, content)
    arguments = {"drop_degenerate_boxes": False, "seed": 0, **other}
    return CocoDetection(write_annotations(folder, content), images, transforms, **arguments)
