"""Batches of a data set for this process: an endless stream to train on, and its share to evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from sparse_rcnn.data.batching import AspectRatioBatchSampler, EvalBatchSampler, collate
from sparse_rcnn.data.coco import CocoDetection, Sample
from sparse_rcnn.data.loader_processes import WatchedLoader, share
from sparse_rcnn.distributed import World
from sparse_rcnn.interrupt import leave_stopping_to_parent
from sparse_rcnn.structures import Batch


class TrainBatches:
    """This process's batches of a training, from any step on.

    Args:
        dataset: training images.
        batch_size: of the whole step, over all processes and micro-batches.
        num_micro_batches: batches of a step on each process.
        num_workers: loader processes; 0 loads in this one.
        seed: of the order.
        world: the processes that share a step.
        size_divisor: of the detector, which says how images are padded.
    """

    def __init__(
        self,
        dataset: CocoDetection,
        batch_size: int,
        num_micro_batches: int,
        num_workers: int,
        seed: int,
        world: World,
        size_divisor: int,
    ) -> None:
        self._dataset, self._num_workers, self._seed, self._world = dataset, num_workers, seed, world
        self._size_divisor = size_divisor
        self._sampler = AspectRatioBatchSampler(
            dataset.image_sizes_hw,
            batch_size=batch_size,
            seed=seed,
            num_replicas=world.size,
            rank=world.rank,
            num_micro_batches=num_micro_batches,
        )

    @property
    def num_steps_per_epoch(self) -> int:
        """Training steps in which every image comes once."""
        return self._sampler.steps_per_epoch

    def from_step(self, step: int) -> Iterator[Batch]:
        """An endless stream of batches, ``num_micro_batches`` of each step, beginning with a step counted from 0.

        Raises:
            LoaderError: the loader processes cannot be started; from the stream, one of them cannot go on.
        """
        self._sampler.start_at(step)
        loader = _loader(self._dataset, self._sampler, self._num_workers, self._seed, self._world, self._size_divisor)
        return iter(loader)


def eval_batches(
    dataset: CocoDetection, batch_size: int, num_workers: int, world: World, size_divisor: int, seed: int = 0
) -> WatchedLoader:
    """This process's share of the images, ``batch_size`` at a time, padded as the detector asks; nothing is random.

    Iterating raises a LoaderError where a loader process cannot go on.
    """
    sampler = EvalBatchSampler(dataset.image_sizes_hw, batch_size, world.size, world.rank)
    return _loader(dataset, sampler, num_workers, seed, world, size_divisor)


def _loader(
    dataset: CocoDetection, sampler: Any, num_workers: int, seed: int, world: World, size_divisor: int
) -> WatchedLoader:
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=partial(_collate, size_divisor=size_divisor),
        num_workers=num_workers,
        pin_memory=world.device.type == "cuda",
        worker_init_fn=leave_stopping_to_parent,
        prefetch_factor=4 if num_workers else None,
        # Without a generator of its own a loader draws from PyTorch's global one, and an evaluation or a resume
        # would change the dropout that follows. Samples are seeded by the data set itself.
        generator=torch.Generator().manual_seed(seed),
    )
    return WatchedLoader(loader)


def _collate(samples: list[Sample], size_divisor: int) -> Batch:
    return share(collate(samples, size_divisor))
