"""A detector run over a whole data set, with its progress shown."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from experiments.cli.naming import naming_workers
from experiments.run.pictures import readable_pictures
from experiments.run.result_files import write_detections
from sparse_rcnn.allocator import keep_freed_memory
from sparse_rcnn.data.batching import EvalBatchSampler
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.findings import DataWarning
from sparse_rcnn.data.loading import eval_batches
from sparse_rcnn.data.transforms import EvalTransform
from sparse_rcnn.dataset_detection import detect
from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.distributed import World
from sparse_rcnn.pixel_range import PixelRange
from sparse_rcnn.precision import memory_format


@dataclass(frozen=True)
class Computation:
    """How a detector is run: images of a batch on each process, loader processes, ``fp32`` or ``bf16``, layout."""

    batch_size: int
    num_workers: int
    precision: str
    channels_last: bool


def detect_all(
    model: Detector, dataset: CocoDetection, world: World, how: Computation, last_only: bool
) -> list[DetectionTable] | None:
    """Detections of every stage, or of the last alone; None where this process is not rank 0."""
    if world.device.type == "cpu":
        keep_freed_memory()
    model.to(world.device)
    model.to(memory_format=memory_format(how.channels_last))
    batches = eval_batches(dataset, how.batch_size, how.num_workers, world, model.size_divisor)
    sampler = batches.batch_sampler
    assert isinstance(sampler, EvalBatchSampler)
    hidden = None if world.is_main else True
    total = len(sampler.indices)
    with naming_workers("--num-workers"), tqdm(total=total, desc="detect", unit="img", disable=hidden) as bar:
        return detect(model, batches, dataset.category_ids, world, how.precision, bar.update, last_only)


def write_results(
    model: Detector,
    annotations: Path,
    images: Path,
    path: Path,
    world: World,
    how: Computation,
    score_threshold: float,
    pixel_range: PixelRange,
    max_megapixels: float | None,
    skip_unreadable: bool,
) -> int | None:
    """Write COCO results of the images that an annotation file lists, with its ids; how many, None off rank 0.

    The file needs no annotations: that of a test set has none. Nothing is scored.

    Raises:
        DataError: the file or a picture cannot be used, or its classes are not the detector's.
    """
    card = model.card
    assert card is not None
    if not world.is_main:  # rank 0 says it once
        warnings.simplefilter("ignore", DataWarning)
    dataset = CocoDetection(
        annotations,
        images,
        EvalTransform(card.short_side, card.max_long_side),
        drop_degenerate_boxes=True,
        seed=0,
        skip_unreadable=skip_unreadable,
        pixel_range=pixel_range,
        max_megapixels=max_megapixels,
    ).in_label_space_of(card.categories, "the detector")
    dataset = readable_pictures({"images": dataset}, world)["images"]
    tables = detect_all(model, dataset, world, how, last_only=True)
    if tables is None:
        return None
    table = tables[-1].of_score(score_threshold)
    write_detections(path, table, dataset.coco)
    return len(table)
