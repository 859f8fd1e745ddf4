"""The ground truth of an evaluation: what the backends need of a COCO annotation file, as arrays."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_rcnn.errors import DataError


@dataclass(frozen=True)
class BoxColumns:
    """Annotations or detections of N boxes in columns, with image and category *indices* for ids.

    Shapes: ``image_indices``, ``category_indices`` (N,) int64, positions in the sorted ids of the ground
    truth; ``boxes_xywh_abs`` (N, 4) float64 in pixels.
    """

    image_indices: npt.NDArray[np.int64]
    category_indices: npt.NDArray[np.int64]
    boxes_xywh_abs: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image_indices)


class CocoGroundTruth:
    """Ground truth of the chosen images of a COCO annotation file; build it once, evaluate often.

    Image and category ids are replaced by their rank among the sorted ids and annotation ids are dropped:
    backends sort by id, so nothing but the names changes, and negative or huge ids are safe in every backend.
    (pycocotools by itself counts an annotation with id 0 as never found; here it is found.)

    Args: ``annotations`` a path or the loaded JSON; ``image_ids`` the images to evaluate, all for None.
    Attributes: ``image_ids``, ``category_ids`` sorted; ``class_names`` in the order of ``category_ids``;
    ``annotations``, ``areas`` (N,) in square pixels and ``is_crowd`` (N,).
    Raises: DataError that names the file and the id for anything an evaluation cannot work with.
    """

    def __init__(self, annotations: Path | str | Mapping[str, Any], image_ids: Sequence[int] | None = None) -> None:
        if isinstance(annotations, Mapping):
            self.source, coco = "the annotations", annotations
        else:
            self.source, coco = os.fspath(annotations), _read_json(annotations)
        for key in ("images", "annotations", "categories"):
            if not isinstance(coco.get(key), list):
                raise DataError(f"{self.source}: no list '{key}': give annotations in COCO format")

        self.known_image_ids = frozenset(self._unique_ids(coco["images"], "image"))
        if image_ids is not None:
            for image_id in image_ids:
                if image_id not in self.known_image_ids:
                    raise DataError(f"{self.source}: no image with id {image_id}, which image_ids asks for")
        self.image_ids = tuple(sorted(self.known_image_ids if image_ids is None else set(image_ids)))
        self.image_index = {image_id: i for i, image_id in enumerate(self.image_ids)}
        self.category_ids = tuple(sorted(self._unique_ids(coco["categories"], "category")))
        self.category_index = {category_id: i for i, category_id in enumerate(self.category_ids)}
        names = {category["id"]: str(category.get("name", "class")) for category in coco["categories"]}
        self.class_names = _distinct_names([(i, names[i]) for i in self.category_ids])
        self._set_annotations(coco["annotations"])

    def _unique_ids(self, records: Iterable[Mapping[str, Any]], what: str) -> list[int]:
        ids = []
        for record in records:
            record_id = record.get("id") if isinstance(record, Mapping) else None
            if not isinstance(record_id, int) or isinstance(record_id, bool):
                raise DataError(f"{self.source}: {what} id {record_id!r} is not an integer: number the ids")
            ids.append(record_id)
        repeated = [i for i, count in Counter(ids).items() if count > 1]
        if repeated:
            raise DataError(f"{self.source}: {what} id {repeated[0]} occurs twice: make the ids unique")
        return ids

    def _set_annotations(self, records: Sequence[Mapping[str, Any]]) -> None:
        images, categories, boxes, areas, is_crowd = [], [], [], [], []
        for position, record in enumerate(records):
            if not isinstance(record, Mapping):
                raise DataError(f"{self.source}: annotations[{position}] is not an object: fix or drop it")
            name = f"{self.source}: annotation {record.get('id')!r}"
            image_id: Any = record.get("image_id")
            category_id: Any = record.get("category_id")
            if not is_in(image_id, self.known_image_ids):
                raise DataError(f"{name} is of image {image_id!r}, which is not in 'images': add or drop it")
            if not is_in(category_id, self.category_index):
                raise DataError(f"{name} has category {category_id!r}, which is not in 'categories': add or drop it")
            if image_id not in self.image_index:
                continue
            box: Any = record.get("bbox")
            if not is_box_xywh(box):
                raise DataError(
                    f"{name} has bbox {box!r}: give four finite numbers x, y, width and height (not negative)"
                )
            area = record.get("area", box[2] * box[3])
            if not is_finite_number(area):
                raise DataError(f"{name} has area {area!r}: give a finite number, or leave the area out")
            images.append(self.image_index[image_id])
            categories.append(self.category_index[category_id])
            boxes.append(box)
            areas.append(area)
            is_crowd.append(bool(record.get("iscrowd", 0)))
        self.annotations = BoxColumns(
            np.array(images, dtype=np.int64),
            np.array(categories, dtype=np.int64),
            np.array(boxes, dtype=np.float64).reshape(-1, 4),
        )
        self.areas = np.array(areas, dtype=np.float64)
        self.is_crowd = np.array(is_crowd, dtype=bool)


def is_box_xywh(box: Any) -> bool:
    """Whether ``box`` is four finite numbers x, y, width, height, the last two not negative."""
    if not isinstance(box, Sequence | np.ndarray) or len(box) != 4:
        return False
    return all(is_finite_number(value) for value in box) and box[2] >= 0 and box[3] >= 0


def is_finite_number(value: Any) -> bool:
    """Whether ``value`` is a number, neither NaN nor infinite."""
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)


def is_in(value: Any, ids: Container[int]) -> bool:
    """Whether ``value`` is one of the ids of a set or dict; a malformed file may hold a list for an id."""
    return isinstance(value, Hashable) and value in ids


def _read_json(path: Path | str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            coco = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): check the annotation path") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}): give annotations in COCO format") from None
    if not isinstance(coco, dict):
        raise DataError(f"{path}: holds a {type(coco).__name__}, not an object: give COCO annotations")
    return coco


def _distinct_names(categories: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    """One name a category; names that repeat get their id, so that no class hides another."""
    counts = Counter(name for _, name in categories)
    names = [f"{name} ({i})" if counts[name] > 1 else name for i, name in categories]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in categories]
    return tuple(names)
