"""Reading training samples, part by part, on one core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch

from experiments.benchmark.forward import with_total
from experiments.benchmark.measure import interleaved
from experiments.benchmark.meters import Clock
from experiments.benchmark.replacing import replaced
from experiments.benchmark.report import Row
from experiments.config.build import Config, build_datasets
from experiments.config.rows import compose_row
from experiments.run.embedded_data import ensure_data
from sparse_rcnn.data import coco, transforms
from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.coco import CocoDetection

NUM_IMAGES, BATCH_SIZE, SIZE_DIVISOR = 64, 8, 32


def data_rows(recipe: str, row: str, overrides: Sequence[str], num_repeats: int) -> list[Row]:
    """Decoding, resizing, the rest of the augmentation, and collation of the first training images, without a cache."""
    config = compose_row(recipe, row, overrides, stand_ins=False)
    ensure_data(config)
    dataset = uncached_training_set(config)
    passes = count()

    def side() -> dict[str, float]:
        clock = Clock(torch.device("cpu"))
        with clocked_data(clock):
            load(dataset, next(passes), lambda: clock.switch("augment"), lambda: clock.switch("collate"))
            clock.switch(None)
        return with_total(clock.seconds)

    name = f"{min(NUM_IMAGES, len(dataset))} images"
    measured = interleaved({name: side}, num_repeats)[name]
    return [Row("data", name, part, seconds) for part, seconds in measured.items()]


def uncached_training_set(config: Config) -> CocoDetection:
    """The training images of a configuration, each of which is decoded every time."""
    return build_datasets({**config, "data": {**config["data"], "cache_images": False}})[0]


def load(
    dataset: CocoDetection,
    epoch: int,
    reading: Callable[[], Any] = lambda: None,
    collating: Callable[[], Any] = lambda: None,
) -> None:
    """Read and collate the first images in batches; ``reading`` and ``collating`` are called before either."""
    num_images = min(NUM_IMAGES, len(dataset))
    for first in range(0, num_images, BATCH_SIZE):
        reading()
        samples = [dataset[(epoch, i)] for i in range(first, min(first + BATCH_SIZE, num_images))]
        collating()
        collate(samples, SIZE_DIVISOR)


@contextmanager
def clocked_data(clock: Clock) -> Iterator[None]:
    """Let decoding and resizing be parts of ``augment``, within which they are called."""

    def within(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            clock.switch(part)
            try:
                return function(*args, **kwargs)
            finally:
                clock.switch("augment")

        return run

    with (
        replaced(coco, "read_image", within("decode", coco.read_image)),
        replaced(transforms, "resize", within("resize", transforms.resize)),
    ):
        yield
