"""Data loading against a textbook's, with Pillow, on the same files."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from experiments.benchmark.data import BATCH_SIZE, NUM_IMAGES, SIZE_DIVISOR, load, uncached_training_set
from experiments.config.build import Config
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.transforms import RandomCropRecipe, TrainTransform
from sparse_rcnn.errors import UserError


def data_sides(config: Config) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A pass of the textbook's and one of ours over the first training images, with new augmentations in each.

    Raises:
        UserError: the data cannot be used, or the row has another augmentation than the textbook.
    """
    reference = importlib.import_module("tests.support.textbook_data")
    dataset = uncached_training_set(config)
    mapper = mapper_of(reference, dataset.transforms)
    num_images, passes, our_passes = min(NUM_IMAGES, len(dataset)), count(), count()

    def textbook() -> None:
        rng = np.random.default_rng(next(passes))
        for first in range(0, num_images, BATCH_SIZE):
            indices = range(first, min(first + BATCH_SIZE, num_images))
            loaded = [mapper(file_of(dataset, i), *dataset.ground_truth(i), rng) for i in indices]
            reference.padded([image for image, *_ in loaded], SIZE_DIVISOR)

    return textbook, lambda: load(dataset, next(our_passes))


def mapper_of(reference: Any, transform: Any) -> Any:
    """The textbook's mapper with the numbers of our augmentation.

    Raises:
        UserError: the row has another augmentation.
    """
    crop = getattr(transform, "crop", None)
    if not isinstance(transform, TrainTransform) or not isinstance(crop, RandomCropRecipe | None):
        raise UserError(f"input.train: the textbook has no {type(crop or transform).__name__}")
    numbers = None if crop is None else (crop.probability, crop.short_sides, crop.min_size, crop.max_size)
    return reference.TextbookMapper(transform.short_sides, transform.max_long_side, transform.flip_probability, numbers)


def file_of(dataset: CocoDetection, index: int) -> Any:
    return dataset.images_path / dataset.file_names[index]
