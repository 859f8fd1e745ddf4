"""DETR and Deformable DETR side by side: small ones, each with its criterion and all that trains it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sparse_rcnn.architecture import build
from sparse_rcnn.criterion import Criterion
from sparse_rcnn.distributed import World
from sparse_rcnn.engine import Learner, LoopSettings
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.query_detector import QueryDetector
from sparse_rcnn.schedule import WarmupMultiStep
from sparse_rcnn.structures import Batch
from tests.support.deformable_detr import deformable_architecture, deformable_criterion
from tests.support.detectors import images_of, random_targets
from tests.support.detr import detr_architecture, detr_criterion

SETTINGS = LoopSettings(
    num_steps=4,
    num_steps_per_epoch=2,
    num_micro_batches=1,
    clip_norm=0.1,
    precision="fp32",
    channels_last=False,
    log_every=1,
    eval_every=None,
    checkpoint_every=None,
)


@dataclass(frozen=True)
class Kind:
    """One of the detectors, by its description and its criterion."""

    architecture: Callable[..., dict[str, Any]]
    criterion: Callable[[], Criterion]

    def card(self, *names: str, **changes: Any) -> ModelCard:
        """Of a small detector of these classes."""
        categories = [{"id": 2 * i + 1, "name": name} for i, name in enumerate(names)]
        node = self.architecture(num_classes=len(names), **changes)
        return ModelCard(node, categories, short_side=64, max_long_side=96)

    def detector(self, card: ModelCard, seed: int = 0) -> QueryDetector:
        """A small detector, none of whose numbers is the zero that it starts with."""
        torch.manual_seed(seed)
        model: QueryDetector = build(card.architecture)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.card = card
        return model.eval()

    def learner(self, num_classes: int = 4, seed: int = 0, **changes: Any) -> Learner:
        """All that trains a small detector of drawn weights."""
        torch.manual_seed(seed)
        model = build(self.architecture(num_classes=num_classes, **changes))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
        schedule = WarmupMultiStep(SETTINGS.num_steps, "steps", [0.9], 0.1, 0, 1.0)
        world = World(0, 1, torch.device("cpu"))
        return Learner(model.train(), self.criterion(), optimizer, schedule, None, SETTINGS, world)


KINDS = {
    "detr": Kind(detr_architecture, detr_criterion),
    "deformable_detr": Kind(deformable_architecture, deformable_criterion),
}


def batch_of(counts: list[int], num_classes: int = 4, size_hw: tuple[int, int] = (64, 80), seed: int = 0) -> Batch:
    """Noise images of one size with so many boxes each."""
    images, sizes = images_of([size_hw] * len(counts), seed=seed)
    images = images[..., : size_hw[0], : size_hw[1]]
    targets = random_targets(counts, sizes, num_classes, seed)
    return Batch(images, sizes, sizes, tuple(range(len(counts))), targets)
