"""A tiny detector with all that trains it and its first batches, and a writer that keeps what it is told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor, nn

from experiments.config.build import build_datasets, with_num_classes
from experiments.config.validation import validate
from experiments.run.training import build_training
from sparse_rcnn.distributed import World
from sparse_rcnn.engine import Learner, LoopSettings, train_steps, training_step
from sparse_rcnn.interrupt import StopRequest
from sparse_rcnn.runlog import Writer
from sparse_rcnn.step_log import StepLog
from sparse_rcnn.structures import Batch
from tests.support import training

WORLD = World(0, 1, torch.device("cpu"))


SETTINGS = LoopSettings(
    num_steps=6,
    num_steps_per_epoch=4,
    num_micro_batches=1,
    clip_norm=1.0,
    precision="fp32",
    channels_last=False,
    log_every=1,
    eval_every=None,
    checkpoint_every=None,
)


class Recorder(Writer):
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, float, dict[str, float]]] = []

    def log(self, event: str, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        self.events.append((event, step, epoch, dict(metrics)))

    def metric(self, name: str) -> list[float]:
        return [metrics[name] for _, _, _, metrics in self.events]


@dataclass
class Setup:
    """A tiny detector with all that trains it, the same in every test."""

    learner: Learner
    batches: list[Batch]

    @property
    def model(self) -> nn.Module:
        return self.learner.model

    def step(self, settings: LoopSettings = SETTINGS, num_boxes: float | None = None) -> Tensor:
        """Losses of one step; the gradients stay on the model."""
        count = sum(b.targets.num_boxes for b in self.batches) if num_boxes is None else num_boxes
        self.learner.settings = settings
        return training_step(self.learner, self.batches, (count,))

    def train(
        self,
        settings: LoopSettings = SETTINGS,
        batches: Iterator[Batch] | None = None,
        steps: range | None = None,
        stop: StopRequest | None = None,
    ) -> Recorder:
        recorder, self.learner.settings = Recorder(), settings
        log = StepLog(
            WORLD,
            [recorder],
            settings.num_steps,
            settings.num_steps_per_epoch,
            settings.log_every,
            self.learner.criterion,
        )
        chosen = range(settings.num_steps) if steps is None else steps
        train_steps(self.learner, batches or cycle(self.batches), chosen, log, stop or StopRequest())
        return recorder

    def gradients(self) -> dict[str, Tensor]:
        return {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}


def setup(*overrides: str, num_micro_batches: int = 1, num_steps: int = 1) -> Setup:
    """The detector and the batches of its first steps, the global batch cut into micro-batches."""
    arguments = training.overrides(training.data_root().parent / "unused", *overrides)
    config = validate(training.composed([*arguments, f"train.num_micro_batches={num_micro_batches}"]))
    train_set, val_set = build_datasets(config)
    built = build_training(with_num_classes(config, train_set.num_classes), train_set, val_set, WORLD)
    built.model.train()
    batches = built.batches.from_step(0)
    return Setup(built.learner, [next(batches) for _ in range(num_steps * num_micro_batches)])


def relative_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Of all gradients: the norm of the difference over the norm."""
    assert a.keys() == b.keys()
    difference = math.sqrt(sum(float((a[n] - b[n]).double().square().sum()) for n in a))
    return difference / math.sqrt(sum(float(a[n].double().square().sum()) for n in a))
