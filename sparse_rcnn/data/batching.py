"""Samples to padded batches, and which samples make up the batches of training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from sparse_rcnn.data.coco import Sample, stable_seed
from sparse_rcnn.structures import Batch, Targets


def collate(samples: list[Sample], size_divisor: int) -> Batch:
    """Stack samples, zero-padded at the right and bottom to their maximum, rounded up to ``size_divisor``."""
    sizes_hw = torch.tensor([tuple(s.image.shape[-2:]) for s in samples], dtype=torch.int64)
    height, width = (-(-int(side) // size_divisor) * size_divisor for side in sizes_hw.amax(dim=0))
    # Channels-last, as decoded and resized images are: each is copied in one piece, and a training reads them so.
    shape, dtype = (len(samples), 3, height, width), samples[0].image.dtype
    images = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last).zero_()
    for padded, sample, (h, w) in zip(images, samples, sizes_hw.tolist(), strict=True):
        padded[:, :h, :w] = sample.image
    return Batch(
        images=images,
        image_sizes_hw=sizes_hw,
        original_sizes_hw=torch.tensor([s.original_size_hw for s in samples], dtype=torch.int64),
        image_ids=tuple(s.image_id for s in samples),
        targets=Targets.from_lists([s.boxes_xyxy_abs for s in samples], [s.labels for s in samples]),
    )


class AspectRatioBatchSampler(Sampler[list[tuple[int, int]]]):
    """The endless stream of training batches of (epoch, index), shapes apart (semantics.md#augmentation).

    Every epoch is a permutation made from (seed, epoch), cut into global batches within each group; the
    remainders of both groups share a batch as far as they fill one, and what is left (less than a batch) sits
    this epoch out. A data set smaller than a batch fills it by repeated passes; each pass counts as an epoch
    in the keys, so that the copies of an image are augmented differently.

    A global batch is cut into ``num_replicas`` contiguous parts, the part of ``rank`` into
    ``num_micro_batches`` contiguous lists, which are yielded one after the other: put together in the order
    of ranks and micro-batches they are the batch of a single process.

    Args:
        image_sizes_hw: (N, 2).
        batch_size: of one optimizer step, over all replicas and micro-batches.
    """

    def __init__(
        self,
        image_sizes_hw: NDArray[np.int64],
        batch_size: int,
        seed: int,
        num_replicas: int,
        rank: int,
        num_micro_batches: int,
    ) -> None:
        if min(batch_size, num_replicas, num_micro_batches) < 1:
            raise ValueError(
                "batch_size, num_replicas and num_micro_batches must be at least 1, got "
                f"{batch_size}, {num_replicas} and {num_micro_batches}"
            )
        if batch_size % (num_replicas * num_micro_batches):
            raise ValueError(
                f"batch_size {batch_size} must be divisible by num_replicas {num_replicas} x "
                f"num_micro_batches {num_micro_batches} = {num_replicas * num_micro_batches}"
            )
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be within 0 and {num_replicas - 1}, got {rank}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if len(image_sizes_hw) == 0:
            raise ValueError("image_sizes_hw is empty: no images to sample from")
        self.is_portrait = image_sizes_hw[:, 0] > image_sizes_hw[:, 1]
        self.batch_size, self.seed = batch_size, seed
        self.num_replicas, self.rank, self.num_micro_batches = num_replicas, rank, num_micro_batches
        self.start_step = 0

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.is_portrait) // self.batch_size)

    def start_at(self, step: int) -> None:
        """Let the stream begin at an optimizer step, as an uninterrupted one would go on there."""
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        self.start_step = step

    def epoch_batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The ``steps_per_epoch`` global batches of an epoch, in order."""
        generator = torch.Generator().manual_seed(stable_seed(self.seed, epoch))
        order = torch.randperm(len(self.is_portrait), generator=generator).numpy()
        if len(order) < self.batch_size:
            num_passes = -(-self.batch_size // len(order))
            passes = [(epoch * num_passes + i, int(index)) for i in range(num_passes) for index in order]
            return [passes[: self.batch_size]]
        full, remainders = [], []
        for group in (True, False):
            places = np.flatnonzero(self.is_portrait[order] == group)
            num_full = len(places) // self.batch_size * self.batch_size
            full.append(places[:num_full])
            remainders.append(places[num_full:])
        # In the order of the permutation: which of them sit out must not depend on their aspect.
        mixed = np.sort(np.concatenate(remainders))
        full.append(mixed[: len(mixed) // self.batch_size * self.batch_size])
        batches = order[np.concatenate(full)].reshape(-1, self.batch_size)
        shuffled = batches[torch.randperm(len(batches), generator=generator).numpy()]
        return [[(epoch, index) for index in batch] for batch in shuffled.tolist()]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first_epoch, skipped = divmod(self.start_step, self.steps_per_epoch)
        size = self.batch_size // (self.num_replicas * self.num_micro_batches)
        start = self.rank * self.num_micro_batches * size
        for epoch in count(first_epoch):
            for batch in self.epoch_batches(epoch)[skipped:]:
                for i in range(self.num_micro_batches):
                    yield batch[start + i * size : start + (i + 1) * size]
            skipped = 0


class EvalBatchSampler(Sampler[list[int]]):
    """The share of one rank of the evaluation images, each image on exactly one rank, as lists of indices.

    Nothing is repeated to even the ranks out, which may differ by one image (and so by one batch: no
    collective may be called per batch).

    Args:
        image_sizes_hw: (N, 2).
        batch_size: images of one batch on one rank; the last may be smaller.
        group_by_aspect: batch images of similar aspect, which saves padding; False keeps the given order.
    """

    def __init__(
        self,
        image_sizes_hw: NDArray[np.int64],
        batch_size: int,
        num_replicas: int,
        rank: int,
        group_by_aspect: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be within 0 and num_replicas - 1 = {num_replicas - 1}, got {rank}")
        self.batch_size, self.num_replicas, self.rank = batch_size, num_replicas, rank
        self.group_by_aspect = group_by_aspect
        order = np.arange(len(image_sizes_hw))
        if group_by_aspect:
            order = np.argsort(image_sizes_hw[:, 0] / image_sizes_hw[:, 1], kind="stable")
        self.indices: list[int] = order[rank::num_replicas].tolist()

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield self.indices[start : start + self.batch_size]
