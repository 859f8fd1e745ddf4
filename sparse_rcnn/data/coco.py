"""Detection sets in COCO format: images with their boxes as samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from sparse_rcnn.data.annotations import read_annotations
from sparse_rcnn.data.image import read_image
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

    Args:
        annotations, images: the JSON file and the folder its file names are relative to.
        transforms: see ``sparse_rcnn.data.transforms``; clips and drops boxes.
        drop_degenerate_boxes: see ``read_annotations``.
        seed: of the augmentation.
        max_images: keep so many images, the first by id; None keeps all.
        cache_images: keep every decoded image in memory, in each loader process: for data sets that are small and
            seen many times.
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
        pixel_range: PixelRange = AUTO,
        max_megapixels: float | None = MAX_MEGAPIXELS,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise ValueError(f"max_images must be at least 1 or None, got {max_images}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.annotations_path, self.images_path = Path(annotations), Path(images)
        self.transforms, self.drop_degenerate_boxes = transforms, drop_degenerate_boxes
        self.seed, self.max_images = seed, max_images
        self.pixel_range, self.max_megapixels = checked_pixel_range(pixel_range), max_megapixels
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
