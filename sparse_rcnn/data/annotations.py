"""COCO's annotation file, read and checked column by column."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rcnn.errors import DataError

SECTIONS = {"images": "image", "annotations": "annotation", "categories": "category"}


@dataclass(frozen=True)
class CocoAnnotations:
    """A valid annotation file as arrays, N images sorted by id and A annotations in the order of the file.

    Shapes: ``image_ids`` (N,); ``image_sizes_hw`` (N, 2); ``file_names`` N; ``annotation_ids``,
    ``image_indices`` (into the N images), ``labels`` (contiguous, in the order of ``categories``) and
    ``is_crowd`` (A,); ``boxes_xywh_abs`` (A, 4) float64, pixels. ``categories`` are dictionaries of id and
    name, sorted by id; ``fingerprint`` is the SHA-256 of the file.
    """

    path: Path
    fingerprint: str
    categories: list[dict[str, Any]]
    image_ids: NDArray[np.int64]
    image_sizes_hw: NDArray[np.int64]
    file_names: list[str]
    annotation_ids: NDArray[np.int64]
    image_indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes_xywh_abs: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]


def read_annotations(path: str | Path, drop_degenerate_boxes: bool) -> CocoAnnotations:
    """Read a COCO detection file and check all that is used of it.

    Args:
        path: the JSON file.
        drop_degenerate_boxes: leave out boxes of zero or negative width or height with one warning that
            counts them (COCO train2017 has two); False makes them an error.

    Raises:
        DataError: names the file, the record and the key at fault.
    """
    path = Path(path)
    content, fingerprint = load_json(path)
    images, annotations, categories = (Records(path, content, section) for section in SECTIONS)

    category_ids, names = categories.unique_ids(), categories.texts("name")
    by_id = np.argsort(category_ids)
    category_list = [{"id": int(category_ids[i]), "name": names[i]} for i in by_id]

    image_ids, file_names = images.unique_ids(), images.texts("file_name")
    sizes_hw = np.stack([images.integers("height"), images.integers("width")], axis=1)
    images.refuse(sizes_hw.min(axis=1) < 1, "has a height or width below 1; correct the record")
    order = np.argsort(image_ids)

    annotation_ids = annotations.unique_ids()
    boxes = annotations.boxes("bbox")
    annotations.check_areas()
    crowd = annotations.integers("iscrowd", default=0)
    annotations.refuse((crowd != 0) & (crowd != 1), "has an iscrowd that is neither 0 nor 1; correct the record")
    image_indices = annotations.references("image_id", image_ids[order], "images")
    labels = annotations.references("category_id", category_ids[by_id], "categories")

    keep = boxes[:, 2:].min(axis=1) > 0
    if not drop_degenerate_boxes:
        annotations.refuse(~keep, "has a bbox of zero or negative size; correct it or set drop_degenerate_boxes")
    elif not keep.all():
        dropped = annotation_ids[~keep].tolist()
        warnings.warn(
            f"{path}: dropped {len(dropped)} boxes of zero or negative size, annotation ids {shortened(dropped)}",
            stacklevel=2,
        )
    return CocoAnnotations(
        path=path,
        fingerprint=fingerprint,
        categories=category_list,
        image_ids=image_ids[order],
        image_sizes_hw=sizes_hw[order],
        file_names=[file_names[i] for i in order],
        annotation_ids=annotation_ids[keep],
        image_indices=image_indices[keep],
        labels=labels[keep],
        boxes_xywh_abs=boxes[keep],
        is_crowd=crowd[keep] == 1,
    )


def load_json(path: Path) -> tuple[dict[str, Any], str]:
    """The content of a JSON file that holds an object, and the SHA-256 of its bytes."""
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            "the file may be cut short"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not the object of a COCO detection file")
    return content, hashlib.sha256(data).hexdigest()


class Records:
    """The records of one section of an annotation file, read column by column.

    Columns are checked as a whole, which for COCO's 860 000 annotations takes a fraction of the time of a
    loop; the record at fault is searched for only once it is known that there is one.
    """

    def __init__(self, path: Path, content: dict[str, Any], section: str) -> None:
        if section not in content:
            raise DataError(f"{path} has no '{section}': not a COCO detection file")
        self.path, self.section, self.records = path, section, content[section]
        if not isinstance(self.records, list):
            raise DataError(f"{path}: '{section}' is a {type(self.records).__name__}, not a list")
        if not self.records and section != "annotations":
            raise DataError(f"{path}: '{section}' is empty, there is nothing to detect or to detect it in")
        for i, record in enumerate(self.records):
            if not isinstance(record, dict):
                raise DataError(f"{path}: {section}[{i}] is a {type(record).__name__}, not an object")

    def error(self, index: int, problem: str) -> DataError:
        record_id = self.records[index].get("id")
        name = f"{self.section}[{index}]" if record_id is None else f"{SECTIONS[self.section]} id {record_id!r}"
        return DataError(f"{self.path}: {name} {problem}")

    def refuse(self, bad: NDArray[np.bool_], problem: str) -> None:
        if bad.any():
            raise self.error(int(np.argmax(bad)), problem)

    def column(self, key: str) -> list[Any]:
        try:
            return [record[key] for record in self.records]
        except KeyError:
            index = next(i for i, record in enumerate(self.records) if key not in record)
            raise self.error(index, f"has no '{key}'") from None

    def texts(self, key: str) -> list[str]:
        values = self.column(key)
        for i, value in enumerate(values):
            if not isinstance(value, str) or not value:
                raise self.error(i, f"has {key} {value!r:.100}, a text is expected")
        return values

    def integers(self, key: str, default: int | None = None) -> NDArray[np.int64]:
        values = self.column(key) if default is None else [record.get(key, default) for record in self.records]
        if set(map(type, values)) <= {int}:
            try:
                return np.array(values, dtype=np.int64)
            except OverflowError:
                pass
        return np.array([self.integer(i, key, value) for i, value in enumerate(values)], dtype=np.int64)

    def integer(self, index: int, key: str, value: Any) -> int:
        # Some tools write whole numbers as 640.0 and flags as true; these are as good.
        if not isinstance(value, (int, float)) or value != value or abs(value) > 2**62 or value != int(value):
            raise self.error(index, f"has {key} {value!r:.100}, a whole number is expected")
        return int(value)

    def unique_ids(self) -> NDArray[np.int64]:
        ids = self.integers("id")
        values, counts = np.unique(ids, return_counts=True)
        if len(values) < len(ids):
            first = int(np.argmax(counts > 1))
            raise DataError(
                f"{self.path}: {SECTIONS[self.section]} id {values[first]} occurs {counts[first]} times; "
                "ids must be unique"
            )
        return ids

    def references(self, key: str, sorted_ids: NDArray[np.int64], section: str) -> NDArray[np.int64]:
        """Positions of the ids under ``key`` in ``sorted_ids``, all of which must be there."""
        ids = self.integers(key)
        positions = np.searchsorted(sorted_ids, ids).clip(max=len(sorted_ids) - 1)
        unknown = sorted_ids[positions] != ids
        if unknown.any():
            i = int(np.argmax(unknown))
            raise self.error(i, f"has {key} {ids[i]}, which is not among the {section}")
        return positions

    def boxes(self, key: str) -> NDArray[np.float64]:
        values = self.column(key)
        well_formed = (
            set(map(type, values)) <= {list}
            and set(map(len, values)) <= {4}
            and set(map(type, chain.from_iterable(values))) <= {int, float}
        )
        if well_formed:
            try:
                boxes = np.fromiter(chain.from_iterable(values), np.float64, 4 * len(values)).reshape(-1, 4)
                if np.isfinite(boxes).all():
                    return boxes
            except OverflowError:
                pass
        for i, value in enumerate(values):
            if not (isinstance(value, list) and len(value) == 4 and all(map(is_finite_number, value))):
                raise self.error(i, f"has {key} {value!r:.100}, four finite numbers (x, y, width, height) are expected")
        raise AssertionError("unreachable: one of the boxes is at fault")

    def check_areas(self) -> None:
        """Areas are left to the evaluation, which a NaN would pass through without a word."""
        for i, record in enumerate(self.records):
            if "area" in record and not (is_finite_number(record["area"]) and record["area"] >= 0):
                raise self.error(i, f"has area {record['area']!r:.100}, a finite number of at least 0 is expected")


def is_finite_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def shortened(values: list[Any], num_shown: int = 5) -> str:
    more = f" and {len(values) - num_shown} more" if len(values) > num_shown else ""
    return ", ".join(map(str, values[:num_shown])) + more
