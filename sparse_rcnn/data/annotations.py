"""COCO's annotation file, read and checked column by column: one reading for training and for evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rcnn.data.annotation_columns import (
    annotation_numbers,
    box_areas,
    category_names,
    crowd_flags,
    image_sides,
    reference_positions,
    usable_boxes,
)
from sparse_rcnn.data.box_column import read_boxes
from sparse_rcnn.data.findings import ERROR, LEFT_OUT, NOTE, Findings, counted, shortened
from sparse_rcnn.data.ids import Ids
from sparse_rcnn.data.image_names import name_of_record
from sparse_rcnn.data.records import Records, coco_object, load_json
from sparse_rcnn.errors import DataError


@dataclass(frozen=True)
class CocoAnnotations:
    """An annotation file as arrays, N images sorted by id and A annotations in the order of the file.

    Shapes: ``image_ids`` (N,); ``image_sizes_hw`` (N, 2), 0 where the file does not say; ``file_names`` N;
    ``annotation_ids``, ``image_indices`` (into the N images), ``labels`` (contiguous, in the order of ``categories``)
    and ``is_crowd`` (A,); ``boxes_xywh_abs`` (A, 4) and ``areas`` (A,) float64, pixels. ``categories`` are dictionaries
    of id and name, sorted by id.

    Attributes:
        source: the name of the file.
        fingerprint: the SHA-256 of the file, empty for content that is not a file.
        ids, category_ids: the ids of images and categories as the file spells them.
        has_annotations: whether the file has annotations at all (those of a test set have none).
        listed_image_ids: the ids of the images that the file lists and that were asked for, those left out among them.
        unknown_exclusions: categories to leave out that the file has not; a validation set may lack classes.
        findings: the faults, repairs and records left out; those of images to come are added.
    """

    source: str
    fingerprint: str
    categories: list[dict[str, Any]]
    image_ids: NDArray[np.int64]
    image_sizes_hw: NDArray[np.int64]
    file_names: list[str | None]
    annotation_ids: NDArray[np.int64]
    image_indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes_xywh_abs: NDArray[np.float64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    ids: Ids
    category_ids: Ids
    has_annotations: bool
    findings: Findings = field(repr=False)
    listed_image_ids: NDArray[np.int64]
    unknown_exclusions: tuple[str | int, ...] = ()

    @property
    def class_names(self) -> list[str]:
        return [category["name"] for category in self.categories]

    @property
    def num_objects(self) -> NDArray[np.int64]:
        """(N,) the boxes of each image, without crowd boxes."""
        return np.bincount(self.image_indices[~self.is_crowd], minlength=len(self.image_ids))

    def with_boxes(self, kept: NDArray[np.bool_]) -> CocoAnnotations:
        """The same with some of the annotations."""
        columns = ("annotation_ids", "image_indices", "labels", "boxes_xywh_abs", "areas", "is_crowd")
        return replace(self, **{name: getattr(self, name)[kept] for name in columns})

    def with_images(self, kept: NDArray[np.bool_]) -> CocoAnnotations:
        """The same with some of the images (N,) and their annotations."""
        if kept.all():
            return self
        mine = self.with_boxes(kept[self.image_indices])
        return replace(
            mine,
            image_ids=self.image_ids[kept],
            image_sizes_hw=self.image_sizes_hw[kept],
            file_names=[name for name, good in zip(self.file_names, kept, strict=True) if good],
            image_indices=np.cumsum(kept)[mine.image_indices] - 1,
        )

    def with_categories(self, kept: NDArray[np.bool_]) -> CocoAnnotations:
        """The same with some of the categories and their annotations."""
        mine = self.with_boxes(kept[self.labels])
        return replace(
            mine,
            categories=[category for category, good in zip(self.categories, kept, strict=True) if good],
            labels=(np.cumsum(kept) - 1)[mine.labels],
        )

    def first_images(self, number: int | None) -> CocoAnnotations:
        """The same as if the file listed the first so many images by id and no others; None takes all."""
        first = self.with_images(np.arange(len(self.image_ids)) < (len(self.image_ids) if number is None else number))
        return replace(first, listed_image_ids=first.image_ids)

    def raise_errors(self) -> CocoAnnotations:
        """Itself, where there is no fault.

        Raises:
            DataError: names the file, the record and the key at fault.
        """
        self.findings.raise_errors()
        return self


def read_annotations(
    annotations: str | Path | Mapping[str, Any],
    drop_degenerate_boxes: bool,
    excluded_categories: Sequence[str | int] = (),
) -> CocoAnnotations:
    """Read a COCO detection file; all faults are collected in its findings (`CocoAnnotations.raise_errors`).

    What other tools write and can mean one thing is accepted, with a finding that says how often: ids as text or
    repeated, category records once an image, boxes as text or of polygons, annotations of images that are not listed,
    sizes that are absent (0 here).

    Args:
        annotations: the JSON file, or its content.
        drop_degenerate_boxes: leave out boxes of zero or negative size, boxes that are not finite and annotations
            without a box (COCO train2017 has two); False makes them faults.
        excluded_categories: names or ids of categories to leave out, with their boxes.

    Raises:
        DataError: the file cannot be read as one of COCO's format at all.
    """
    if isinstance(annotations, Mapping):
        source, fingerprint = "the annotations", ""
        content = dict(coco_object(dict(annotations), source))
    else:
        source = str(annotations)
        content, fingerprint = load_json(Path(annotations))
    findings = Findings(source)
    has_annotations = content.get("annotations") is not None
    content = {**content, "annotations": content.get("annotations") or []}
    images, records, categories = (Records(content, s, findings) for s in ("images", "annotations", "categories"))

    category_ids = categories.ids()
    names = category_names(categories)
    by_id = np.argsort(category_ids.numbers)
    category_list = [{"id": int(category_ids.numbers[i]), "name": names[i]} for i in by_id]

    image_ids = images.ids()
    order = np.argsort(image_ids.numbers)
    file_names = [name_of_record(record) for record in images.records]
    sizes_hw = np.stack([image_sides(images, "height"), image_sides(images, "width")], axis=1).reshape(-1, 2)
    sizes_hw[(sizes_hw < 1).any(axis=1)] = 0

    image_indices, image_known = reference_positions(records, "image_id", image_ids, "images", is_fault=False)
    category_indices, category_known = reference_positions(
        records, "category_id", category_ids, "categories", is_fault=True
    )
    boxes, absent, malformed = read_boxes(records)
    is_crowd = crowd_flags(records)
    kept = image_known & category_known & usable_boxes(records, boxes, absent, malformed, drop_degenerate_boxes)
    coco = CocoAnnotations(
        source=source,
        fingerprint=fingerprint,
        categories=category_list,
        image_ids=image_ids.numbers[order],
        image_sizes_hw=sizes_hw[order],
        file_names=[file_names[i] for i in order],
        annotation_ids=annotation_numbers(records),
        image_indices=image_indices,
        labels=category_indices,
        boxes_xywh_abs=boxes,
        areas=box_areas(records, boxes),
        is_crowd=is_crowd,
        ids=image_ids,
        category_ids=category_ids,
        has_annotations=has_annotations,
        findings=findings,
        listed_image_ids=image_ids.numbers[order],
    ).with_boxes(kept)
    coco = _without_categories(coco, excluded_categories)
    _note_root_categories(coco, categories.records)
    _note_equal_names(coco)
    _note_equal_boxes(coco)
    return coco


def _without_categories(coco: CocoAnnotations, excluded: Sequence[str | int]) -> CocoAnnotations:
    if not excluded:
        return coco
    originals = [coco.category_ids.original(category["id"]) for category in coco.categories]
    chosen, unknown = np.zeros(len(coco.categories), np.bool_), []
    for wanted in excluded:
        matches = [
            i
            for i, (category, original) in enumerate(zip(coco.categories, originals, strict=True))
            if wanted == category["name"] or str(wanted) == str(original)
        ]
        if not matches:
            unknown.append(wanted)
        if len(matches) > 1:
            found = ", ".join(f"id {originals[i]}" for i in matches)
            said = f"excluded_categories={wanted!r} is more than one category ({found}); give its id"
            coco.findings.say(ERROR, "excluded categories", said)
        chosen[matches] = True
    number = int(chosen[coco.labels].sum())
    if chosen.any():
        names = [coco.categories[i]["name"] for i in np.flatnonzero(chosen)]
        coco.findings.add(
            LEFT_OUT, "excluded categories", "category", f"excluded as asked, with {counted(number, 'box')}", names
        )
    return replace(coco.with_categories(~chosen), unknown_exclusions=tuple(unknown))


def _note_root_categories(coco: CocoAnnotations, records: Any) -> None:
    """A word on a category that only groups others, as Roboflow writes one: it would take an output for nothing."""
    used = set(coco.labels.tolist())
    parents = {str(r.get("supercategory")) for r in records if isinstance(r, dict) and r.get("supercategory")}
    if not used:
        return
    for label, category in enumerate(coco.categories):
        if label not in used and category["name"] in parents:
            original = coco.category_ids.original(category["id"])
            said = (
                f"category {category['name']!r} (id {original}) has no boxes and is the supercategory of others: it "
                f"takes an output of the detector; excluded_categories=[{original}] leaves it out"
            )
            coco.findings.say(NOTE, "root category", said, [category["name"]])


def _note_equal_names(coco: CocoAnnotations) -> None:
    """A word on categories of one name: they stay classes of their own, which a detector can hardly tell apart."""
    numbers = Counter(coco.class_names)
    for name in [name for name, number in numbers.items() if number > 1]:
        ids = [coco.category_ids.original(c["id"]) for c in coco.categories if c["name"] == name]
        said = f"{len(ids)} categories are named {name!r} (ids {shortened(ids)}): they are classes of their own"
        coco.findings.say(NOTE, "categories of one name", said, ids)


def _note_equal_boxes(coco: CocoAnnotations) -> None:
    """A word on boxes that occur twice: only one of them can be found."""
    kept = np.flatnonzero(~coco.is_crowd)
    columns = (coco.image_indices, coco.labels, *coco.boxes_xywh_abs.T)
    keys = np.stack([column[kept] for column in columns], axis=1).astype(np.float64)
    with np.errstate(over="ignore"):
        order = np.argsort(keys @ np.sqrt([2.0, 3.0, 5.0, 7.0, 11.0, 13.0]), kind="stable")  # equal ones side by side
    equal = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    if equal.any():
        ids = coco.annotation_ids[np.sort(kept[order[1:][equal]])].tolist()
        words = "equal to another one of its image and class: each is a target, and only one of them can be found"
        coco.findings.add(NOTE, "boxes repeated", "box", words, ids, "annotation ids")


def no_boxes(coco: CocoAnnotations, purpose: str) -> DataError:
    """The error for a data set of which nothing can be learned or evaluated."""
    if not coco.has_annotations:
        reason = "has no annotations"
    elif not len(coco.labels):
        reason = "has no usable annotation"
    else:
        reason = f"has crowd boxes alone ({len(coco.labels)})"
    return DataError(f"{coco.source} {reason}: there is nothing to {purpose}")
