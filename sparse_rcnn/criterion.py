"""The interface of a loss to the training loop: named parts, and the counts that they are divided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from sparse_rcnn.structures import Targets

Share = tuple[float, ...]
"""Counts of a whole step, averaged over the processes, in the order of ``Criterion.counts``."""


@dataclass(frozen=True)
class Losses:
    """Weighted losses by part, each (S,): one entry per stage, one alone where a detector has no stages."""

    parts: Mapping[str, Tensor]

    def __getitem__(self, part: str) -> Tensor:
        return self.parts[part]

    @property
    def total(self) -> Tensor:
        """The scalar that is minimised: the sum over parts and stages."""
        return reduce(add, (part.sum() for part in self.parts.values()))

    def stacked(self) -> Tensor:
        """(parts, S), detached. One tensor to read back, whenever somebody wants to."""
        return torch.stack(tuple(self.parts.values())).detach()


class Criterion(nn.Module):
    """The loss of a detector's output.

    Attributes:
        part_names: of the losses, in their order.
        has_stages: whether the parts have one entry for each stage of the detector.
        output_kind: of the detectors whose output it reads. Empty: of any.
    """

    part_names: tuple[str, ...]
    has_stages: bool
    output_kind: str = ""

    def counts(self, targets: Targets) -> tuple[float, ...]:
        """The divisors of sums over a micro-batch, of this micro-batch.

        The loop adds them up over the micro-batches and processes of a step, so that the losses of a step do not depend
        on how it is cut.
        """
        raise NotImplementedError

    def forward(self, output: Any, targets: Targets, image_sizes_hw: Tensor, share: Share) -> Losses:
        """Compare.

        Args:
            output: of the detector for N images.
            targets: of the N images.
            image_sizes_hw: (N, 2), unpadded.
            share: counts of the whole step per process.
        """
        raise NotImplementedError
