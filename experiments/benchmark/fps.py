"""Frames per second as the paper means them: one image at a time, warm, with and without reading the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from experiments.benchmark import pictures
from experiments.benchmark.measure import TOTAL, progress
from experiments.benchmark.pictures import Pictures
from experiments.benchmark.report import Row
from experiments.benchmark.workload import NUM_CLASSES, Setting, Workload
from sparse_rcnn.data.batching import collate
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.errors import UserError
from sparse_rcnn.eval_mode import eval_mode
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.precision import autocast, memory_format
from sparse_rcnn.rundir import layout

NUM_WARM_UP = 3
# What a setting can change of a detector that is read from a file.
OF_ANY_DETECTOR = ("train.precision", "train.channels_last")


@dataclass(frozen=True)
class Measured:
    """A detector under a setting; ``precision`` is ``fp32`` or ``bf16``."""

    model: DetectorModule
    precision: str


def row_fps(
    workload: Workload, settings: Sequence[Setting], device: torch.device, images: Path | None, max_images: int
) -> list[Row]:
    """Frames per second of a row with random weights, on a folder of images or on its own validation images.

    Raises:
        UserError: the images cannot be used.
    """
    own, num_classes = workload.row_config(settings[0], stand_ins=images is not None), NUM_CLASSES
    if images is None:
        chosen, num_classes = pictures.of_configuration(own, max_images)
    else:
        size = own["input"]["eval"]
        chosen = pictures.of_folder(images, ModelCard({}, [], size["short_side"], size["max_long_side"]), max_images)
    sides = {}
    for setting in settings:
        config = workload.config(setting, num_classes)
        sides[setting.name] = Measured(workload.model(config, device), config["train"]["precision"])
    return fps_rows(sides, chosen, device)


def weights_fps(
    path: Path,
    trusted: Sequence[str],
    settings: Sequence[Setting],
    device: torch.device,
    images: Path | None,
    max_images: int,
) -> list[Row]:
    """Frames per second of a run or a weights file, on a folder of images or on the run's validation images.

    Raises:
        UserError: the detector or the images cannot be used, or a setting changes another thing than its precision or
            memory format.
    """
    sides: dict[str, Measured] = {}
    for setting in settings:
        if unknown := [text for text in setting.overrides if text.partition("=")[0] not in OF_ANY_DETECTOR]:
            raise UserError(
                f"--setting {setting.name}: {unknown[0]} is of a row; of a detector that is read from a file a setting "
                f"changes {' and '.join(OF_ANY_DETECTOR)} alone"
            )
        train = Workload("mini", "baseline", (), (1, 1), 1).config(setting)["train"]
        model = Detector.from_pretrained(path, trusted).to(device)
        model.to(memory_format=memory_format(train["channels_last"]))
        sides[setting.name] = Measured(model, train["precision"])
    card = model.card
    assert card is not None
    if images is not None:
        chosen = pictures.of_folder(images, card, max_images)
    elif (path / layout.META).is_file():
        chosen = pictures.of_run(path, card, max_images, trusted)
    else:
        raise UserError(f"{path} is not a run directory, so it has no images: give --images FOLDER")
    return fps_rows(sides, chosen, device)


@torch.no_grad()
def fps_rows(sides: Mapping[str, Measured], images: Pictures, device: torch.device) -> list[Row]:
    """Seconds by image: reading and resizing, and from the padded image to detections on the host.

    Each image goes through all sides in turn; the first few go once more before, which does not count.

    Raises:
        UserError: there is no image.
        DataError: an image cannot be read.
    """
    if not images.num_images:
        raise UserError("there is no image to measure on: --images FOLDER names others")
    reading: dict[str, list[float]] = {name: [] for name in sides}
    detecting: dict[str, list[float]] = {name: [] for name in sides}
    num_warm_up = min(NUM_WARM_UP, images.num_images)
    order = [*range(num_warm_up), *range(images.num_images)]
    with progress(len(order)) as advance:
        for turn, index in enumerate(order):
            for name, side in sides.items():
                seconds = _one(side, images, index, device)
                if turn >= num_warm_up:
                    reading[name].append(seconds[0])
                    detecting[name].append(seconds[1])
            advance()
    rows = []
    for name, side in sides.items():
        both = [a + b for a, b in zip(reading[name], detecting[name], strict=True)]
        for part, seconds_of in (("read", reading[name]), ("detect", detecting[name]), (TOTAL, both)):
            rows.append(Row("fps", name, part, seconds_of, dtype=side.precision))
    return rows


def _one(side: Measured, images: Pictures, index: int, device: torch.device) -> tuple[float, float]:
    """Seconds of reading and of detection."""
    with eval_mode(side.model):
        started = perf_counter()
        batch = collate([images.read(index)], side.model.size_divisor)
        read = perf_counter()
        moved = batch.to(device)
        with autocast(side.precision, device):
            output: Any = side.model(moved.images, moved.image_sizes_hw)
        side.model.detections(output, moved.image_sizes_hw, moved.original_sizes_hw)  # brings them to the host
        return read - started, perf_counter() - read


def summary(rows: Sequence[Row]) -> list[str]:
    """Frames per second of each setting in a line, with and without reading."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in rows):
        own = {row.part: row for row in rows if row.setting == setting}
        lines.append(
            f"{setting}: {1 / own['detect'].median:.2f} frames per second from the padded image to its detections, "
            f"{1 / own[TOTAL].median:.2f} with reading and resizing ({len(own[TOTAL].seconds)} images, one at a time)"
        )
    return lines
