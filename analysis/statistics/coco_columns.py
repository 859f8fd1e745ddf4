"""The annotations that a run was evaluated on and its detections, as columns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_rcnn.data.annotations import CocoAnnotations, read_annotations
from sparse_rcnn.data.boxes_outside import OUTSIDE
from sparse_rcnn.data.ids import Ids
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.reader import Run

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroundTruth:
    """The G boxes of N images, both in the order of the sorted ids; boxes of an image in the order of the file.

    Shapes: ``image_ids`` (N,), ``category_ids`` (K,) with ``class_names`` K; ``image_indices``, ``category_indices``
    (G,), positions in those; ``boxes_xywh_abs`` (G, 4) and ``areas`` (G,) in pixels; ``is_crowd`` (G,).

    ``image_id_names``, ``category_id_names``: the ids as the file spells them.
    """

    image_ids: IntArray
    category_ids: IntArray
    class_names: tuple[str, ...]
    image_indices: IntArray
    category_indices: IntArray
    boxes_xywh_abs: FloatArray
    areas: FloatArray
    is_crowd: npt.NDArray[np.bool_]
    image_id_names: Ids = field(default_factory=lambda: Ids.of([]))
    category_id_names: Ids = field(default_factory=lambda: Ids.of([]))

    @classmethod
    def of(cls, coco: CocoAnnotations, categories: Sequence[Mapping[str, Any]] | None = None) -> GroundTruth:
        """Annotations as a run evaluates them.

        Args:
            coco: of the images that it was evaluated on.
            categories: of the run, among them those of the annotations; None takes these.
        """
        names = {int(category["id"]): str(category["name"]) for category in categories or coco.categories}
        category_ids = np.array(sorted(names), np.int64)
        own_ids = np.array([category["id"] for category in coco.categories], np.int64)
        # By image, so that the order of images in the file makes no difference.
        order = np.argsort(coco.image_indices, kind="stable")
        return cls(
            coco.image_ids,
            category_ids,
            tuple(names[i] for i in category_ids.tolist()),
            coco.image_indices[order],
            np.searchsorted(category_ids, own_ids[coco.labels])[order],
            coco.boxes_xywh_abs[order],
            coco.areas[order],
            coco.is_crowd[order],
            coco.ids,
            coco.category_ids,
        )


@dataclass(frozen=True)
class FoundBoxes:
    """The D boxes that a run found.

    Shapes: ``image_indices``, ``category_indices``, ``scores`` (D,); ``boxes_xywh_abs`` (D, 4).
    """

    image_indices: IntArray
    category_indices: IntArray
    boxes_xywh_abs: FloatArray
    scores: FloatArray

    def __len__(self) -> int:
        return len(self.scores)

    def chosen(self, which: npt.NDArray[Any]) -> FoundBoxes:
        """Those of a mask or of indices."""
        return FoundBoxes(
            self.image_indices[which], self.category_indices[which], self.boxes_xywh_abs[which], self.scores[which]
        )


def columns_to_detections(truth: GroundTruth, columns: Iterable[npt.ArrayLike], source: str) -> FoundBoxes:
    """Detections from the columns image ids, category ids, boxes (xywh, pixels) and scores.

    Raises:
        UserError: an image or category that the ground truth lacks, or a score or box that is not a number; names
            ``source``.
    """
    image_ids, category_ids, boxes_xywh_abs, scores = columns
    boxes, numbers = np.asarray(boxes_xywh_abs, np.float64).reshape(-1, 4), np.asarray(scores, np.float64)
    found = []
    for name, ids, known in (("image", image_ids, truth.image_ids), ("category", category_ids, truth.category_ids)):
        values = np.asarray(ids, np.int64)
        positions = np.searchsorted(known, values).clip(max=max(len(known) - 1, 0))
        unknown = values[known[positions] != values] if len(known) else values
        if len(unknown):
            raise UserError(
                f"{source} has detections of {name} {unknown[0]}, which the annotations lack: give the annotation file "
                "that the run was evaluated on with --annotations"
            )
        found.append(positions)
    if not (np.isfinite(numbers).all() and np.isfinite(boxes).all()):
        raise UserError(f"{source} has a score or box that is no finite number: evaluate the run again")
    return FoundBoxes(found[0], found[1], boxes, numbers)


def load_ground_truth(run: Run, annotations: Path | None = None) -> GroundTruth:
    """The validation annotations of a run, found by their path in meta.json or given.

    A relative path is looked for here and in every folder above the run.

    Raises:
        UserError: the file is not found, is none, or is not what the run was evaluated on (by its fingerprint).
    """
    fingerprint, num_images, recorded = _validation_data(run)
    candidates = [annotations] if annotations is not None else _candidates(run, recorded)
    existing = [path for path in candidates if path.is_file()]
    if not existing:
        raise UserError(
            f"the validation annotations of {run.path}, {annotations or recorded}, are not found: "
            "give their file with --annotations"
        )
    for path in existing:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() == fingerprint:
            break
    else:
        raise UserError(
            f"{existing[0]} is not what {run.path} was evaluated on (its fingerprint is another): "
            "give the annotation file of that time with --annotations"
        )
    data = run.data.get("val", {})
    excluded = run.config.get("data", {}).get("excluded_categories") or []
    coco = read_annotations(path, True, excluded).raise_errors()
    left_out = data.get("left_out_image_ids", [])
    coco = coco.first_images(None if num_images is None else num_images + len(left_out))
    coco = coco.with_images(~np.isin(coco.image_ids, left_out))
    # The record has the boxes that were left out as the run found them: it knew sizes that the file may lack or have
    # otherwise. Runs from before the record were evaluated on all boxes.
    outside = [item for found in data.get("findings", []) if found["kind"] == OUTSIDE for item in found["items"]]
    coco = coco.with_boxes(~np.isin(coco.annotation_ids, outside))
    return GroundTruth.of(coco, data.get("categories"))


def load_detections(run: Run, truth: GroundTruth) -> FoundBoxes:
    """The detections of a finished run on its validation set.

    Raises:
        UserError: there are none, or they cannot be read or are of other images.
    """
    path = run.checked(layout.DETECTIONS)
    try:
        records = json.loads(path.read_bytes())
        columns = [[record[key] for record in records] for key in ("image_id", "category_id", "bbox", "score")]
        for i, names in ((0, truth.image_id_names), (1, truth.category_id_names)):
            if names.originals:
                columns[i] = names.numbers_of(columns[i]).tolist()
        return columns_to_detections(truth, columns, str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; is the run finished?") from error
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no COCO results list: {error!r}") from error


def load_stage_detections(run: Run, truth: GroundTruth) -> list[FoundBoxes]:
    """The detections of every stage of a finished run, the first stage's first.

    Raises:
        UserError: there are none (runs before November 2026 have none), or they cannot be read.
    """
    path = run.checked(layout.STAGE_DETECTIONS)
    if not path.is_file():
        raise UserError(f"{run.path} has no stage_detections.npz (an older or unfinished run): train it again")
    keys = ("stages", "image_ids", "category_ids", "boxes_xywh_abs", "scores")
    try:
        with np.load(path) as file:
            stages, *columns = (file[key] for key in keys)
    except Exception as error:  # zipfile, zlib and numpy each raise their own on a damaged archive
        raise UserError(f"{path} cannot be read: {error}") from error
    number = max(int(stages.max()) + 1 if len(stages) else 0, _num_stages(run))
    everything = columns_to_detections(truth, columns, str(path))
    return [everything.chosen(stages == s) for s in range(number)]


def check_same_data(runs: Sequence[Run]) -> None:
    """That runs were evaluated on the same images.

    Raises:
        UserError: they were not; names the first that differs.
    """
    first = _validation_data(runs[0])[:2]
    for run in runs[1:]:
        if _validation_data(run)[:2] != first:
            raise UserError(f"{run.path} and {runs[0].path} were evaluated on different data: they cannot be compared")


def _validation_data(run: Run) -> tuple[str, int | None, str | None]:
    data = run.meta.get("data")
    val = data.get("val") if isinstance(data, dict) else None
    if not isinstance(val, dict) or not isinstance(val.get("fingerprint"), str):
        raise UserError(f"{run.path / 'meta.json'} does not say what the run was evaluated on (data.val.fingerprint)")
    return val["fingerprint"], val.get("num_images"), val.get("annotations")


def _candidates(run: Run, recorded: str | None) -> list[Path]:
    if not recorded:
        return []
    path = run.path.resolve()
    return [Path(recorded), *(folder / recorded for folder in path.parents)]


def _num_stages(run: Run) -> int:
    """As the results have them, or the configuration of a run whose results do not: a stage may have found nothing."""
    value = run.config.get("num_stages")
    return max(value if isinstance(value, int) else 0, len(metric_keys.stages_in(run.results or {})))
