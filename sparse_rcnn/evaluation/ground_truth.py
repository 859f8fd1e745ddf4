"""The ground truth of an evaluation: what the backends need of annotations, as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_rcnn.data.annotations import CocoAnnotations, read_annotations
from sparse_rcnn.data.boxes_outside import without_boxes_outside
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

    Args: ``annotations`` as read, a path or the loaded JSON; ``image_ids`` the images to evaluate, all for None.
    Attributes: ``image_ids``, ``category_ids`` sorted; ``class_names`` in the order of ``category_ids``;
    ``annotations``, ``areas`` (N,) in square pixels and ``is_crowd`` (N,).
    Raises: DataError that names the file and the id for anything an evaluation cannot work with.
    """

    def __init__(
        self,
        annotations: CocoAnnotations | Path | str | Mapping[str, Any],
        image_ids: Sequence[int] | None = None,
    ) -> None:
        if isinstance(annotations, CocoAnnotations):
            coco = annotations
        else:
            coco = without_boxes_outside(read_annotations(annotations, drop_degenerate_boxes=True))
            coco.findings.warn()
        coco.raise_errors()
        self.source, self._coco = coco.source, coco
        self.known_image_ids = frozenset(coco.image_ids.tolist())
        chosen = np.ones(len(coco.image_ids), np.bool_)
        if image_ids is not None:
            numbers, known = coco.ids.find(list(image_ids))
            if not known.all():
                first = image_ids[int(np.argmin(known))]
                raise DataError(f"{self.source}: no image with id {first}, which image_ids asks for")
            chosen = np.isin(coco.image_ids, numbers)
        coco = coco.with_images(chosen)
        self.image_ids = tuple(coco.image_ids.tolist())
        ids = np.array([category["id"] for category in coco.categories], np.int64)
        order = np.argsort(ids)
        self.category_ids = tuple(ids[order].tolist())
        self.class_names = _distinct_names([(int(ids[i]), coco.categories[i]["name"]) for i in order])
        self.annotations = BoxColumns(coco.image_indices, np.argsort(order)[coco.labels], coco.boxes_xywh_abs)
        self.areas, self.is_crowd = coco.areas, coco.is_crowd
        self.image_index = {image_id: i for i, image_id in enumerate(self.image_ids)}
        self.category_index = {category_id: i for i, category_id in enumerate(self.category_ids)}

    def image_indices_of(self, ids: Sequence[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Places among ``image_ids`` of ids as the file or a results file spells them, and which ids exist.

        -1 marks images that the file has and the evaluation leaves out.
        """
        numbers, known = self._coco.ids.find(ids)
        return np.array([self.image_index.get(n, -1) for n in numbers.tolist()], np.int64), known

    def category_indices_of(self, ids: Sequence[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Places among ``category_ids`` of ids as the file or a results file spells them, and which ids exist."""
        numbers = self._coco.category_ids.numbers_of(ids)
        indices = [self.category_index.get(number, -1) for number in numbers.tolist()]
        return np.array(indices, np.int64), np.array([index >= 0 for index in indices], np.bool_)


def _distinct_names(categories: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    """One name a category; names that repeat get their id, so that no class hides another."""
    counts = Counter(name for _, name in categories)
    names = [f"{name} ({i})" if counts[name] > 1 else name for i, name in categories]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in categories]
    return tuple(names)
