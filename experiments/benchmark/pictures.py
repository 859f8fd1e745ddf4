"""The images that frames per second are measured on, read and resized as in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.cli.picture_folders import find_pictures
from experiments.config.build import build_datasets
from experiments.run.embedded_data import ensure_data
from sparse_rcnn.data.coco import CocoDetection, Sample
from sparse_rcnn.data.image import read_image
from sparse_rcnn.data.pillow_files import MAX_MEGAPIXELS
from sparse_rcnn.data.transforms import EvalTransform
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.rundir.writer import RunDirectory


@dataclass(frozen=True)
class Pictures:
    """So many samples, each read by its index."""

    num_images: int
    read: Callable[[int], Sample]


def of_folder(folder: Path, card: ModelCard, max_images: int) -> Pictures:
    """The image files below a folder, at the size of evaluation of a detector's card.

    Raises:
        UserError: there is no folder, or no picture in it.
    """
    found, _ = find_pictures(folder, Path("."))
    paths, transform = found[:max_images], EvalTransform(card.short_side, card.max_long_side)

    def read(index: int) -> Sample:
        image = read_image(paths[index], pixel_range=card.pixel_range)
        empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        return Sample(transform(image), *empty, index, (image.shape[-2], image.shape[-1]))

    return Pictures(len(paths), read)


def of_configuration(config: dict[str, Any], max_images: int) -> tuple[Pictures, int]:
    """The validation images of a row's configuration, and the number of classes; embedded data are made if need be.

    Raises:
        UserError: the data cannot be used.
    """
    ensure_data(config)
    _, val = build_datasets({**config, "data": {**config["data"], "cache_images": False}})  # each reading counts
    return Pictures(min(len(val), max_images), val.__getitem__), val.num_classes


def of_run(path: Path, card: ModelCard, max_images: int, trusted: Sequence[str]) -> Pictures:
    """The validation images of a run, at the size of evaluation of its detector's card.

    Raises:
        UserError: the data cannot be used.
    """
    config = RunDirectory(path).config
    data = config["data"]
    if not Path(data["val"]["annotations"]).is_file():
        ensure_data(config, trusted)
    dataset = CocoDetection(
        data["val"]["annotations"],
        data["val"]["images"],
        EvalTransform(card.short_side, card.max_long_side),
        data["drop_degenerate_boxes"],
        seed=0,
        max_images=data["val"].get("max_images"),
        excluded_categories=data.get("excluded_categories", []),
        skip_unreadable=bool(data.get("skip_unreadable")),
        pixel_range=card.pixel_range,
        max_megapixels=config["input"].get("max_megapixels", MAX_MEGAPIXELS),
    )
    return Pictures(min(len(dataset), max_images), dataset.__getitem__)
