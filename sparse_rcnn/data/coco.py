"""Detection sets in COCO format: images with their boxes as samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from sparse_rcnn.data.annotated_images import read_annotated_images
from sparse_rcnn.data.annotations import CocoAnnotations
from sparse_rcnn.data.findings import DataWarning
from sparse_rcnn.data.image import read_image
from sparse_rcnn.data.label_space import categories_in_order, match_categories, without_foreign_roots
from sparse_rcnn.data.pillow_files import MAX_MEGAPIXELS
from sparse_rcnn.errors import DataError
from sparse_rcnn.pixel_range import AUTO, PixelRange, checked_pixel_range


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

    What was repaired or left out is a `DataWarning` each, and is kept in ``coco.findings``.

    Args:
        annotations, images: the JSON file and the folder its file names are relative to.
        transforms: see ``sparse_rcnn.data.transforms``; clips and drops boxes.
        drop_degenerate_boxes, excluded_categories: see ``read_annotations``.
        seed: of the augmentation.
        max_images: keep so many images, the first by id; None keeps all.
        cache_images: keep every decoded image in memory, in each loader process: for data sets that are small and
            seen many times.
        skip_unreadable: leave out pictures that are missing or cannot be opened, and take an empty picture without
            objects in place of one that turns out to be unreadable later; else both are errors.
        pixel_range, max_megapixels: see ``read_image``.

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
        excluded_categories: Sequence[str | int] = (),
        skip_unreadable: bool = False,
        pixel_range: PixelRange = AUTO,
        max_megapixels: float | None = MAX_MEGAPIXELS,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise ValueError(f"max_images must be at least 1 or None, got {max_images}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.annotations_path, self.images_path = Path(annotations), Path(images)
        self.transforms, self.drop_degenerate_boxes = transforms, drop_degenerate_boxes
        self.seed, self.max_images, self.skip_unreadable = seed, max_images, skip_unreadable
        self.pixel_range, self.max_megapixels = checked_pixel_range(pixel_range), max_megapixels
        self._cache: dict[int, tv_tensors.Image] | None = {} if cache_images else None
        coco = read_annotated_images(
            annotations, images, drop_degenerate_boxes, max_images, excluded_categories, skip_unreadable, max_megapixels
        )
        coco.raise_errors()
        coco.findings.warn()
        self._use(coco)

    def _use(self, coco: CocoAnnotations) -> None:
        self.coco = coco
        self.fingerprint = coco.fingerprint
        self.categories = coco.categories
        self.image_ids: list[int] = coco.image_ids.tolist()
        self.image_sizes_hw = coco.image_sizes_hw
        self.file_names = [str(name) for name in coco.file_names]
        # Arrays, not dictionaries: workers would copy every object whose reference count they touch.
        kept = np.flatnonzero(~coco.is_crowd)
        kept = kept[np.argsort(coco.image_indices[kept], kind="stable")]
        x, y, w, h = coco.boxes_xywh_abs[kept].T
        self._boxes_xyxy_abs = np.stack((x, y, x + w, y + h), axis=1).astype(np.float32)
        self._labels = coco.labels[kept]
        self._starts = np.searchsorted(coco.image_indices[kept], np.arange(len(self.image_ids) + 1))

    def without_images(self, indices: Collection[int]) -> CocoDetection:
        """The same data set without some images."""
        kept = np.ones(len(self), np.bool_)
        kept[list(indices)] = False
        return self._with(self.coco.with_images(kept))

    def in_label_space_of(self, categories: Sequence[Mapping[str, Any]], name: str) -> CocoDetection:
        """The same data set with the labels of other categories, among them all of its own that have boxes; ids stay.

        A category without boxes that the others lack, such as the root that Roboflow writes, is left out.

        Args:
            categories: dictionaries of id and name, of a training set or a detector.
            name: theirs, for the message.

        Raises:
            DataError: categories are not among the others, or cannot be told apart by name; names them.
        """
        coco = without_foreign_roots(self.coco, categories)
        places = match_categories(coco.categories, categories, (str(self.annotations_path), name))
        if [(c["id"], c["name"]) for c in self.categories] == [(c["id"], c["name"]) for c in categories]:
            return self
        categories = categories_in_order(categories, coco.categories, places)
        labels = np.asarray(places, dtype=np.int64)[coco.labels]
        return self._with(replace(coco, categories=categories, labels=labels))

    def _with(self, coco: CocoAnnotations) -> CocoDetection:
        result = copy(self)
        result._cache = None if self._cache is None else {}
        result._use(coco)
        return result

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
        boxes_xyxy_abs, labels = self.ground_truth(index)
        try:
            image = self._image(index, (height, width))
        except DataError as error:
            if not self.skip_unreadable:
                raise DataError(f"{error}, or give skip_unreadable=True to go on without it") from error
            warnings.warn(f"{error}; an empty picture without objects takes its place", DataWarning, stacklevel=2)
            image = tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8))
            boxes_xyxy_abs, labels = boxes_xyxy_abs[:0], labels[:0]
        boxes = tv_tensors.BoundingBoxes(boxes_xyxy_abs, format="XYXY", canvas_size=(height, width))
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it would reseed the GPUs as well, which the fork does not restore.
            torch.default_generator.manual_seed(stable_seed(self.seed, epoch, index))
            image, boxes, labels = self.transforms(image, boxes, labels)
        return Sample(image, boxes.as_subclass(Tensor), labels, self.image_ids[index], (height, width))

    def _image(self, index: int, size_hw: tuple[int, int]) -> tv_tensors.Image:
        if self._cache is not None and index in self._cache:
            return self._cache[index].clone()  # a sample is its reader's to change
        image = read_image(
            self.images_path / self.file_names[index],
            self.image_ids[index],
            size_hw,
            self.pixel_range,
            self.max_megapixels,
        )
        if self._cache is not None:
            self._cache[index] = image.clone()
        return image
