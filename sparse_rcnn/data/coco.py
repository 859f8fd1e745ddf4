"""Detection sets in COCO format: the annotation file read and validated, and its images as samples."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from sparse_rcnn.data.image import read_image
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
        annotations.refuse(~keep, "has a bbox of zero or negative size; correct it or set drop_degenerate_boxes=true")
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


def stable_seed(*parts: int) -> int:
    """A 64-bit seed from numbers of at least 0, the same on every machine and in every process."""
    # The length goes in because SeedSequence pads with zeros: (1, 2) and (1, 2, 0) would be one.
    return int(np.random.SeedSequence([len(parts), *parts]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Sample:
    """An image after its transforms, with its ground truth.

    Shapes: ``image`` (3, H, W) uint8 RGB; ``boxes_xyxy_abs`` (M, 4) float32 in its pixels; ``labels`` (M,)
    int64; M may be 0. ``original_size_hw`` is the size before the transforms.
    """

    image: tv_tensors.Image
    boxes_xyxy_abs: Tensor
    labels: Tensor
    image_id: int
    original_size_hw: tuple[int, int]


class CocoDetection(Dataset[Sample]):
    """The images of a COCO file, sorted by id, with their boxes; crowd boxes are left out, empty images kept.

    Args:
        annotations, images: the JSON file and the folder its file names are relative to.
        transforms: see ``sparse_rcnn.data.transforms``; clips and drops boxes.
        drop_degenerate_boxes: see ``read_annotations``.
        seed: of the augmentation.
        max_images: keep so many images, the first by id; None keeps all.
        cache_images: keep every decoded image in memory, in each loader process: for data sets that are small and
            seen many times.

    Raises:
        DataError: the file is invalid or images are missing.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        transforms: Callable[..., Any],
        drop_degenerate_boxes: bool,
        seed: int,
        max_images: int | None = None,
        cache_images: bool = False,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise ValueError(f"max_images must be at least 1 or null, got {max_images}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.annotations_path, self.images_path = Path(annotations), Path(images)
        self.transforms, self.drop_degenerate_boxes = transforms, drop_degenerate_boxes
        self.seed, self.max_images = seed, max_images
        self._cache: dict[int, tv_tensors.Image] | None = {} if cache_images else None

        coco = read_annotations(annotations, drop_degenerate_boxes)
        self.fingerprint = coco.fingerprint
        self.categories = coco.categories
        self.image_ids: list[int] = coco.image_ids[:max_images].tolist()
        self.image_sizes_hw = coco.image_sizes_hw[:max_images]
        self.file_names = coco.file_names[:max_images]
        # Arrays, not dictionaries: workers would copy every object whose reference count they touch.
        kept = np.flatnonzero(~coco.is_crowd & (coco.image_indices < len(self.image_ids)))
        kept = kept[np.argsort(coco.image_indices[kept], kind="stable")]
        x, y, w, h = coco.boxes_xywh_abs[kept].T
        self._boxes_xyxy_abs = np.stack((x, y, x + w, y + h), axis=1).astype(np.float32)
        self._labels = coco.labels[kept]
        self._starts = np.searchsorted(coco.image_indices[kept], np.arange(len(self.image_ids) + 1))
        check_files_exist(self.images_path, self.file_names, self.image_ids)

    @property
    def class_names(self) -> list[str]:
        return [category["name"] for category in self.categories]

    @property
    def category_ids(self) -> list[int]:
        """The COCO id of every label."""
        return [category["id"] for category in self.categories]

    @property
    def num_classes(self) -> int:
        return len(self.categories)

    def __len__(self) -> int:
        return len(self.image_ids)

    def ground_truth(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes (M, 4) xyxy in pixels of the original image and labels (M,), without crowd boxes."""
        own = slice(self._starts[index], self._starts[index + 1])
        return torch.from_numpy(self._boxes_xyxy_abs[own].copy()), torch.from_numpy(self._labels[own].copy())

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The sample at an index or (epoch, index); its augmentation depends on seed, epoch and index alone.

        Raises:
            DataError: the image cannot be read or has another size than its record.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not within 0 and {len(self) - 1}")
        height, width = (int(side) for side in self.image_sizes_hw[index])
        image = self._image(index, (height, width))
        boxes_xyxy_abs, labels = self.ground_truth(index)
        boxes = tv_tensors.BoundingBoxes(boxes_xyxy_abs, format="XYXY", canvas_size=(height, width))
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it would reseed the GPUs as well, which the fork does not restore.
            torch.default_generator.manual_seed(stable_seed(self.seed, epoch, index))
            image, boxes, labels = self.transforms(image, boxes, labels)
        return Sample(image, boxes.as_subclass(Tensor), labels, self.image_ids[index], (height, width))

    def _image(self, index: int, size_hw: tuple[int, int]) -> tv_tensors.Image:
        if self._cache is not None and index in self._cache:
            return self._cache[index].clone()  # a sample is its reader's to change
        image = read_image(self.images_path / self.file_names[index], self.image_ids[index], size_hw)
        if self._cache is not None:
            self._cache[index] = image.clone()
        return image


def check_files_exist(folder: Path, file_names: list[str], image_ids: list[int]) -> None:
    """Check that every image file is there, listing each folder once: asking per file is slow on a network.

    Raises:
        DataError: names the folder, or the first missing file, its image id and how many are missing.
    """
    if not folder.is_dir():
        raise DataError(f"image folder {folder} does not exist")
    listed: dict[str, set[str]] = {}
    missing = []
    for file_name, image_id in zip(file_names, image_ids, strict=True):
        parent, name = os.path.split(os.path.join(folder, file_name))
        if parent not in listed:
            listed[parent] = list_folder(parent)
        if name not in listed[parent]:
            missing.append((file_name, image_id))
    if missing:
        file_name, image_id = missing[0]
        raise DataError(
            f"{len(missing)} of {len(file_names)} image files are missing in {folder}, "
            f"the first is {file_name} (image id {image_id})"
        )


def list_folder(folder: str) -> set[str]:
    """The names in a folder, none where there is no such folder."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"image folder {folder} cannot be read: {error.strerror}") from error
